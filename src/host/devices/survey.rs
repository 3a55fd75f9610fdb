//! What there is on this host that a configuration can be written from, found without one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::mapping::{HELPERS, luks_uuid_of, plain};
use super::mountinfo::{Mounted, Table, unescape};
use super::sysfs::{Dm, node};
use super::udev::decode;
use super::{Kernel, path_of};
use crate::config::DeviceSpec;
use crate::facts::DevNum;
use crate::facts::survey::{BlockDevice, CryptMapping, CrypttabLine, FstabLine, LuksDevice, MountedAt, Place, Survey};
use crate::host::tables;

/// Drivers whose devices are not read: memory, floppy and CD drives ("Linux allocated devices" of the kernel). An empty drive lets
/// its reader wait.
const NOT_READ: [u64; 3] = [1, 2, 11];

/// How deep block devices are stacked at most.
const DEEPEST: u32 = 16;

/// Mappings of dm-crypt, by their device-mapper UUIDs. Not those of dm-integrity and dm-verity, which hide nothing.
const ENCRYPTING: [&str; 7] = [
    "CRYPT-LUKS1-",
    "CRYPT-LUKS2-",
    "CRYPT-PLAIN-",
    "CRYPT-TCRYPT-",
    "CRYPT-BITLK-",
    "CRYPT-FVAULT2-",
    "CRYPT-LOOPAES-",
];

impl Kernel {
    /// All of it. `places` are asked about besides. Changes nothing: headers are read, where udev has not read them already.
    pub fn survey<'a>(&self, places: impl Iterator<Item = &'a Path>) -> Survey {
        let names = self.names("/sys/class/block");
        let mounts = self.mounts();
        let mappings: Vec<Dm> = names.iter().filter_map(|name| self.dm(name)).collect();
        let is_crypt = |dm: &&Dm| is_encrypting(&dm.uuid);
        Survey {
            luks: self.luks_devices(&names),
            mappings: mappings.iter().filter(is_crypt).map(|dm| self.crypt_mapping(dm)).collect(),
            other_names: mappings
                .iter()
                .filter(|dm| !is_encrypting(&dm.uuid))
                .map(|dm| dm.name.clone())
                .collect(),
            mounts: mounts.iter().filter_map(|mount| self.mounted_at(mount)).collect(),
            swaps: self.swaps(),
            crypttab: self.crypttab(),
            fstab: self.fstab(),
            places: {
                let mounts = Table::of(mounts);
                places.map(|path| (path.to_owned(), self.place(&mounts, path))).collect()
            },
        }
    }

    fn luks_devices(&self, names: &[String]) -> Vec<LuksDevice> {
        let found: Vec<(&String, LuksDevice)> = names
            .iter()
            .filter_map(|name| Some((name, self.luks_device(name)?)))
            .collect();
        // The legs of a mirror, the paths of a multipath and the hidden origin of a snapshot have the same header as what is on
        // top of them, and are not for use.
        let is_leg = |name: &str, uuid: &Option<String>| {
            let above = self.above(name, |dm| is_encrypting(&dm.uuid));
            found
                .iter()
                .any(|(other, device)| above.contains(other) && device.uuid == *uuid)
        };
        let whole = found.iter().filter(|(name, device)| !is_leg(name, &device.uuid));
        whole.map(|(_, device)| device.clone()).collect()
    }

    fn luks_device(&self, kernel_name: &str) -> Option<LuksDevice> {
        let number = self.number_named(kernel_name)?;
        let properties = self.properties(number);
        let property = |key: &str| properties.get(key).map(str::to_owned);
        let read = || self.uuid_in_header(&node(kernel_name));
        let uuid = match properties.is_luks() {
            Some(true) => property("ID_FS_UUID").or_else(read),
            None if self.may_read(kernel_name, number) => Some(read()?),
            Some(false) | None => return None,
        };
        Some(LuksDevice {
            device: self.block_device(kernel_name)?,
            version: property("ID_FS_VERSION"),
            uuid,
            label: properties.get("ID_FS_LABEL_ENC").map(decode),
            inside: self.encrypted_below(kernel_name, DEEPEST),
        })
    }

    /// Whether the header of a device that udev found nothing on may be read here.
    fn may_read(&self, kernel_name: &str, number: DevNum) -> bool {
        let size = self.text(Path::new("/sys/class/block").join(kernel_name).join("size"));
        if NOT_READ.contains(&number.major) || size.is_some_and(|size| size == "0") {
            return false;
        }
        // A logical volume without links is a hidden part of another one.
        let dm = self.dm(kernel_name);
        let is_hidden = |dm: &Dm| dm.uuid.starts_with("LVM-") && self.logical_volume(dm).is_none();
        !dm.is_some_and(|dm| is_hidden(&dm))
    }

    /// The open mapping of dm-crypt that a device lies in.
    fn encrypted_below(&self, kernel_name: &str, depth: u32) -> Option<String> {
        if depth == 0 {
            return None;
        }
        // What is in a partition lies in the disk.
        let disk = self.whole_disk(kernel_name);
        self.slaves(kernel_name).into_iter().chain(disk).find_map(|below| {
            let dm = self.dm(&below).filter(|dm| is_encrypting(&dm.uuid));
            dm.map(|dm| dm.name).or_else(|| self.encrypted_below(&below, depth - 1))
        })
    }

    /// The disk that a partition is on. `/sys/class/block/sda1` leads to a folder in that of `sda`.
    fn whole_disk(&self, kernel_name: &str) -> Option<String> {
        let folder = Path::new("/sys/class/block").join(kernel_name);
        self.text(folder.join("partition"))?;
        let real = std::fs::canonicalize(self.at(folder)).ok()?;
        Some(real.parent()?.file_name()?.to_str()?.to_owned())
    }

    fn crypt_mapping(&self, dm: &Dm) -> CryptMapping {
        let devices = |names: Vec<String>| names.iter().filter_map(|name| self.block_device(name)).collect();
        CryptMapping {
            name: dm.name.clone(),
            number: dm.number,
            uuid: luks_uuid_of(&dm.uuid).map(plain),
            bases: devices(self.bases(&dm.name, &dm.kernel_name, None, HELPERS)),
            on_top: devices(self.above(&dm.kernel_name, |_| false)),
        }
    }

    /// The kernel names of everything on top of a device, up to where `ends` says that something else begins.
    fn above(&self, kernel_name: &str, ends: impl Fn(&Dm) -> bool) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut waiting = self.holders(kernel_name);
        while let Some(name) = waiting.pop() {
            if found.contains(&name) || self.dm(&name).is_some_and(|dm| ends(&dm)) {
                continue;
            }
            waiting.extend(self.holders(&name));
            found.push(name);
        }
        found.sort_unstable();
        found
    }

    fn block_device(&self, kernel_name: &str) -> Option<BlockDevice> {
        let number = self.number_named(kernel_name)?;
        let logical_volume = self.dm(kernel_name).and_then(|dm| self.logical_volume(&dm));
        let (path, logical_volume) = match logical_volume {
            Some((path, name)) => (path, Some(name)),
            None => (PathBuf::from(self.shown(kernel_name)), None),
        };
        Some(BlockDevice {
            number,
            path,
            logical_volume,
        })
    }

    /// `/dev/VG/LV` and LV, where udev made that link, as it does for every logical volume but hidden ones.
    fn logical_volume(&self, dm: &Dm) -> Option<(PathBuf, String)> {
        if !dm.uuid.starts_with("LVM-") {
            return None;
        }
        let (group, name) = group_and_volume(&dm.name)?;
        let path = Path::new("/dev").join(group).join(&name);
        (self.number_at(&path) == Some(dm.number)).then_some((path, name))
    }

    fn mounted_at(&self, mount: &Mounted) -> Option<MountedAt> {
        // btrfs has numbers of its own and names its device as the source.
        let number = match self.kernel_name(mount.number) {
            Some(_) => mount.number,
            None if mount.source.starts_with("/dev") => self.number_at(&mount.source)?,
            None => return None,
        };
        let options = mount.options.split(',').filter(|option| !["rw", "relatime"].contains(option));
        let options: Vec<&str> = options.collect();
        Some(MountedAt {
            at: mount.at.clone(),
            number,
            options: (!options.is_empty()).then(|| options.join(",")),
        })
    }

    fn swaps(&self) -> BTreeSet<DevNum> {
        let table = self.text("/proc/swaps").unwrap_or_default();
        let paths = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        paths
            .filter_map(|path| self.number_at(&path_of(unescape(path.as_bytes()))))
            .collect()
    }

    fn crypttab(&self) -> Vec<CrypttabLine> {
        let mut lines = tables::crypttab(&self.text(tables::CRYPTTAB).unwrap_or_default());
        for line in &mut lines {
            let device = line.device.replace('"', "").parse::<DeviceSpec>().ok();
            line.number = device.and_then(|spec| self.device(&spec)).and_then(|device| device.number);
            // systemd-cryptsetup(8) looks there by itself.
            let folders = ["/etc/cryptsetup-keys.d", "/run/cryptsetup-keys.d"].map(Path::new);
            let places = folders.map(|folder| folder.join(format!("{}.key", line.name.replace('/', "_"))));
            line.key_by_name = places.into_iter().find(|place| self.at(place).exists());
        }
        lines
    }

    fn fstab(&self) -> Vec<FstabLine> {
        let mut lines = tables::fstab(&self.text(tables::FSTAB).unwrap_or_default());
        for line in &mut lines {
            let device = line.device.replace('"', "");
            line.number = match device.split_once('=') {
                Some(("UUID", uuid)) => self.linked("by-uuid", uuid).and_then(|device| device.number),
                Some(("LABEL", label)) => self.linked("by-label", label).and_then(|device| device.number),
                _ if device.starts_with("/dev/") => self.number_at(Path::new(&device)),
                _ => None,
            };
        }
        lines
    }

    fn place(&self, mounts: &Table, path: &Path) -> Place {
        let mount = mounts.visible(path);
        // A look at a place on another machine's filesystem could wait for that machine, or set an automount off.
        let is_far = mount.is_some_and(|mount| {
            ["nfs", "cifs", "smb", "fuse", "autofs", "9p", "ceph", "gluster"]
                .iter()
                .any(|kind| mount.fstype.starts_with(kind))
        });
        Place {
            exists: is_far || self.at(path).exists(),
            mount: mount.map(|mount| mount.at.clone()),
        }
    }
}

fn is_encrypting(dm_uuid: &str) -> bool {
    ENCRYPTING.iter().any(|prefix| dm_uuid.starts_with(prefix))
}

/// The volume group and the logical volume in a mapping's name: a hyphen between them, and each hyphen inside of one doubled
/// (`dm_split_lvm_name` in LVM). `None`: it has a third part, or is none of LVM's.
fn group_and_volume(name: &str) -> Option<(String, String)> {
    const DOUBLED: char = '\0';
    let marked = name.replace("--", &DOUBLED.to_string());
    let (group, volume) = marked.split_once('-')?;
    let plain = |part: &str| part.replace(DOUBLED, "-");
    (!volume.contains('-')).then(|| (plain(group), plain(volume)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::made_up::{Machine, UUID};
    use super::*;

    const LVM: &str = "LVM-0123456789";

    /// A disk with a volume group, in which `mail` has a LUKS header.
    fn machine() -> Machine {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.dm("dm-0", "253:0", "vg0-mail", LVM, &["sda"]);
        machine.link("/dev/vg0/mail", "../dm-0");
        machine.udev(
            "253:0",
            &format!("E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_UUID={UUID}\nE:ID_FS_VERSION=2\nE:ID_FS_LABEL_ENC=my\\x20mail"),
        );
        machine
    }

    fn survey(machine: &Machine) -> Survey {
        machine.kernel().survey(std::iter::empty())
    }

    fn paths(survey: &Survey) -> Vec<&str> {
        survey.luks.iter().map(|luks| luks.device.path.to_str().unwrap()).collect()
    }

    #[test]
    fn a_header_is_known_from_udev() {
        let found = survey(&machine());
        let expected = LuksDevice {
            device: BlockDevice {
                number: DevNum { major: 253, minor: 0 },
                path: "/dev/vg0/mail".into(),
                logical_volume: Some("mail".into()),
            },
            version: Some("2".into()),
            uuid: Some(UUID.into()),
            label: Some("my mail".into()),
            inside: None,
        };
        assert_eq!(found.luks, [expected]);
        assert!(found.mappings.is_empty() && found.other_names.contains("vg0-mail"));
    }

    /// The first sector of a LUKS header with [`UUID`].
    fn header() -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..6].copy_from_slice(b"LUKS\xba\xbe");
        header[168..168 + UUID.len()].copy_from_slice(UUID.as_bytes());
        header
    }

    #[test]
    fn a_header_that_udev_did_not_look_at_is_read() {
        let machine = Machine::new();
        for (name, number) in [("sdb", "8:16"), ("sr0", "11:0"), ("sdc", "8:32"), ("sdd", "8:48")] {
            machine.disk(name, number);
            machine.write(&format!("/dev/{name}"), header());
        }
        machine.write("/sys/class/block/sdc/size", "0\n");
        machine.udev("8:48", "E:ID_FS_TYPE=linux_raid_member");
        machine.disk("sde", "8:64");
        assert_eq!(paths(&survey(&machine)), ["/dev/sdb"]);
    }

    #[test]
    fn hidden_volumes_and_legs_are_not_for_use() {
        let machine = machine();
        let properties = format!("E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_UUID={UUID}");
        // The origin below a snapshot has no link, the path below a multipath has the same header.
        machine.dm("dm-1", "253:1", "vg0-mail-real", &format!("{LVM}-real"), &["sda"]);
        machine.write("/dev/dm-1", header());
        machine.disk("sdb", "8:16");
        machine.udev("8:16", &properties);
        machine.dm("dm-2", "253:2", "mpatha", "mpath-1", &["sdb"]);
        machine.udev("253:2", &properties);
        assert_eq!(paths(&survey(&machine)), ["/dev/vg0/mail", "/dev/mapper/mpatha"]);
    }

    #[test]
    fn an_open_mapping_tells_what_is_below_and_on_top() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "dm-0");
        machine.dm("dm-4", "253:4", "guestvg-root", LVM, &["dm-3"]);
        machine.udev("253:4", "E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_UUID=inner");
        let found = survey(&machine);
        let [mapping] = found.mappings.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!((mapping.name.as_str(), mapping.uuid.clone()), ("mail", Some(plain(UUID))));
        assert_eq!(mapping.bases[0].path, Path::new("/dev/vg0/mail"));
        assert_eq!(mapping.on_top[0].path, Path::new("/dev/mapper/guestvg-root"));
        // What is on top of an open volume is no leg, and what lies in it is somebody else's.
        assert_eq!(found.luks.len(), 2);
        assert_eq!(found.luks[1].inside.as_deref(), Some("mail"));
    }

    #[test]
    fn plain_mappings_count_and_integrity_does_not() {
        let machine = machine();
        machine.dm("dm-5", "253:5", "swap", "CRYPT-PLAIN-swap", &["sda"]);
        machine.dm("dm-6", "253:6", "dif", "CRYPT-INTEGRITY-dif", &["sda"]);
        machine.write(
            "/proc/swaps",
            "Filename Type Size Used Priority\n/dev/mapper/swap partition 1 0 -2\n",
        );
        let found = survey(&machine);
        let names: Vec<_> = found
            .mappings
            .iter()
            .map(|mapping| (mapping.name.as_str(), &mapping.uuid))
            .collect();
        assert_eq!(names, [("swap", &None)]);
        assert_eq!(found.swaps, BTreeSet::from([DevNum { major: 253, minor: 5 }]));
    }

    #[test]
    fn mounts_and_tables_lead_to_devices() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "dm-0");
        let mounts = "1 0 8:0 / / rw - ext4 /dev/sda rw\n2 1 253:3 / /srv/vm rw,noatime - ext4 x rw\n\
                      3 1 0:45 /@ /srv/b rw,relatime - btrfs /dev/mapper/mail rw\n4 1 0:30 / /run rw - tmpfs tmpfs rw\n";
        machine.write("/proc/self/mountinfo", mounts);
        machine.write("/etc/crypttab", format!("mail UUID=\"{UUID}\"\nlate /dev/vg0/late\n"));
        machine.write("/etc/cryptsetup-keys.d/mail.key", "");
        machine.write("/etc/fstab", "/dev/mapper/mail /srv/vm ext4\nUUID=1 /srv/x ext4\n");
        machine.link(&format!("/dev/disk/by-uuid/{UUID}"), "../../dm-0");
        machine.write("/srv/vm/web.qcow2", "");
        let asked = [Path::new("/srv/vm/web.qcow2"), Path::new("/srv/other")];
        let found = machine.kernel().survey(asked.into_iter());

        let mail = DevNum { major: 253, minor: 3 };
        let on_mail: Vec<_> = found.mounts.iter().filter(|mount| mount.number == mail).collect();
        let seen: Vec<_> = on_mail
            .iter()
            .map(|mount| (mount.at.to_str().unwrap(), mount.options.as_deref()))
            .collect();
        assert_eq!(seen, [("/srv/vm", Some("noatime")), ("/srv/b", None)]);
        assert_eq!(found.mounts.len(), 3);

        assert_eq!(found.crypttab[0].number, Some(DevNum { major: 253, minor: 0 }));
        assert_eq!(
            found.crypttab[0].key_by_name.as_deref(),
            Some(Path::new("/etc/cryptsetup-keys.d/mail.key"))
        );
        assert_eq!((found.crypttab[1].number, &found.crypttab[1].key_by_name), (None, &None));
        assert_eq!((found.fstab[0].number, found.fstab[1].number), (Some(mail), None));

        let place = |exists, mount: &str| Place {
            exists,
            mount: Some(mount.into()),
        };
        assert_eq!(found.places[asked[0]], place(true, "/srv/vm"));
        assert_eq!(found.places[asked[1]], place(false, "/"));
    }

    #[test]
    fn names_of_lvm_are_taken_apart() {
        let split = |name: &str| group_and_volume(name).map(|(group, volume)| format!("{group} {volume}"));
        assert_eq!(split("vg0-mail").as_deref(), Some("vg0 mail"));
        assert_eq!(split("my--vg-mail--old").as_deref(), Some("my-vg mail-old"));
        assert_eq!(split("vg0-mail-real"), None);
        assert_eq!(split("mail"), None);
    }
}
