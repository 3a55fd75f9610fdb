//! What a host has that a configuration can be written from: found without a configuration, for `virt-unlock discover`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::DevNum;

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Every device with a LUKS header.
    pub luks: Vec<LuksDevice>,
    /// Every open mapping of dm-crypt.
    pub mappings: Vec<CryptMapping>,
    /// Names below `/dev/mapper` that belong to something else.
    pub other_names: BTreeSet<String>,
    /// Mounts of filesystems on block devices.
    pub mounts: Vec<MountedAt>,
    /// Devices that the host swaps to.
    pub swaps: BTreeSet<DevNum>,
    /// The lines of `/etc/crypttab`.
    pub crypttab: Vec<CrypttabLine>,
    /// The lines of `/etc/fstab`.
    pub fstab: Vec<FstabLine>,
    /// Places that were asked about.
    pub places: BTreeMap<PathBuf, Place>,
}

/// A block device by the best of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its number.
    pub number: DevNum,
    /// `/dev/VG/LV` for a logical volume, `/dev/mapper/NAME` for another mapping, else `/dev/NAME`.
    pub path: PathBuf,
    /// The logical volume's own name, where it is one.
    pub logical_volume: Option<String>,
}

/// A device with a LUKS header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksDevice {
    /// The device.
    pub device: BlockDevice,
    /// `1` or `2`, as far as it is known.
    pub version: Option<String>,
    /// The LUKS UUID.
    pub uuid: Option<String>,
    /// The label in its header (LUKS2).
    pub label: Option<String>,
    /// The open mapping that the device itself lies in: it belongs to whoever uses that one.
    pub inside: Option<String>,
}

/// An open mapping of dm-crypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CryptMapping {
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// Its number.
    pub number: DevNum,
    /// Its LUKS UUID without dashes; `None`: it has no LUKS header (plain, TCRYPT, …).
    pub uuid: Option<String>,
    /// The devices that it lies on.
    pub bases: Vec<BlockDevice>,
    /// Every mapping on top of it, and on top of these.
    pub on_top: Vec<BlockDevice>,
}

/// A mount of a filesystem on a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedAt {
    /// Where.
    pub at: PathBuf,
    /// The block device.
    pub number: DevNum,
    /// What was asked for beyond the defaults, as in fstab(5).
    pub options: Option<String>,
}

/// A line of crypttab(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrypttabLine {
    /// Its number, from 1.
    pub line: usize,
    /// The name below `/dev/mapper`.
    pub name: String,
    /// The encrypted device, as it is written.
    pub device: String,
    /// The key file, as it is written; `None`: none is.
    pub key: Option<String>,
    /// The options.
    pub options: Vec<String>,
    /// The number of the device, where it is there now.
    pub number: Option<DevNum>,
    /// The key file that systemd takes by itself because of its name, where it is there.
    pub key_by_name: Option<PathBuf>,
}

/// A line of fstab(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FstabLine {
    /// Its number, from 1.
    pub line: usize,
    /// The device, as it is written.
    pub device: String,
    /// The mount point.
    pub at: PathBuf,
    /// The filesystem's type.
    pub fstype: String,
    /// The options.
    pub options: Vec<String>,
    /// The number of the device, where it is there now.
    pub number: Option<DevNum>,
}

/// A place on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Whether something is there.
    pub exists: bool,
    /// The mount point that it lies below.
    pub mount: Option<PathBuf>,
}
