//! Block devices in sysfs: `/sys/class/block` has every disk, partition and mapping by its kernel name, readable by everybody.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::Kernel;
use crate::facts::DevNum;

/// A device-mapper device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dm {
    /// Its kernel name: `dm-3`.
    pub kernel_name: String,
    /// Its number.
    pub number: DevNum,
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// Its device-mapper UUID, which says who made it and of what kind it is. May be empty.
    pub uuid: String,
    /// Whether it holds back all reading and writing. So it is for a moment whenever it gets a new table.
    pub suspended: bool,
}

impl Kernel {
    /// The number of the block device at `path`, links followed; `None`: there is none.
    pub(super) fn number_at(&self, path: &Path) -> Option<DevNum> {
        let at = self.at(path);
        let metadata = fs::metadata(&at).ok()?;
        if metadata.file_type().is_block_device() {
            return Some(number_of(metadata.rdev()));
        }
        if !self.made_up {
            return None;
        }
        self.number_named(fs::canonicalize(at).ok()?.file_name()?.to_str()?)
    }

    /// The number of the block device of this kernel name.
    pub(super) fn number_named(&self, kernel_name: &str) -> Option<DevNum> {
        parse_number(&self.text(block(kernel_name).join("dev"))?)
    }

    /// The kernel name of the block device of this number.
    pub(super) fn kernel_name(&self, number: DevNum) -> Option<String> {
        let target = fs::read_link(self.at(format!("/sys/dev/block/{number}"))).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// A block device as people know it: `/dev/mapper/NAME` for a mapping, `/dev/NAME` otherwise.
    pub(super) fn shown(&self, kernel_name: &str) -> String {
        match self.dm(kernel_name) {
            Some(dm) => format!("/dev/mapper/{}", dm.name),
            None => node(kernel_name).display().to_string(),
        }
    }

    /// The device-mapper device of this kernel name, if it is one.
    pub(super) fn dm(&self, kernel_name: &str) -> Option<Dm> {
        let folder = block(kernel_name).join("dm");
        Some(Dm {
            kernel_name: kernel_name.to_owned(),
            number: self.number_named(kernel_name)?,
            name: self.text(folder.join("name"))?,
            uuid: self.text(folder.join("uuid"))?,
            suspended: self.text(folder.join("suspended")).is_some_and(|flag| flag == "1"),
        })
    }

    /// The device-mapper device of this name. The link that udev made is only a hint: it may be late or missing.
    pub(super) fn dm_named(&self, name: &str) -> Option<Dm> {
        let hint = fs::canonicalize(self.at(Path::new("/dev/mapper").join(name))).ok();
        let hinted = hint.as_deref().and_then(|node| node.file_name()?.to_str()).map(str::to_owned);
        // The folder is read only where the hint was wrong: it is long where many volumes are open.
        let all = std::iter::once_with(|| self.names("/sys/class/block")).flatten();
        let mappings = hinted
            .into_iter()
            .chain(all)
            .filter(|kernel_name| kernel_name.starts_with("dm-"));
        mappings
            .filter(|kernel_name| self.dm_name(kernel_name).is_some_and(|found| found == name))
            .find_map(|kernel_name| self.dm(&kernel_name).filter(|dm| dm.name == name))
    }

    /// The names of all device-mapper devices.
    pub(super) fn mapped_names(&self) -> BTreeSet<String> {
        let all = self.names("/sys/class/block").into_iter();
        let mappings = all.filter(|kernel_name| kernel_name.starts_with("dm-"));
        mappings.filter_map(|kernel_name| self.dm_name(&kernel_name)).collect()
    }

    fn dm_name(&self, kernel_name: &str) -> Option<String> {
        self.text(block(kernel_name).join("dm/name"))
    }

    /// The kernel names of the devices directly below this one.
    pub(super) fn slaves(&self, kernel_name: &str) -> Vec<String> {
        self.names(block(kernel_name).join("slaves"))
    }

    /// The kernel names of the devices directly on top of this one.
    pub(super) fn holders(&self, kernel_name: &str) -> Vec<String> {
        self.names(block(kernel_name).join("holders"))
    }

    /// The file or device behind a loop device; `None`: it is no loop device, or nothing is behind it.
    pub(super) fn loop_file(&self, kernel_name: &str) -> Option<PathBuf> {
        self.text(block(kernel_name).join("loop/backing_file")).map(PathBuf::from)
    }
}

/// The device node that the kernel makes. A `!` in a kernel name stands for a slash (`cciss!c0d0`).
pub(super) fn node(kernel_name: &str) -> PathBuf {
    Path::new("/dev").join(kernel_name.replace('!', "/"))
}

/// The number in a `dev_t`.
pub(super) fn number_of(dev: u64) -> DevNum {
    DevNum {
        major: major(dev),
        minor: minor(dev),
    }
}

/// `253:3`
pub(super) fn parse_number(text: &str) -> Option<DevNum> {
    let (major, minor) = text.split_once(':')?;
    Some(DevNum {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

fn block(kernel_name: &str) -> PathBuf {
    Path::new("/sys/class/block").join(kernel_name)
}
