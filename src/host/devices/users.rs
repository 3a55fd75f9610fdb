//! Who keeps an open volume busy: devices and mounts here, processes in [`super::processes`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::Kernel;
use super::mountinfo::{Mounted, Table, parse};
use super::processes::{Search, is_remote};
use super::sysfs::Dm;
use crate::config::Volume;
use crate::facts::DevNum;
use crate::host::User;

/// The mounts that one mount namespace has.
struct Namespace {
    /// A process in it; `None`: ours.
    of: Option<i32>,
    mounts: Vec<Mounted>,
}

impl Kernel {
    /// Devices first, as they do not go away by themselves; mounts last, as the way down unmounts them itself.
    pub(super) fn users_of(&self, volume: &Volume) -> Vec<User> {
        let Some(dm) = self.dm_named(&volume.name) else {
            return Vec::new();
        };
        let namespaces = self.namespaces();
        let mut users = self.devices_on(&dm, &namespaces[0].mounts);
        users.extend(self.search(self.search_for(dm.number, &namespaces)));
        users.extend(self.mounts_of(dm.number, &namespaces));
        users
    }

    /// Device-mapper and other devices on top, loop devices on it or on a file in its filesystem.
    fn devices_on(&self, dm: &Dm, mounts: &[Mounted]) -> Vec<User> {
        let mounts = Table::of(mounts.to_vec());
        let mut names = self.holders(&dm.kernel_name);
        let loops = self
            .names("/sys/class/block")
            .into_iter()
            .filter(|name| name.starts_with("loop"));
        names.extend(loops.filter(|name| self.loop_file(name).is_some_and(|file| self.is_on(&file, dm.number, &mounts))));
        let holder = |name: String| {
            let above = self.dm(&name);
            User::Holder {
                mapping: above.as_ref().map(|above| above.name.clone()),
                uuid: above.map(|above| above.uuid).filter(|uuid| !uuid.is_empty()),
                name,
            }
        };
        names.into_iter().map(holder).collect()
    }

    /// Whether a path is the device itself or lies in its filesystem, judged by the mounts, so that no filesystem is asked.
    fn is_on(&self, path: &Path, number: DevNum, mounts: &Table) -> bool {
        if path.starts_with("/dev") && self.number_at(path) == Some(number) {
            return true;
        }
        mounts.visible(path).is_some_and(|mount| self.is_filesystem_of(mount, number))
    }

    /// Ours first, then every other one that we may see, each once.
    fn namespaces(&self) -> Vec<Namespace> {
        let of = |process: &str| fs::read_link(self.at(format!("/proc/{process}/ns/mnt"))).ok();
        let mut seen: BTreeSet<PathBuf> = of("self").into_iter().collect();
        let mut namespaces = vec![Namespace {
            of: None,
            mounts: self.mounts(),
        }];
        for pid in self.pids() {
            if of(&pid.to_string()).is_some_and(|namespace| seen.insert(namespace)) {
                let text = fs::read(self.at(format!("/proc/{pid}/mountinfo"))).unwrap_or_default();
                namespaces.push(Namespace {
                    of: Some(pid),
                    mounts: parse(&text),
                });
            }
        }
        namespaces
    }

    /// The processes that run, in order of their numbers.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.names("/proc").iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// What makes a process a user of the device.
    fn search_for(&self, number: DevNum, namespaces: &[Namespace]) -> Search {
        let all = || namespaces.iter().flat_map(|namespace| &namespace.mounts);
        let ours: Vec<&Mounted> = all().filter(|mount| self.is_filesystem_of(mount, number)).collect();
        // With no server's filesystem anywhere, no path has to be looked up in the list.
        let places: BTreeMap<PathBuf, bool> = if all().any(|mount| is_remote(&mount.fstype)) {
            all().map(|mount| (mount.at.clone(), is_remote(&mount.fstype))).collect()
        } else {
            BTreeMap::new()
        };
        Search {
            numbers: ours.iter().map(|mount| mount.number).chain([number]).collect(),
            mounts: ours.iter().map(|mount| mount.id).collect(),
            places,
        }
    }

    /// Mounts of the device; of the copies in other namespaces only those that our own unmounting does not take away.
    fn mounts_of(&self, number: DevNum, namespaces: &[Namespace]) -> Vec<User> {
        let of_device = |namespace: &Namespace| -> Vec<Mounted> {
            let mounts = namespace.mounts.iter();
            mounts.filter(|mount| self.is_filesystem_of(mount, number)).cloned().collect()
        };
        let own = of_device(&namespaces[0]);
        let mut users = Vec::new();
        for namespace in namespaces {
            for mount in of_device(namespace) {
                let follows = namespace.of.is_some() && own.iter().any(|our| follows(&mount, namespace, our, namespaces));
                if !follows {
                    users.push(User::Mounted {
                        at: mount.at,
                        namespace_of: namespace.of,
                    });
                }
            }
        }
        users
    }
}

/// Whether `copy` goes away with `our` mount: an unmount is passed on from the mount below ours to that below the copy, at the same
/// place in it (`mount_namespaces(7)`).
fn follows(copy: &Mounted, namespace: &Namespace, our: &Mounted, namespaces: &[Namespace]) -> bool {
    let (Some((ours_below, our_place)), Some((below, place))) = (below(our, &namespaces[0]), below(copy, namespace)) else {
        return false;
    };
    let Some(group) = ours_below.shared.filter(|_| our_place == place) else {
        return false;
    };
    let mut groups = [below.shared, below.master];
    // Each round goes up to the masters of the groups; more are not found in practice, and a ring cannot be.
    for _ in 0..namespaces.len() {
        if groups.contains(&Some(group)) {
            return true;
        }
        let all = namespaces.iter().flat_map(|namespace| &namespace.mounts);
        let member = groups[1].and_then(|master| all.clone().find(|mount| mount.shared == Some(master)));
        groups = [None, member.and_then(|mount| mount.master)];
    }
    false
}

/// The mount that this one is mounted on, and the place in it.
fn below<'a>(mount: &'a Mounted, namespace: &'a Namespace) -> Option<(&'a Mounted, &'a Path)> {
    let parent = namespace.mounts.iter().find(|other| other.id == mount.parent)?;
    Some((parent, mount.at.strip_prefix(&parent.at).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Machine;
    use super::*;
    use crate::config::DeviceSpec;
    use crate::host::Devices;

    const ROOT: &str = "1 0 8:0 / / rw shared:1 - ext4 /dev/sda rw\n";

    /// Volume `vm` open as dm-3, and our own mounts.
    fn machine(mounts: &str) -> Machine {
        let machine = Machine::new();
        machine.luks("dm-3", "253:3", "vm", "sda");
        machine.write("/proc/self/mountinfo", format!("{ROOT}{mounts}"));
        machine.link("/proc/self/ns/mnt", "mnt:[1]");
        machine
    }

    fn process(machine: &Machine, pid: i32, namespace: u32, mounts: &str) {
        machine.write(&format!("/proc/{pid}/mountinfo"), mounts);
        machine.link(&format!("/proc/{pid}/ns/mnt"), format!("mnt:[{namespace}]"));
    }

    fn users(machine: &Machine) -> Vec<User> {
        machine
            .kernel()
            .users(&Volume::new("vm", DeviceSpec::Path("/dev/sda".into())))
    }

    fn holder(name: &str, mapping: Option<&str>, uuid: Option<&str>) -> User {
        User::Holder {
            name: name.to_owned(),
            mapping: mapping.map(str::to_owned),
            uuid: uuid.map(str::to_owned),
        }
    }

    fn mounted(at: &str, namespace_of: Option<i32>) -> User {
        User::Mounted {
            at: at.into(),
            namespace_of,
        }
    }

    #[test]
    fn a_closed_volume_has_no_users() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        assert_eq!(users(&machine), []);
    }

    #[test]
    fn devices_on_top_are_named() {
        let machine = machine("");
        assert_eq!(users(&machine), []);
        machine.dm("dm-7", "253:7", "guestvg-root", "LVM-abc", &["dm-3"]);
        machine.dm("dm-8", "253:8", "other", "", &["dm-3"]);
        machine.dm("dm-9", "253:9", "elsewhere", "", &["sda"]);
        machine.link("/sys/class/block/dm-3/holders/md0", "../../md0");
        let expected = [
            holder("dm-7", Some("guestvg-root"), Some("LVM-abc")),
            holder("dm-8", Some("other"), None),
            holder("md0", None, None),
        ];
        assert_eq!(users(&machine), expected);
    }

    #[test]
    fn loop_devices_on_it_and_on_its_files_are_named() {
        let machine = machine("2 1 253:3 / /srv/vm rw shared:2 - ext4 x rw\n");
        for (name, file) in [
            ("loop0", "/srv/vm/image"),
            ("loop1", "/dev/mapper/vm"),
            ("loop2", "/srv/other"),
        ] {
            machine.disk(name, &name.replace("loop", "7:"));
            machine.write(&format!("/sys/class/block/{name}/loop/backing_file"), format!("{file}\n"));
        }
        let expected = [
            holder("loop0", None, None),
            holder("loop1", None, None),
            mounted("/srv/vm", None),
        ];
        assert_eq!(users(&machine), expected);
    }

    #[test]
    fn mounts_here_and_in_other_namespaces_are_named_once() {
        let machine = machine("2 1 253:3 / /srv/vm rw - ext4 x rw\n3 1 8:16 / /srv/x rw - ext4 x rw\n");
        let private = "11 10 253:3 / /mnt rw - ext4 x rw\n";
        process(&machine, 41, 1, "99 1 253:3 / /not-read rw - ext4 x rw\n");
        process(&machine, 100, 2, private);
        process(&machine, 42, 2, private);
        assert_eq!(users(&machine), [mounted("/srv/vm", None), mounted("/mnt", Some(42))]);
    }

    #[test]
    fn copies_that_go_away_with_our_mount_are_not_named() {
        let machine = machine("2 1 253:3 / /srv/vm rw shared:2 - ext4 x rw\n");
        let mount =
            |root: &str, at: &str| format!("10 0 8:0 / / rw {root} - ext4 x rw\n11 10 253:3 / {at} rw master:2 - ext4 x rw\n");
        process(&machine, 50, 2, &mount("master:1", "/srv/vm"));
        process(&machine, 51, 3, &mount("shared:1", "/srv/vm"));
        process(&machine, 52, 4, &mount("shared:70 master:1", "/srv/vm"));
        process(&machine, 53, 5, &mount("master:70", "/srv/vm"));
        assert_eq!(users(&machine), [mounted("/srv/vm", None)]);
        process(&machine, 60, 6, &mount("master:1", "/elsewhere"));
        process(&machine, 61, 7, &mount("", "/srv/vm").replace("  ", " "));
        let expected = [
            mounted("/srv/vm", None),
            mounted("/elsewhere", Some(60)),
            mounted("/srv/vm", Some(61)),
        ];
        assert_eq!(users(&machine), expected);
    }
}
