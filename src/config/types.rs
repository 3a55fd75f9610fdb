//! What the configuration says, after it was read and checked: every name known, every duration a number, every default filled in.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secret::SecretConfig;

/// The whole configuration: `/etc/virt-unlock/config.toml` and `config.d/*.toml` together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[host]`
    pub host: HostConfig,
    /// `[volume.NAME]`, in the order in which they stand in the files.
    pub volumes: Vec<Volume>,
    /// `[master.NAME]`, in the order in which they stand in the files.
    pub masters: Vec<Master>,
    /// `[secret.NAME]`, in the order in which they stand in the files.
    pub secrets: Vec<SecretConfig>,
    /// `[domain.NAME]`, in the order in which they stand in the files.
    pub domains: Vec<DomainConfig>,
}

impl Config {
    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// The master of this name.
    pub fn master(&self, name: &str) -> Option<&Master> {
        self.masters.iter().find(|master| master.name == name)
    }

    /// Its tables by their names, for who looks up many.
    pub fn by_name(&self) -> ByName<'_> {
        ByName {
            volumes: self.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect(),
            domains: self.domains.iter().map(|domain| (domain.name.as_str(), domain)).collect(),
        }
    }

    /// The same for those to whom it is all one who opens a volume, and when: none is `noauto`.
    #[must_use]
    pub fn without_noauto(&self) -> Self {
        let mut config = self.clone();
        for volume in &mut config.volumes {
            volume.noauto = false;
        }
        config
    }

    /// Whether the domain of this name is wanted up, given libvirt's own autostart flag of it.
    pub fn wants(&self, domain: &str, autostart: bool) -> bool {
        self.domain(domain)
            .map_or(Start::Autostart, |table| table.start)
            .wants(autostart)
    }

    /// The table of the domain of this name. A domain needs none.
    pub fn domain(&self, name: &str) -> Option<&DomainConfig> {
        self.domains.iter().find(|domain| domain.name == name)
    }
}

/// A configuration's tables by their names: each is found at once, however many there are.
#[derive(Clone, Debug)]
pub struct ByName<'a> {
    volumes: HashMap<&'a str, &'a Volume>,
    domains: HashMap<&'a str, &'a DomainConfig>,
}

impl<'a> ByName<'a> {
    /// As [`Config::volume`].
    pub fn volume(&self, name: &str) -> Option<&'a Volume> {
        self.volumes.get(name).copied()
    }

    /// As [`Config::domain`].
    pub fn domain(&self, name: &str) -> Option<&'a DomainConfig> {
        self.domains.get(name).copied()
    }
}

/// `[host]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Where libvirt listens.
    pub libvirt_uri: String,
    /// How long the boot keeps logins waiting for answers. Zero: never.
    pub hold_login: Duration,
    /// How long a domain may take to shut down, where its own table does not say.
    pub stop_timeout: Duration,
    /// How long the whole way down may take.
    pub stop_deadline: Duration,
}

impl HostConfig {
    /// Where libvirt puts the memory of guests that it saves; `None`: not known for this libvirt.
    pub fn save_folder(&self) -> Option<&'static Path> {
        let is_of_this_host = self.libvirt_uri == "qemu:///system";
        is_of_this_host.then(|| Path::new("/var/lib/libvirt/qemu/save"))
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            libvirt_uri: "qemu:///system".to_owned(),
            hold_login: Duration::from_secs(90),
            stop_timeout: Duration::from_secs(3 * 60),
            stop_deadline: Duration::from_secs(15 * 60),
        }
    }
}

/// `[volume.NAME]`: a LUKS device that is opened as `/dev/mapper/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The name below `/dev/mapper`.
    pub name: String,
    /// The encrypted device.
    pub device: DeviceSpec,
    /// A detached LUKS header.
    pub header: Option<PathBuf>,
    /// Ways to a key, tried in order; never empty.
    pub unlock: Vec<Unlock>,
    /// Volumes of one group share a passphrase.
    pub passphrase_group: Option<String>,
    /// Wrong answers before the volume is given up. Zero: for ever.
    pub tries: u32,
    /// Volumes that must be open first.
    pub after: Vec<String>,
    /// Not opened unless it is named, or needed by what is named.
    pub noauto: bool,
    /// How long to wait for the device to appear.
    pub device_timeout: Duration,
    /// How device-mapper is to run it.
    pub flags: OpenFlags,
    /// Where the filesystem inside is mounted, if it is.
    pub mount: Option<Mount>,
    /// libvirt pools that are started and refreshed once it is mounted.
    pub pools: Vec<String>,
    /// Asked for and opened in the initramfs already, where that was made by dracut with our module.
    pub initramfs: bool,
}

impl Volume {
    /// A volume with the defaults of the configuration: asked for by passphrase, private, not mounted.
    pub fn new(name: &str, device: DeviceSpec) -> Self {
        Self {
            name: name.to_owned(),
            device,
            header: None,
            unlock: vec![Unlock::Passphrase],
            passphrase_group: None,
            tries: 3,
            after: Vec::new(),
            noauto: false,
            device_timeout: Duration::from_secs(90),
            flags: OpenFlags {
                private: true,
                ..OpenFlags::default()
            },
            mount: None,
            pools: Vec::new(),
            initramfs: false,
        }
    }

    /// Whether the master of this name is among its ways.
    pub fn is_opened_by(&self, master: &str) -> bool {
        let names_it = |way: &Unlock| matches!(way, Unlock::Master { name } if name == master);
        self.unlock.iter().any(names_it)
    }

    /// The open volume's device node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }
}

/// `[master.NAME]`: a LUKS2 header without data, whose volume key opens volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its name.
    pub name: String,
    /// The file that is its LUKS header.
    pub header: PathBuf,
    /// Ways to its key, tried in order; never empty, and none is another master.
    pub unlock: Vec<Unlock>,
    /// Wrong answers before the master is given up. Zero: for ever.
    pub tries: u32,
}

impl Master {
    /// A master with the defaults of the configuration: asked for by passphrase.
    pub fn new(name: &str, header: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            header,
            unlock: vec![Unlock::Passphrase],
            tries: 3,
        }
    }
}

/// How the configuration names an encrypted device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// An absolute path.
    Path(PathBuf),
    /// `UUID=`: the LUKS header's.
    Uuid(String),
    /// `PARTUUID=`
    PartUuid(String),
    /// `LABEL=`: the LUKS2 header's.
    Label(String),
    /// `PARTLABEL=`
    PartLabel(String),
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Self::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Self::Label(label) => write!(f, "LABEL={label}"),
            Self::PartLabel(label) => write!(f, "PARTLABEL={label}"),
        }
    }
}

/// One way to a volume's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlock {
    /// Somebody types it.
    Passphrase,
    /// Bytes of a file.
    KeyFile(KeyFile),
    /// A key that is derived from a master's.
    Master {
        /// The master's name.
        name: String,
    },
    /// The bytes of a credential that systemd gives the unit (systemd.exec(5)).
    Credential {
        /// Its name.
        name: String,
    },
    /// What the header's own tokens give: a TPM, a FIDO2 stick, a smart card.
    Token,
}

impl fmt::Display for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase => f.write_str("passphrase"),
            Self::KeyFile(file) => file.fmt(f),
            Self::Master { name } => write!(f, "master {name}"),
            Self::Credential { name } => write!(f, "credential {name}"),
            Self::Token => f.write_str("token"),
        }
    }
}

/// A key that is bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The file: on this host, or in the filesystem on `device`.
    pub path: PathBuf,
    /// Where the key starts in it, in bytes.
    pub offset: u64,
    /// How long the key is, in bytes; `None`: to the end of the file.
    pub size: Option<usize>,
    /// A device that is mounted for as long as the file is read: a USB stick.
    pub device: Option<DeviceSpec>,
    /// How long the device, or the file where there is none, is waited for.
    pub timeout: Duration,
}

impl KeyFile {
    /// The whole of a file that lies on this host, and is there or is not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            offset: 0,
            size: None,
            device: None,
            timeout: Duration::ZERO,
        }
    }

    /// How long it is waited for where nothing else is said: a stick has to be found in a drawer.
    pub const fn default_timeout(on_device: bool) -> Duration {
        Duration::from_secs(if on_device { 30 } else { 0 })
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key file {}", self.path.display())?;
        match &self.device {
            Some(device) => write!(f, " on {device}"),
            None => Ok(()),
        }
    }
}

/// Activation flags, named as in crypttab(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // one for each independent switch of crypttab(5)
pub struct OpenFlags {
    /// `read-only`
    pub read_only: bool,
    /// `discard`
    pub discard: bool,
    /// `same-cpu-crypt`
    pub same_cpu_crypt: bool,
    /// `submit-from-crypt-cpus`
    pub submit_from_crypt_cpus: bool,
    /// `no-read-workqueue`
    pub no_read_workqueue: bool,
    /// `no-write-workqueue`
    pub no_write_workqueue: bool,
    /// Keep udev, LVM and multipath off what is inside.
    pub private: bool,
}

/// `mount = …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount point: absolute, without `.`, `..` or double slashes.
    pub at: PathBuf,
    /// The filesystem type; `None`: whatever is there.
    pub fstype: Option<String>,
    /// Mount options, as in fstab(5).
    pub options: Option<String>,
}

/// `[domain.NAME]`: what is to be different from the defaults for a libvirt domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// libvirt's name of it.
    pub name: String,
    /// Whether it is wanted up.
    pub start: Start,
    /// Domains that must be ready first.
    pub after: Vec<String>,
    /// Volumes that it needs, where its XML cannot tell; `None`: the XML tells.
    pub volumes: Option<Vec<String>>,
    /// When it is ready for those that come after it.
    pub ready: Ready,
    /// How long to wait until it is ready; then what waits for it starts all the same.
    pub ready_timeout: Duration,
    /// How it is stopped.
    pub stop: Stop,
    /// How long it may take to shut down; `None`: what `[host]` says.
    pub stop_timeout: Option<Duration>,
    /// What happens when that is over.
    pub on_stop_timeout: OnStopTimeout,
}

impl DomainConfig {
    /// What holds for a domain without a table.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            start: Start::Autostart,
            after: Vec::new(),
            volumes: None,
            ready: Ready::Running,
            ready_timeout: Duration::from_secs(2 * 60),
            stop: Stop::Shutdown,
            stop_timeout: None,
            on_stop_timeout: OnStopTimeout::Destroy,
        }
    }
}

/// `start = …`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As libvirt's own autostart flag of the domain says.
    Autostart,
    /// `true`
    Always,
    /// `false`
    Never,
}

impl Start {
    /// Whether a domain is wanted up, given libvirt's own autostart flag of it.
    pub fn wants(self, autostart: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Autostart => autostart,
        }
    }
}

/// `ready = …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// As soon as it runs.
    Running,
    /// When its guest agent answers.
    Agent,
    /// When somebody listens there.
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// So long after it was started.
    Delay(Duration),
}

impl Ready {
    /// Whether it can be asked for at any time. A delay is over, or it is not: nobody can tell of a guest that runs already.
    pub fn can_be_asked(&self) -> bool {
        matches!(self, Self::Agent | Self::Tcp { .. })
    }
}

/// `stop = …`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is asked to shut down.
    Shutdown,
    /// Its memory is saved, and it goes on from there at its next start.
    Save,
}

/// `on-stop-timeout = …`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStopTimeout {
    /// Pull the plug.
    Destroy,
    /// Never pull the plug: wait until `stop-deadline`.
    Wait,
}
