//! What there is on the host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use virt_unlock::cancel::Cancel;
use virt_unlock::facts::{DevNum, DomainState, MountState, PoolState};
use virt_unlock::host::{CloseError, Header, OpenError, User};
use virt_unlock::secret::Secret;

use super::faults::Fault;
use super::masters::{Derived, FakeMaster};
use super::person::Answer;
use super::tokens::FakeToken;

/// Everything on the host. Tests change it as they like by `FakeHost::set`.
pub struct World {
    /// By the name that the tests' configuration gives them; the device is `/dev/vg0/NAME`.
    pub volumes: BTreeMap<String, FakeVolume>,
    /// By name; the header is `/etc/virt-unlock/masters/NAME.luks`.
    pub masters: BTreeMap<String, FakeMaster>,
    /// Below `/dev/mapper`: whether it is the volume, or something foreign, and its number.
    pub mappings: BTreeMap<String, (bool, DevNum)>,
    /// Open volumes whose key is not in the kernel any more.
    pub suspended: BTreeSet<String>,
    /// Open volumes whose node udev has not made yet.
    pub nodes_missing: BTreeSet<String>,
    /// What is mounted where, and which volume's filesystem it is.
    pub mounts: BTreeMap<PathBuf, (MountState, String)>,
    /// Mount points that stay empty though the mount says that it worked.
    pub mounts_that_lie: BTreeSet<PathBuf>,
    /// Files in bare mount points.
    pub shadows: BTreeMap<PathBuf, usize>,
    /// Users of an open volume that are no domain, by volume, and whether they keep its filesystem (or the mapping itself).
    pub users: BTreeMap<String, Vec<User>>,
    /// How often a volume's users were looked for.
    pub looks_at_users: usize,
    /// How many more looks at a volume's users until they leave by themselves.
    pub users_leave_after: BTreeMap<String, usize>,
    /// libvirt's pools.
    pub pools: BTreeMap<String, PoolState>,
    /// libvirt's domains. The UUID is `uuid-of-NAME`.
    pub domains: BTreeMap<String, FakeDomain>,
    /// The folder that the memory of guests is saved to is not encrypted.
    pub save_in_the_clear: bool,
    /// libvirt's daemon was there before the folder with what is saved, and does not know of it until it starts the domain.
    pub saves_not_known: bool,
    /// libvirt does not answer for so many more calls.
    pub libvirt_away: usize,
    /// Key files.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Devices with key files on them.
    pub sticks: BTreeMap<PathBuf, BTreeMap<PathBuf, Vec<u8>>>,
    /// Credentials of the unit.
    pub credentials: BTreeMap<String, Vec<u8>>,
    /// The tokens of volumes, and of `master NAME`, in the order of their numbers.
    pub tokens: BTreeMap<String, Vec<FakeToken>>,
    /// Memory without derivations, in bytes.
    pub memory: u64,
    /// libvirt's secrets, by name: whether each is kept in memory alone, and its value.
    pub secrets: BTreeMap<String, (bool, Vec<u8>)>,
    /// Why libvirt does not say which secrets it has.
    pub secrets_error: Option<String>,
    /// What opens the images at these paths; those that are not here cannot be looked at.
    pub images: BTreeMap<PathBuf, Vec<u8>>,
    /// What derivations take now, in bytes.
    pub memory_taken: u64,
    /// The most derivations that ever ran at once.
    pub most_derivations: usize,
    pub(super) derivations: usize,
    /// The kernel keyring's entry of the root disk.
    pub cached: Vec<Secret>,
    /// What the person answers, by volume (or `master NAME`).
    pub script: BTreeMap<String, VecDeque<Answer>>,
    pub(super) silent: BTreeSet<String>,
    pub(super) question_open: Option<String>,
    /// The words of all questions.
    pub questions: Vec<String>,
    pub(super) faults: BTreeMap<String, VecDeque<Fault>>,
    pub(super) held: BTreeSet<String>,
    /// Domains whose start was cancelled in the middle: libvirt goes on with it.
    pub(super) left_behind: BTreeSet<String>,
    /// Raises the flag at the call of this number (from 0), before it does anything or after it is done.
    pub cancel_at: Option<(usize, bool, Cancel)>,
    /// What happens to the host right before a call of this name does anything, once.
    pub right_before: BTreeMap<String, Happening>,
    /// What happens to the host right after a call of this name has ended well, once.
    pub right_after: BTreeMap<String, Happening>,
    /// Who runs is killed: nothing that it calls is heard any more. Its threads end as if they were cancelled.
    pub dead: bool,
    /// How many calls there were.
    pub calls: usize,
    pub(super) log: Vec<(String, What)>,
    pub(super) broken: Vec<String>,
    pub(super) changes: u64,
    pub(super) noticed: u64,
    pub(super) next_minor: u64,
}

/// Something that happens to the host.
pub type Happening = Box<dyn FnOnce(&mut World) + Send>;

/// A point in a call's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It began.
    Begun,
    /// It ended well.
    Worked,
    /// It ended otherwise.
    Failed,
}

/// A LUKS device.
pub struct FakeVolume {
    /// Whether the device is there.
    pub there: bool,
    /// What opens it.
    pub keys: Vec<Vec<u8>>,
    /// What opens one of its keyslots, and no other.
    pub derived: Derived,
    /// Its header.
    pub header: Result<Header, OpenError>,
}

/// A libvirt domain.
#[allow(clippy::struct_excessive_bools)] // each is a thing that a test sets by itself
pub struct FakeDomain {
    /// What it does.
    pub state: DomainState,
    /// libvirt's flag.
    pub autostart: bool,
    /// What its XML names.
    pub sources: Vec<PathBuf>,
    /// What only its image's header names: to be read while that is mounted.
    pub late_sources: Vec<PathBuf>,
    /// The truth: the volumes that it needs, and whether each must be mounted at `/srv/VOLUME`.
    pub needs: Vec<(String, bool)>,
    /// Its memory was saved.
    pub is_saved: bool,
    /// The secrets that its disks need, each with its image and with what opens that.
    pub secrets: Vec<(String, PathBuf, Vec<u8>)>,
    /// Networks that it is on, set to autostart and not active.
    pub networks: Vec<String>,
    /// Whether it has a channel for an agent.
    pub has_agent: bool,
    /// What it takes to make it shut down.
    pub hears: Hears,
    pub(super) buttons: usize,
    /// Paused again as soon as it is resumed: its disk is full.
    pub cannot_resume: bool,
    /// Stuck in the kernel: not even destroying it ends it.
    pub survives_destroy: bool,
}

/// What a guest listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// The n-th press of the power button.
    Button(usize),
    /// Its agent alone.
    Agent,
    /// Nothing.
    Nothing,
}

impl Default for World {
    fn default() -> Self {
        Self {
            volumes: BTreeMap::new(),
            masters: BTreeMap::new(),
            mappings: BTreeMap::new(),
            mounts: BTreeMap::new(),
            suspended: BTreeSet::new(),
            nodes_missing: BTreeSet::new(),
            mounts_that_lie: BTreeSet::new(),
            shadows: BTreeMap::new(),
            users: BTreeMap::new(),
            looks_at_users: 0,
            users_leave_after: BTreeMap::new(),
            pools: BTreeMap::new(),
            domains: BTreeMap::new(),
            save_in_the_clear: false,
            saves_not_known: false,
            libvirt_away: 0,
            files: BTreeMap::new(),
            sticks: BTreeMap::new(),
            credentials: BTreeMap::new(),
            tokens: BTreeMap::new(),
            secrets: BTreeMap::new(),
            secrets_error: None,
            images: BTreeMap::new(),
            memory: 1 << 40,
            memory_taken: 0,
            most_derivations: 0,
            derivations: 0,
            cached: Vec::new(),
            script: BTreeMap::new(),
            silent: BTreeSet::new(),
            question_open: None,
            questions: Vec::new(),
            faults: BTreeMap::new(),
            held: BTreeSet::new(),
            left_behind: BTreeSet::new(),
            cancel_at: None,
            right_before: BTreeMap::new(),
            right_after: BTreeMap::new(),
            dead: false,
            calls: 0,
            log: Vec::new(),
            broken: Vec::new(),
            changes: 0,
            noticed: 0,
            next_minor: 0,
        }
    }
}

impl World {
    /// The next call of this name has this fault.
    pub fn fault(&mut self, call: &str, fault: Fault) {
        self.faults.entry(call.to_owned()).or_default().push_back(fault);
    }

    /// Nothing goes wrong from here on.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// How many times a call has begun.
    pub fn begun(&self, call: &str) -> usize {
        self.log
            .iter()
            .filter(|(name, what)| name == call && *what == What::Begun)
            .count()
    }

    /// How many times a call has ended well.
    pub fn worked(&self, call: &str) -> usize {
        self.log
            .iter()
            .filter(|(name, what)| name == call && *what == What::Worked)
            .count()
    }

    pub(super) fn is_open(&self, volume: &str) -> bool {
        self.mappings.get(volume).is_some_and(|(ours, _)| *ours)
    }

    pub(super) fn is_mounted(&self, volume: &str) -> bool {
        self.mounts
            .values()
            .any(|(state, of)| *state == MountState::Ours && of == volume)
    }

    /// Opens it, as by `cryptsetup open`.
    pub fn map(&mut self, volume: &str, ours: bool) {
        let number = DevNum {
            major: 253,
            minor: self.next_minor,
        };
        self.next_minor += 1;
        self.mappings.insert(volume.to_owned(), (ours, number));
    }

    /// Mounts a volume's filesystem at `/srv/VOLUME`, as by mount(8).
    pub fn mount(&mut self, volume: &str) {
        let at = Path::new("/srv").join(volume);
        self.mounts.insert(at, (MountState::Ours, volume.to_owned()));
    }

    /// The domains that run on a volume.
    pub(super) fn guests_on<'a>(&'a self, volume: &'a str) -> impl Iterator<Item = &'a String> {
        let uses = move |domain: &FakeDomain| domain.state.is_active() && domain.needs.iter().any(|(name, _)| name == volume);
        self.domains
            .iter()
            .filter(move |(_, domain)| uses(domain))
            .map(|(name, _)| name)
    }

    pub(super) fn users_of(&self, volume: &str) -> Vec<User> {
        let guests = self.guests_on(volume).map(|name| User::Process {
            pid: 1000,
            comm: "qemu-system-x86".to_owned(),
            path: Path::new("/dev/mapper").join(volume),
            how: "file",
            machine: Some(format!("machine-qemu\\x2d1\\x2d{name}.scope")),
        });
        guests.chain(self.users.get(volume).into_iter().flatten().cloned()).collect()
    }

    /// What the kernel says to a close.
    pub(super) fn close(&mut self, volume: &str) -> Result<(), CloseError> {
        match self.mappings.get(volume) {
            None => return Ok(()),
            Some((false, _)) => self.broken.push(format!("closed the foreign mapping {volume}")),
            Some((true, _)) => {}
        }
        if self.is_mounted(volume) || !self.users_of(volume).is_empty() {
            return Err(CloseError::Busy);
        }
        self.mappings.remove(volume);
        self.changes += 1;
        Ok(())
    }
}
