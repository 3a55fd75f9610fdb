//! Whether what is written to a folder is encrypted before it reaches a disk.

use std::fs;
use std::path::{Path, PathBuf};

use super::Kernel;
use super::mountinfo::{self, Mounted};

/// How many devices may lie one on the other.
const DEPTH: usize = 32;

impl Kernel {
    /// Why what is written below `path` may reach a disk in the clear. `None`: LUKS is below all of its filesystem.
    pub(super) fn clear_disk_below(&self, path: &Path) -> Option<String> {
        let Some(mount) = self.mount_of(&self.existing(path)) else {
            return Some(format!("it is not known where {} lies", path.display()));
        };
        let named = || self.number_at(&mount.source);
        let number = if mount.number.major == 0 {
            named()
        } else {
            Some(mount.number)
        };
        let Some(device) = number.and_then(|number| self.kernel_name(number)) else {
            let (fstype, at) = (&mount.fstype, mount.at.display());
            return Some(format!("{} lies on the {fstype} at {at}, which is no disk", path.display()));
        };
        let clear = self.disks_of(&device).iter().find_map(|device| self.first_clear(device, 0))?;
        Some(format!(
            "{} lies on {}, which is not encrypted",
            path.display(),
            self.shown(&clear)
        ))
    }

    /// The path itself, or the nearest folder above that is there; links followed.
    fn existing(&self, path: &Path) -> PathBuf {
        let found = path.ancestors().find_map(|above| fs::canonicalize(self.at(above)).ok());
        let root = fs::canonicalize(&self.root).unwrap_or_default();
        let below = found.as_ref().and_then(|found| found.strip_prefix(root).ok());
        Path::new("/").join(below.unwrap_or(Path::new("")))
    }

    /// The mount that a path lies on: of those that are deepest the last, which hides the others.
    fn mount_of(&self, path: &Path) -> Option<Mounted> {
        let text = fs::read(self.at("/proc/self/mountinfo")).ok()?;
        let mounts = mountinfo::parse(&text).into_iter();
        mounts
            .filter(|mount| path.starts_with(&mount.at))
            .max_by_key(|mount| mount.at.components().count())
    }

    /// All devices of the filesystem on this one: a btrfs may have several.
    fn disks_of(&self, device: &str) -> Vec<String> {
        let devices = |fs: String| self.names(Path::new("/sys/fs/btrfs").join(fs).join("devices"));
        let mut all = self.names("/sys/fs/btrfs").into_iter().map(devices);
        let of_btrfs = all.find(|devices| devices.iter().any(|found| found == device));
        of_btrfs.unwrap_or_else(|| vec![device.to_owned()])
    }

    /// The first device at the bottom that has no LUKS above it on this way.
    fn first_clear(&self, device: &str, depth: usize) -> Option<String> {
        if self.dm(device).is_some_and(|dm| dm.uuid.starts_with("CRYPT-LUKS")) {
            return None;
        }
        match self.slaves(device).as_slice() {
            below if !below.is_empty() && depth < DEPTH => below.iter().find_map(|below| self.first_clear(below, depth + 1)),
            _ => Some(device.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Machine;
    use super::*;

    const SAVE: &str = "/var/lib/libvirt/qemu/save";

    /// A disk with a root in the clear, and a volume on it.
    fn machine(mounts: &str) -> Machine {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.disk("sdb", "8:16");
        machine.luks("dm-0", "253:0", "vm", "sda");
        machine.dm("dm-1", "253:1", "vg-root", "LVM-x", &["dm-0"]);
        machine.dm("dm-2", "253:2", "vg-both", "LVM-y", &["dm-0", "sdb"]);
        machine.dm("dm-3", "253:3", "hash", "CRYPT-VERITY-z", &["sdb"]);
        machine.write("/proc/self/mountinfo", mounts);
        machine.folder("/var/lib");
        machine
    }

    fn clear(mounts: &str) -> Option<String> {
        machine(mounts).kernel().clear_disk_below(Path::new(SAVE))
    }

    #[test]
    fn a_filesystem_is_encrypted_if_all_below_it_is() {
        let root = |number: &str| format!("20 1 {number} / / rw - ext4 /dev/root rw\n");
        assert_eq!(clear(&root("253:0")), None);
        assert_eq!(clear(&root("253:1")), None, "LVM on LUKS");
        let words = |device: &str| Some(format!("{SAVE} lies on {device}, which is not encrypted"));
        assert_eq!(clear(&root("8:0")), words("/dev/sda"));
        assert_eq!(clear(&root("253:2")), words("/dev/sdb"));
        assert_eq!(clear(&root("253:3")), words("/dev/sdb"), "verity encrypts nothing");
        // What is mounted nearer counts.
        let var = root("8:0") + "21 20 253:1 / /var/lib rw - ext4 /dev/x rw\n";
        assert_eq!(clear(&var), None);
        let over = var + "22 21 8:16 / /var/lib rw - ext4 /dev/x rw\n";
        assert_eq!(clear(&over), words("/dev/sdb"));
    }

    #[test]
    fn what_is_no_disk_is_not_taken_for_encrypted() {
        let words = clear("20 1 0:33 / / rw - nfs server:/root rw\n").unwrap_or_default();
        assert!(words.ends_with("lies on the nfs at /, which is no disk"), "{words}");
        let words = clear("").unwrap_or_default();
        assert!(words.starts_with("it is not known where"), "{words}");
    }

    #[test]
    fn every_device_of_a_btrfs_counts() {
        let machine = machine("20 1 0:33 / / rw - btrfs /dev/mapper/vm rw\n");
        let clear = || machine.kernel().clear_disk_below(Path::new(SAVE));
        assert_eq!(clear(), None);
        for device in ["dm-0", "sdb"] {
            machine.folder(&format!("/sys/fs/btrfs/u/devices/{device}"));
        }
        assert_eq!(clear(), Some(format!("{SAVE} lies on /dev/sdb, which is not encrypted")));
    }

    #[test]
    fn a_link_is_followed() {
        let machine = machine("20 1 8:0 / / rw - ext4 /dev/x rw\n21 20 253:1 / /srv/vm rw - ext4 /dev/x rw\n");
        machine.folder("/srv/vm/save");
        machine.folder("/var/lib/libvirt/qemu");
        machine.link(SAVE, "../../../../srv/vm/save");
        assert_eq!(machine.kernel().clear_disk_below(Path::new(SAVE)), None);
    }
}
