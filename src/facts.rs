//! What the machine says right now: devices, mappings, mounts, domains, pools, secrets. Read afresh each time, never kept in a file.
//! Plain data; [`crate::host`] fills it, [`crate::plan`] judges it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

pub mod survey;

/// A block device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNum {
    /// The driver.
    pub major: u64,
    /// The device of that driver.
    pub minor: u64,
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Everything the planner needs to know of the machine.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// For each configured volume, by name.
    pub volumes: BTreeMap<String, VolumeFacts>,
    /// What libvirt says; `None`: it was not asked, or does not answer.
    pub libvirt: Option<LibvirtFacts>,
    /// Why libvirt did not answer, where it was asked.
    pub libvirt_error: Option<String>,
}

/// A configured volume as the machine has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFacts {
    /// The encrypted device, where it is there.
    pub device: Option<Device>,
    /// What has the volume's name below `/dev/mapper`.
    pub mapping: Mapping,
    /// Whether its node is there: udev makes it a moment after the kernel has the mapping.
    pub node: bool,
    /// What is mounted at the volume's mount point.
    pub mount: MountState,
}

impl VolumeFacts {
    /// Whether the volume is open and can be used.
    pub fn is_open(&self) -> bool {
        matches!(self.mapping, Mapping::Open(_)) && self.node
    }
}

/// A block device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The path that the configuration's words lead to.
    pub path: PathBuf,
    /// Its number; `None`: a plain file (a detached header, a test).
    pub number: Option<DevNum>,
}

/// What has a volume's name below `/dev/mapper`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing: the volume is closed.
    #[default]
    None,
    /// The volume itself: open.
    Open(DevNum),
    /// Something else that we never touch; the words say what it is.
    Foreign(String),
}

/// What is mounted at a mount point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MountState {
    /// Nothing.
    #[default]
    None,
    /// The volume's own filesystem.
    Ours,
    /// Something else; the words say what it is.
    Foreign(String),
}

/// What libvirt says.
#[derive(Clone, Debug, Default)]
pub struct LibvirtFacts {
    /// All its domains.
    pub domains: Vec<DomainFacts>,
    /// Its storage pools, by name.
    pub pools: BTreeMap<String, PoolState>,
    /// The folders of the pools that are one (`dir`), by the pools' names.
    pub pool_folders: BTreeMap<String, PathBuf>,
    /// Why nothing is known of its pools, though its domains are known: they have to be stopped all the same.
    pub pools_error: Option<String>,
    /// Its secrets, where a domain's XML refers to one.
    pub secrets: Vec<SecretFacts>,
    /// Why nothing is known of its secrets.
    pub secrets_error: Option<String>,
}

/// What libvirt knows a secret by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretId {
    /// Its UUID, in lower case and with dashes.
    Uuid(String),
    /// What it is used for: the text in `<usage type='volume'><volume>…`.
    Usage(String),
}

impl SecretId {
    /// From how a person writes it: what libvirt would take for a UUID is one (`virUUIDParse`).
    pub fn of(name: &str) -> Self {
        let digits: String = name.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Self::Usage(name.to_owned());
        }
        let digits = digits.to_ascii_lowercase();
        let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        Self::Uuid(parts.join("-"))
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Uuid(name) | Self::Usage(name)) = self;
        f.write_str(name)
    }
}

/// A secret that libvirt has. Its value is not to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFacts {
    /// Its UUID.
    pub uuid: String,
    /// What it is used for, where that is the disk of a guest.
    pub usage: Option<String>,
    /// Whether libvirt keeps it in memory alone. Any other lies on the host's disk, its value too.
    pub ephemeral: bool,
}

/// A secret that a domain's XML refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// Which.
    pub id: SecretId,
    /// The image that it is the passphrase of; `None`: it is not on this host.
    pub image: Option<PathBuf>,
    /// The image's format, as the XML says it; `None`: libvirt takes it for raw.
    pub format: Option<String>,
}

impl LibvirtFacts {
    /// The secret, where libvirt has it.
    pub fn secret(&self, id: &SecretId) -> Option<&SecretFacts> {
        self.secrets.iter().find(|secret| match id {
            SecretId::Uuid(uuid) => secret.uuid == *uuid,
            SecretId::Usage(usage) => secret.usage.as_ref() == Some(usage),
        })
    }
}

/// A storage pool's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Not active.
    Inactive,
    /// Active, but it has read another filesystem than the one that is in its folder now. libvirt's daemon takes each folder that
    /// exists for an active pool when it starts (`virStorageBackendFileSystemCheck`), so this is how a pool begins whose mount
    /// comes later.
    Stale,
    /// Active.
    Active,
}

/// A libvirt domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is an answer of libvirt's to a question of its own
pub struct DomainFacts {
    /// Its name.
    pub name: String,
    /// Its UUID, by which it is looked up (a name can pass to another domain).
    pub uuid: String,
    /// What it does now.
    pub state: DomainState,
    /// libvirt's autostart flag.
    pub autostart: bool,
    /// Every path on the host that its disks and files reach, backing chains included.
    pub sources: Vec<Source>,
    /// Whether its XML has `<on_poweroff>restart</on_poweroff>`: it would never stop.
    pub restarts_on_poweroff: bool,
    /// Whether its memory was saved (managed save): its start goes on from there.
    pub is_saved: bool,
    /// Whether its XML has a channel for a guest agent.
    pub has_agent: bool,
    /// The secrets that its encrypted disks need, each with its disk.
    pub secrets: Vec<SecretUse>,
}

/// A place on the host that a domain uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the XML or the image's header spells it (a pool volume: its path).
    pub path: PathBuf,
    /// With every symbolic link that exists now followed.
    pub resolved: PathBuf,
    /// The number of the block device, where it is one and there.
    pub number: Option<DevNum>,
    /// The pool, where the XML names one.
    pub pool: Option<String>,
}

/// A domain's state, in virsh's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DomainState {
    /// `running`
    Running,
    /// `idle`: it waits for input or output.
    Blocked,
    /// `paused`
    Paused(Pause),
    /// `in shutdown`
    ShuttingDown,
    /// `shut off`
    #[default]
    ShutOff,
    /// `crashed`
    Crashed,
    /// `pmsuspended`
    PmSuspended,
    /// `no state`
    NoState,
}

/// Why a domain is paused, as far as that says what can be done about it (`virDomainPausedReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// A person paused it, or its watchdog, or nobody knows: once resumed it goes on.
    Ordered,
    /// Its disk could not be written or read. Once resumed it tries that again.
    IoError,
    /// libvirt holds it while it saves, dumps or moves it, and lets it go on by itself.
    Held,
    /// It has crashed, and its process was kept to be looked at: it never goes on.
    Crashed,
}

impl DomainState {
    /// Whether a process of the domain exists that holds its disks open (virDomainIsActive).
    pub fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff | Self::Crashed)
    }

    /// virsh's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Blocked => "idle",
            Self::Paused(Pause::Ordered | Pause::IoError | Pause::Held) => "paused",
            Self::ShuttingDown => "in shutdown",
            Self::ShutOff => "shut off",
            Self::Crashed | Self::Paused(Pause::Crashed) => "crashed",
            Self::PmSuspended => "pmsuspended",
            Self::NoState => "no state",
        }
    }
}

impl Facts {
    /// libvirt's domains by their names, for who looks up many.
    pub fn domains_by_name(&self) -> HashMap<&str, &DomainFacts> {
        let domains = self.libvirt.iter().flat_map(|libvirt| &libvirt.domains);
        domains.map(|domain| (domain.name.as_str(), domain)).collect()
    }

    /// The UUID of each domain, by its name.
    pub fn domain_uuids(&self) -> BTreeMap<String, String> {
        let domains = self.libvirt.iter().flat_map(|libvirt| &libvirt.domains);
        domains.map(|domain| (domain.name.clone(), domain.uuid.clone())).collect()
    }
}
