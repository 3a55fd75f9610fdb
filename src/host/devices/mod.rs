//! Block devices, mappings, mounts and their users, as the kernel and udev have them: sysfs, udev's database and links, procfs.
//! Reads only. Device-mapper is read in sysfs and not asked by ioctl, so that an ordinary user's `virt-unlock status` sees the
//! same as root's; only who uses a volume is root's to know in full.

mod encrypted;
mod find;
mod mapping;
mod memory;
mod mountinfo;
mod mounts;
mod processes;
mod survey;
mod sysfs;
mod udev;
mod users;

#[cfg(test)]
mod made_up;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use mountinfo::Table;

use super::{Devices, User, uevents};
use crate::cancel::Cancel;
use crate::config::{DeviceSpec, Mount, Volume};
use crate::facts::{Device, Mapping, MountState, VolumeFacts};

/// The kernel that runs here.
pub struct Kernel {
    root: PathBuf,
    /// Whether plain files below `root` stand for the block devices of that name in sysfs: nobody but root can make nodes.
    made_up: bool,
    /// Looks at the processes that were not waited for to the end.
    left: Mutex<Vec<JoinHandle<()>>>,
}

impl Kernel {
    /// The kernel, seen by the paths of this process.
    pub fn new() -> Self {
        Self {
            made_up: false,
            ..Self::below(Path::new("/"))
        }
    }

    /// A made-up kernel for tests: `sys`, `proc`, `dev` and `run/udev` are folders below `root`, symbolic links in them are
    /// relative, and a plain file below `dev` stands for the block device whose name `sys/class/block` has. All paths that go in
    /// and come out are without `root`.
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            made_up: true,
            left: Mutex::default(),
        }
    }

    /// Where an absolute path of the machine is.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text without its last line's end; bytes that are no UTF-8 are replaced. `None`: it is not there, or not for us.
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.at(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    }

    /// The names in a folder, in order. None where it is not there.
    fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.at(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Devices for Kernel {
    fn find(&self, spec: &DeviceSpec) -> Option<Device> {
        self.device(spec)
    }

    fn find_filesystem(&self, spec: &DeviceSpec) -> Option<Device> {
        self.filesystem_device(spec)
    }

    fn mapping(&self, volume: &Volume, device: Option<&Device>) -> Mapping {
        self.mapping_of(volume, device)
    }

    fn has_node(&self, volume: &Volume) -> bool {
        self.at(volume.node()).exists()
    }

    fn mount_state(&self, mount: &Mount, mapping: &Mapping) -> MountState {
        self.mounted(mount, mapping)
    }

    fn entries_below(&self, at: &Path) -> usize {
        self.entries_of_bare(at)
    }

    fn users(&self, volume: &Volume) -> Vec<User> {
        self.users_of(volume)
    }

    fn running_guests(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        self.guests_by_their_words(names)
    }

    fn memory_available(&self) -> u64 {
        self.free_memory()
    }

    fn clear_disk(&self, path: &Path) -> Option<String> {
        self.clear_disk_below(path)
    }

    fn facts_of(&self, volumes: &[Volume]) -> BTreeMap<String, VolumeFacts> {
        let mapped = self.mapped_names();
        let mut facts: Vec<VolumeFacts> = Vec::with_capacity(volumes.len());
        for volume in volumes {
            let device = self.find(&volume.device);
            let mapping = if mapped.contains(&volume.name) {
                self.mapping(volume, device.as_ref())
            } else {
                self.without_mapping(volume)
            };
            facts.push(VolumeFacts {
                device,
                mapping,
                node: self.has_node(volume),
                mount: MountState::None,
            });
        }
        // After the mappings, as for one volume: a mount without its mapping would be somebody else's.
        let mounts = Table::of(self.mounts());
        for (volume, facts) in volumes.iter().zip(&mut facts) {
            if let Some(mount) = &volume.mount {
                facts.mount = self.mounted_by(&mounts, mount, &facts.mapping);
            }
        }
        volumes.iter().map(|volume| volume.name.clone()).zip(facts).collect()
    }

    fn wait_for_change(&self, limit: Duration, cancel: &Cancel) {
        uevents::wait_for_change(limit, cancel);
    }
}

/// A path from bytes that the kernel wrote.
fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::made_up::Machine;
    use super::*;

    #[test]
    fn the_facts_of_many_are_those_of_each() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.disk("sdb", "8:16");
        machine.luks("dm-3", "253:3", "mail", "sda");
        machine.dm("dm-4", "253:4", "linear", "LVM-x", &["sdb"]);
        // Its link is not there yet, or not any more.
        machine.dm("dm-5", "253:5", "late", "LVM-y", &["sdb"]);
        fs::remove_file(machine.at("/dev/mapper/late")).unwrap();
        machine.write("/dev/mapper/image", "an image");
        let named = |name: &str| Volume::new(name, DeviceSpec::Path("/dev/sda".into()));
        let volumes = ["mail", "linear", "late", "image", "closed"].map(named);
        let kernel = machine.kernel();
        let all = kernel.facts_of(&volumes);
        assert_eq!(all.len(), volumes.len());
        for volume in &volumes {
            assert_eq!(all[&volume.name], kernel.volume_facts(volume), "{}", volume.name);
        }
        assert!(all["mail"].is_open());
        assert!(matches!(all["late"].mapping, Mapping::Foreign(_)));
    }
}
