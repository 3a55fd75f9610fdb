//! What is at a mount point, judged by device number.

use std::fs;
use std::path::Path;

use super::Kernel;
use super::mountinfo::{Mounted, Table, parse};
use crate::config::Mount;
use crate::facts::{DevNum, Mapping, MountState};

impl Kernel {
    /// Our own mounts.
    pub(super) fn mounts(&self) -> Vec<Mounted> {
        parse(&fs::read(self.at("/proc/self/mountinfo")).unwrap_or_default())
    }

    pub(super) fn mounted(&self, mount: &Mount, mapping: &Mapping) -> MountState {
        self.mounted_by(&Table::of(self.mounts()), mount, mapping)
    }

    /// The same by a list that was read after the mapping.
    pub(super) fn mounted_by(&self, mounts: &Table, mount: &Mount, mapping: &Mapping) -> MountState {
        let found = mounts.visible(&mount.at).filter(|found| found.at == mount.at);
        let Some(found) = found else { return MountState::None };
        // Only the trigger of an automount: nothing is mounted yet, and a mount may be put over it.
        if found.fstype == "autofs" {
            return MountState::None;
        }
        if let Mapping::Open(number) = mapping
            && self.is_filesystem_of(found, *number)
        {
            return MountState::Ours;
        }
        let (at, source) = (mount.at.display(), found.source.display());
        MountState::Foreign(format!(
            "{at} has another filesystem: {} from {source} (device {}); `umount {at}` if it does not belong there, \
             or give the volume another mount point",
            found.fstype, found.number
        ))
    }

    /// Whether a mount is of the filesystem on the block device of this number.
    pub(super) fn is_filesystem_of(&self, mount: &Mounted, number: DevNum) -> bool {
        // btrfs has numbers of its own for each filesystem and names its device as the source.
        mount.number == number || (mount.fstype == "btrfs" && self.number_at(&mount.source) == Some(number))
    }

    pub(super) fn entries_of_bare(&self, at: &Path) -> usize {
        // A mount hides the bare directory; reading it would set an automount off, or wait for a server.
        if Table::of(self.mounts()).visible(at).is_some_and(|mount| mount.at == at) {
            return 0;
        }
        fs::read_dir(self.at(at)).map_or(0, Iterator::count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Devices;
    use super::super::made_up::Machine;
    use super::*;

    const OPEN: Mapping = Mapping::Open(DevNum { major: 253, minor: 3 });
    const ROOT: &str = "1 0 8:0 / / rw - ext4 /dev/sda rw\n";

    fn machine(lines: &str) -> Machine {
        let machine = Machine::new();
        machine.write("/proc/self/mountinfo", format!("{ROOT}{lines}"));
        machine
    }

    fn judged(machine: &Machine, mapping: &Mapping) -> MountState {
        let mount = Mount {
            at: "/srv/vm".into(),
            fstype: None,
            options: None,
        };
        machine.kernel().mounted(&mount, mapping)
    }

    #[track_caller]
    fn assert_foreign(state: &MountState, parts: &[&str]) {
        let MountState::Foreign(words) = state else {
            panic!("{state:?}")
        };
        for part in parts {
            assert!(words.contains(part), "no {part:?} in {words:?}");
        }
    }

    #[test]
    fn the_volume_s_filesystem_is_known_by_its_number() {
        let machine = machine("2 1 253:3 / /srv/vm rw - ext4 /dev/whatever rw\n");
        assert_eq!(judged(&machine, &OPEN), MountState::Ours);
        assert_foreign(
            &judged(&machine, &Mapping::None),
            &["/srv/vm", "ext4", "/dev/whatever", "253:3", "umount /srv/vm"],
        );
    }

    #[test]
    fn nothing_there_and_mounts_above_and_below_are_no_mount_at_that_place() {
        let machine = machine("2 1 253:3 / /srv rw - ext4 x rw\n3 2 253:3 / /srv/vm/below rw - ext4 x rw\n");
        assert_eq!(judged(&machine, &OPEN), MountState::None);
    }

    #[test]
    fn another_filesystem_on_top_is_foreign() {
        let machine = machine("2 1 253:3 / /srv/vm rw - ext4 x rw\n3 2 0:50 / /srv/vm rw - tmpfs tmpfs rw\n");
        assert_foreign(&judged(&machine, &OPEN), &["tmpfs", "0:50"]);
    }

    #[test]
    fn an_automount_s_trigger_is_no_mount_and_what_lies_on_it_is() {
        let trigger = "2 1 0:30 / /srv/vm rw - autofs systemd-1 rw\n";
        assert_eq!(judged(&machine(trigger), &OPEN), MountState::None);
        let filled = machine(&format!("{trigger}3 2 253:3 / /srv/vm rw - ext4 x rw\n"));
        assert_eq!(judged(&filled, &OPEN), MountState::Ours);
    }

    #[test]
    fn btrfs_is_known_by_its_source() {
        let machine = machine("2 1 0:45 /@ /srv/vm rw - btrfs /dev/mapper/vm rw\n");
        assert_foreign(&judged(&machine, &OPEN), &["btrfs", "0:45"]);
        machine.luks("dm-3", "253:3", "vm", "sda");
        assert_eq!(judged(&machine, &OPEN), MountState::Ours);
    }

    #[test]
    fn only_a_bare_directory_s_entries_count() {
        let machine = machine("");
        let entries = |machine: &Machine| machine.kernel().entries_below(Path::new("/srv/vm"));
        assert_eq!(entries(&machine), 0);
        machine.write("/srv/vm/disk.qcow2", "");
        machine.folder("/srv/vm/lost+found");
        assert_eq!(entries(&machine), 2);
        machine.write(
            "/proc/self/mountinfo",
            format!("{ROOT}2 1 0:30 / /srv/vm rw - autofs systemd-1 rw\n"),
        );
        assert_eq!(entries(&machine), 0);
    }
}
