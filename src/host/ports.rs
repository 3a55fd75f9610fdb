//! What may be asked of the machine. Each trait's comments are the promise that the real adapter and the fake one both keep.
//!
//! Everything that can wait takes a [`Cancel`] and comes back soon after it is raised. Everything may be called from many
//! threads at once.

mod hypervisor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lock::Lock;
use super::tokens::OtherToken;
use crate::cancel::Cancel;
use crate::config::{DeviceSpec, KeyFile, Master, Mount, Volume};
use crate::facts::{Device, Mapping, MountState, VolumeFacts};
use crate::secret::Secret;

pub use hypervisor::{Hypervisor, HypervisorError, ShutdownMode};

/// Block devices, mappings and mounts as the kernel has them. Reads only.
pub trait Devices: Send + Sync {
    /// The device that the configuration's words lead to, if it is there now.
    fn find(&self, spec: &DeviceSpec) -> Option<Device>;

    /// The same where the device is to have a filesystem, whose UUID or label it is then.
    fn find_filesystem(&self, spec: &DeviceSpec) -> Option<Device> {
        self.find(spec)
    }

    /// What has the volume's name below `/dev/mapper`: ours only if it is crypt, lies on `device` (where that is known), and
    /// has the LUKS UUID of the volume's header (where that can be read).
    fn mapping(&self, volume: &Volume, device: Option<&Device>) -> Mapping;

    /// Whether the open volume's node below `/dev/mapper` is there.
    fn has_node(&self, volume: &Volume) -> bool;

    /// What is mounted at `mount`, judged by device number: the volume's own filesystem only if it is on `mapping`.
    fn mount_state(&self, mount: &Mount, mapping: &Mapping) -> MountState;

    /// How many entries the bare directory of a mount point has; zero too where it does not exist.
    fn entries_below(&self, at: &Path) -> usize;

    /// Who keeps the open volume busy: device-mapper holders on top of it, mounts of it in every mount namespace, processes with
    /// open files, working directories or maps on it or on its filesystem.
    fn users(&self, volume: &Volume) -> Vec<User>;

    /// Those of these guests that run, by what their processes say of themselves: libvirt is not asked.
    fn running_guests(&self, names: &BTreeSet<String>) -> BTreeSet<String>;

    /// Why what is written below `path` may reach a disk in the clear, in words. `None`: LUKS is below all of its filesystem.
    fn clear_disk(&self, path: &Path) -> Option<String>;

    /// Memory that can be had now without swapping, in bytes (`MemAvailable`, `proc_meminfo(5)`).
    fn memory_available(&self) -> u64;

    /// Waits until a block device or a mount may have come or gone since the call before, `limit` is over, or `cancel` is raised.
    /// May come back early. One thread at a time calls it.
    fn wait_for_change(&self, limit: Duration, cancel: &Cancel);

    /// All of a volume's facts.
    fn volume_facts(&self, volume: &Volume) -> VolumeFacts {
        let device = self.find(&volume.device);
        let mapping = self.mapping(volume, device.as_ref());
        let mount = volume
            .mount
            .as_ref()
            .map(|mount| self.mount_state(mount, &mapping))
            .unwrap_or_default();
        let node = self.has_node(volume);
        VolumeFacts {
            device,
            mapping,
            node,
            mount,
        }
    }

    /// The facts of all these volumes, by their names: the same as each one's [`Devices::volume_facts`], for less.
    fn facts_of(&self, volumes: &[Volume]) -> BTreeMap<String, VolumeFacts> {
        let facts = |volume: &Volume| (volume.name.clone(), self.volume_facts(volume));
        volumes.iter().map(facts).collect()
    }
}

/// One that keeps a volume busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A device on top: a guest's logical volume, kpartx, …
    Holder {
        /// Its kernel name (`dm-7`).
        name: String,
        /// Its device-mapper name, where it is one (`guestvg-root`).
        mapping: Option<String>,
        /// Its device-mapper UUID, where it has one: `LVM-…`, `part1-…`.
        uuid: Option<String>,
    },
    /// A mount of it.
    Mounted {
        /// Where.
        at: PathBuf,
        /// A process whose mount namespace has it; `None`: ours.
        namespace_of: Option<i32>,
    },
    /// A process.
    Process {
        /// Its number.
        pid: i32,
        /// Its name (`proc_pid_comm(5)`).
        comm: String,
        /// What it has there: a path.
        path: PathBuf,
        /// How: `file`, `working directory`, `root`, `map`.
        how: &'static str,
        /// The machine's scope that it belongs to, where it is a guest (`machine-qemu\x2d1\x2dweb.scope`).
        machine: Option<String>,
    },
}

/// LUKS volumes.
pub trait Volumes: Send + Sync {
    /// Reads the header.
    fn probe(&self, volume: &Volume, device: &Path, cancel: &Cancel) -> Result<Header, OpenError>;

    /// Opens the volume as `/dev/mapper/NAME` with one key. Costs one derivation for each keyslot that is tried.
    /// It is open when this returns `Ok`, and its node exists.
    fn open(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError>;

    /// Reads the header of a master; what is not LUKS2 is none.
    fn probe_master(&self, master: &Master, cancel: &Cancel) -> Result<Header, OpenError>;

    /// The volume key of the master's header. Costs one derivation for each keyslot that is tried.
    fn open_master(&self, master: &Master, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError>;

    /// Reads the LUKS header in an image of QEMU's. [`OpenError::Header`]: it has none that can be read.
    fn probe_image(&self, image: &Image, cancel: &Cancel) -> Result<Header, OpenError>;

    /// Looks whether the passphrase opens an image of QEMU's, and opens nothing. Costs one derivation for each keyslot.
    fn check_image(&self, image: &Image, passphrase: &Secret, cancel: &Cancel) -> Result<(), OpenError>;

    /// The bytes of a key file or a credential.
    fn read_key(&self, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError>;

    /// Closes it. `Ok` too if it was closed already. Never forces, never defers.
    fn close(&self, name: &str, cancel: &Cancel) -> Result<(), CloseError>;

    /// Takes its key out of the kernel while it stays mapped: whatever reads or writes there waits from then on
    /// (`cryptsetup luksSuspend`).
    fn suspend(&self, volume: &Volume, cancel: &Cancel) -> Result<(), CloseError>;
}

/// Changes of LUKS2 headers. Each is one step: it is done wholly, on the disk, when it returns `Ok`, and an end in the middle (`kill -9`,
/// a power cut) leaves the header as it was or as it is then.
pub trait Headers: Volumes {
    /// Looks whether the key opens the volume, and opens nothing. Costs what opening costs.
    fn check(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError>;

    /// Makes the header of a master, with one keyslot for this key, in a file that nobody else has yet. Never writes over a file. Gives
    /// the UUID.
    fn create_master(&self, header: &Path, key: &Key, cancel: &Cancel) -> Result<String, OpenError>;

    /// Adds a keyslot for a key that was derived from a master's, with the cheapest derivation that there is; `with` is a key that the
    /// volume has already. Gives its number.
    fn add_keyslot(&self, volume: &Volume, device: &Path, with: &Key, new: &Secret, cancel: &Cancel) -> Result<u32, OpenError>;

    /// Marks the keyslot as that of the master with this UUID.
    fn add_token(&self, volume: &Volume, device: &Path, master: &str, keyslot: u32, cancel: &Cancel) -> Result<(), OpenError>;

    /// Wipes a keyslot. libcryptsetup takes it off the tokens that name it.
    fn remove_keyslot(&self, volume: &Volume, device: &Path, keyslot: u32, cancel: &Cancel) -> Result<(), OpenError>;

    /// Removes a master's token.
    fn remove_token(&self, volume: &Volume, device: &Path, token: u32, cancel: &Cancel) -> Result<(), OpenError>;
}

/// An image of a guest's disk, encrypted by QEMU itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where.
    pub path: PathBuf,
    /// Whether it is qcow2, with the LUKS header somewhere inside; otherwise it begins with that.
    pub qcow2: bool,
}

/// What opens a volume.
#[derive(Clone, Debug)]
pub enum Key {
    /// A passphrase.
    Passphrase(Secret),
    /// Bytes of a file.
    File {
        /// The file.
        file: KeyFile,
        /// Where the device is now that the file lies on, where it has one: it is mounted for as long as the file is read.
        device: Option<PathBuf>,
    },
    /// A key that was derived from a master's.
    Derived {
        /// The key.
        key: Secret,
        /// The keyslot that it opens: this one alone is tried.
        keyslot: u32,
    },
    /// The bytes of a credential of systemd's (systemd.exec(5)).
    Credential {
        /// Its name.
        name: String,
    },
    /// What the header's tokens give. It may wait for a person who touches a stick.
    Token {
        /// The token that is tried; `None`: all, in their order.
        token: Option<u32>,
        /// Its PIN.
        pin: Option<Secret>,
    },
}

impl Key {
    /// Whether it is tried on this keyslot of the header.
    pub fn is_tried_on(&self, header: &Header, number: u32) -> bool {
        match self {
            Self::Derived { keyslot, .. } => *keyslot == number,
            Self::Token { token, .. } => {
                let tried = |other: &&OtherToken| token.is_none_or(|token| token == other.number);
                let mut others = header.others.iter().filter(tried);
                others.any(|other| other.keyslots.contains(&number))
            }
            Self::Passphrase(_) | Self::File { .. } | Self::Credential { .. } => true,
        }
    }
}

/// What a LUKS header says.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    /// The LUKS UUID.
    pub uuid: String,
    /// The cipher of its data, without its mode: `aes`, `serpent`, …
    pub cipher: String,
    /// The keyslots that are in use.
    pub keyslots: Vec<Keyslot>,
    /// The masters that it is enrolled with.
    pub tokens: Vec<MasterToken>,
    /// The tokens of other programs.
    pub others: Vec<OtherToken>,
    /// The keyslots that a token names, ours or that of another program.
    pub marked: Vec<u32>,
    /// Tokens of our type that cannot be used, in words: damaged ones, and those of a newer version of this program.
    pub strange_tokens: Vec<String>,
}

/// A keyslot in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Keyslot {
    /// Its number.
    pub number: u32,
    /// `argon2id`, `argon2i` or `pbkdf2`.
    pub kdf: String,
    /// What one derivation takes, in KiB; 0 for `pbkdf2`.
    pub memory_kib: u64,
    /// Argon2's passes, or the iterations of PBKDF2.
    pub cost: u64,
    /// Threads of one derivation.
    pub threads: u32,
}

/// A LUKS2 token of the type `virt-unlock-master`: by which keyslot a master opens the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MasterToken {
    /// Its number.
    pub number: u32,
    /// The version of its format.
    pub version: u32,
    /// The LUKS UUID of the master's header, in lower case.
    pub master: String,
    /// The keyslot with the derived key; `None`: it was removed, and libcryptsetup took it off the token.
    pub keyslot: Option<u32>,
}

/// Why a volume did not open. Only [`OpenError::WrongKey`] is a try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum OpenError {
    /// `EPERM`; for a derived key also that its keyslot is not in use; for a token that its PIN is wrong.
    #[error("no keyslot opens with this key")]
    WrongKey,
    /// `ENOMEM`, or the worker was killed for its memory.
    #[error("not enough memory to derive the key: {0}")]
    Memory(String),
    /// `ENODEV`, `ENXIO`, `ENOENT` for the device.
    #[error("the device is gone: {0}")]
    DeviceGone(String),
    /// `EBUSY`: somebody else has the device.
    #[error("the device is in use: {0}")]
    Busy(String),
    /// `EEXIST`: the name is taken since we looked.
    #[error("/dev/mapper/{0} exists already")]
    Exists(String),
    /// `EINVAL` on loading: no LUKS header, or a damaged one.
    #[error("no usable LUKS header: {0}")]
    Header(String),
    /// The key file cannot be read.
    #[error("the key file cannot be read: {0}")]
    KeyFile(String),
    /// What should give the key does not; the words say what is missing and what to do.
    #[error("{0}")]
    NoKey(String),
    /// No token gave a key, and some do when they get their PIN.
    #[error("its token asks for a PIN")]
    PinNeeded {
        /// Those.
        tokens: Vec<u32>,
        /// What is to be said of the others.
        others: Option<String>,
    },
    /// Cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Over its limit, or anything else that has words.
    #[error("{0}")]
    Other(String),
}

/// Why a volume did not close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum CloseError {
    /// `EBUSY`
    #[error("still in use")]
    Busy,
    /// Cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The person who types passphrases.
pub trait Questions: Send + Sync {
    /// Waits until no other process of this program has a question open; `say` hears that one has. Nobody else puts one until what this
    /// gives is dropped; `None`: nobody can tell.
    fn alone(&self, _say: &dyn Fn(), _cancel: &Cancel) -> Result<Option<Lock>, QuestionError> {
        Ok(None)
    }

    /// Puts one question and waits for its answer, as long as that takes. Leaves no question behind, however it ends.
    fn ask(&self, question: &Question, cancel: &Cancel) -> Result<Secret, QuestionError>;

    /// Passphrases that somebody typed a moment ago for the root disk (the kernel keyring's `user` key `cryptsetup`, which
    /// systemd keeps for 150 s). Empty where there are none. Never written to.
    fn cached(&self) -> Vec<Secret>;
}

/// A question. Its words are one line without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the person reads.
    pub words: String,
    /// `cryptsetup:<device path>`: by this, agents such as clevis' know what is asked for.
    pub id: String,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// An agent declined for good. Ctrl+D at the console or a terminal does not: there it only skips to the next open question,
    /// and this one comes back.
    #[error("the question was cancelled")]
    Declined,
    /// Cancelled by the program.
    #[error("cancelled")]
    Cancelled,
    /// It could not be put.
    #[error("cannot ask: {0}")]
    Failed(String),
}

/// Filesystems on open volumes.
pub trait Mounts: Send + Sync {
    /// Checks and mounts the open volume's filesystem. It is mounted when this returns `Ok`; the caller checks by device number.
    fn mount(&self, volume: &Volume, mount: &Mount, cancel: &Cancel) -> Result<(), MountError>;

    /// Unmounts. `Ok` too if nothing was mounted. Never forces, never detaches lazily.
    fn unmount(&self, mount: &Mount, cancel: &Cancel) -> Result<(), MountError>;
}

/// Why a filesystem was not mounted, or not unmounted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// `EBUSY` on unmounting.
    #[error("still in use")]
    Busy,
    /// fsck(8) could not repair it by itself.
    #[error("the filesystem needs a repair that a person must decide on: {0}")]
    NeedsRepair(String),
    /// Cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The network, as this host reaches it.
pub trait Network: Send + Sync {
    /// Makes a TCP connection and closes it again; waits a few seconds for it. `Err`: why there is none, in words; also when cancelled.
    fn connect(&self, host: &str, port: u16, cancel: &Cancel) -> Result<(), String>;
}
