//! What has a volume's name below `/dev/mapper`: the volume itself, judged by its device-mapper UUID, by the device it lies on and
//! by the LUKS UUID in the header; or something else, in words.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Kernel;
use super::sysfs::Dm;
use crate::config::{DeviceSpec, Volume};
use crate::facts::{DevNum, Device, Mapping};

/// A mapping is made in steps: named first, then given its table, which suspends it for a moment. How often one that looks
/// unfinished is looked at again before it is called suspended or empty, and after how long.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How deep cryptsetup's own helper mappings (dm-integrity below dm-crypt, reencryption) may be stacked.
pub(super) const HELPERS: u32 = 4;

/// Where both LUKS1 and LUKS2 have their UUID in the header, in bytes ("LUKS On-Disk Format Specification", `uuid`), and how long
/// the field is: ASCII, ended by zeros.
const UUID_AT: u64 = 168;
const UUID_FIELD: usize = 40;
const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";

impl Kernel {
    pub(super) fn mapping_of(&self, volume: &Volume, device: Option<&Device>) -> Mapping {
        let mut looks = LOOKS;
        loop {
            let Some(dm) = self.dm_named(&volume.name) else {
                return self.without_mapping(volume);
            };
            let Some(uuid) = luks_uuid_of(&dm.uuid) else {
                return foreign(volume, &format!("belongs to {}", kind(&dm.uuid)), &self.elsewhere(&dm));
            };
            let bases = self.bases(
                &volume.name,
                &dm.kernel_name,
                device.and_then(|device| device.number),
                HELPERS,
            );
            if (dm.suspended || bases.is_empty()) && looks > 0 {
                looks -= 1;
                thread::sleep(LOOK_AGAIN);
                continue;
            }
            return match self.objection(volume, device, &dm, uuid, &bases) {
                None => Mapping::Open(dm.number),
                Some(foreign) => foreign,
            };
        }
    }

    /// No mapping has the name. A plain file in its place (something wrote to the path of a closed volume) is in the way.
    pub(super) fn without_mapping(&self, volume: &Volume) -> Mapping {
        let node = volume.node();
        let Ok(metadata) = fs::symlink_metadata(self.at(&node)) else {
            return Mapping::None;
        };
        if metadata.is_file() || metadata.is_dir() {
            let node = node.display();
            return Mapping::Foreign(format!(
                "{node} is a plain file or folder, not a device: something wrote there while the volume was closed; \
                 look at what it is, and move it away from {node}"
            ));
        }
        Mapping::None
    }

    /// Why this LUKS mapping is not the volume.
    fn objection(&self, volume: &Volume, device: Option<&Device>, dm: &Dm, uuid: &str, bases: &[String]) -> Option<Mapping> {
        let name = &volume.name;
        if dm.suspended {
            let remedy = format!("`cryptsetup luksResume {name}` wakes it up if it was suspended by luksSuspend");
            return Some(foreign(volume, "is suspended: all that uses it hangs", &remedy));
        }
        let close = format!("if nothing needs it, `cryptsetup close {name}` and then `virt-unlock up {name}` open the right one");
        if bases.is_empty() {
            return Some(foreign(
                volume,
                "lies on no device: it is empty, or its disk was pulled",
                &close,
            ));
        }
        if let Some(device) = device
            && !bases.iter().all(|base| self.is_device(base, device))
        {
            let on: Vec<String> = bases.iter().map(|base| self.shown(base)).collect();
            let what = format!(
                "is an open LUKS volume on {}, not on {} ({})",
                on.join(" and "),
                volume.device,
                device
                    .number
                    .and_then(|number| self.kernel_name(number))
                    .unwrap_or_else(|| "a file".to_owned())
            );
            return Some(foreign(volume, &what, &close));
        }
        let expected = self.expected_uuid(volume, device)?;
        if plain(&expected) != plain(uuid) {
            let what = format!(
                "is open, but not from this header: its LUKS UUID is {uuid}, the header of {} has {expected}",
                volume.device
            );
            return Some(foreign(volume, &what, &close));
        }
        None
    }

    /// The devices that a mapping lies on at last, below the helpers that cryptsetup itself stacked under it.
    pub(super) fn bases(&self, name: &str, kernel_name: &str, device: Option<DevNum>, depth: u32) -> Vec<String> {
        let mut bases = Vec::new();
        for slave in self.slaves(kernel_name) {
            let helper = self
                .dm(&slave)
                .is_some_and(|dm| is_helper(&dm, name) && Some(dm.number) != device);
            if helper && depth > 0 {
                bases.extend(self.bases(name, &slave, device, depth - 1));
            } else {
                bases.push(slave);
            }
        }
        bases.sort_unstable();
        bases.dedup();
        bases
    }

    /// Whether a mapping's base is the configured device: by number, or the loop device that carries the configured file.
    fn is_device(&self, base: &str, device: &Device) -> bool {
        if let Some(number) = device.number {
            return self.number_named(base) == Some(number);
        }
        let same = |file: &Path| fs::canonicalize(self.at(file)).ok();
        let file = self.loop_file(base);
        file.is_some_and(|file| same(&file).is_some_and(|file| Some(file) == same(&device.path)))
    }

    /// The LUKS UUID that the volume should have, from the configuration, from udev, or from the header itself.
    fn expected_uuid(&self, volume: &Volume, device: Option<&Device>) -> Option<String> {
        if let Some(header) = &volume.header {
            return self.uuid_in_header(header);
        }
        if let DeviceSpec::Uuid(uuid) = &volume.device {
            return Some(uuid.clone());
        }
        let device = device?;
        let properties = device.number.map(|number| self.properties(number)).unwrap_or_default();
        match properties.get("ID_FS_UUID") {
            Some(uuid) if properties.is_luks() == Some(true) => Some(uuid.to_owned()),
            _ => self.uuid_in_header(&device.path),
        }
    }

    /// The UUID in the first bytes of a LUKS header; `None`: there is none, or it is not for us to read.
    pub(super) fn uuid_in_header(&self, at: &Path) -> Option<String> {
        // Not blocking: what is configured as a header may be a pipe.
        let header: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.at(at))
            .ok()?;
        let mut magic = [0; MAGIC.len()];
        let mut field = [0; UUID_FIELD];
        header.read_exact_at(&mut magic, 0).ok()?;
        header.read_exact_at(&mut field, UUID_AT).ok()?;
        let text = field.split(|byte| *byte == 0).next()?;
        let uuid = str::from_utf8(text).ok().filter(|uuid| !uuid.is_empty())?;
        (&magic == MAGIC).then(|| uuid.to_owned())
    }

    /// What to do about a mapping that is no LUKS volume at all.
    fn elsewhere(&self, dm: &Dm) -> String {
        let slaves: Vec<String> = self.slaves(&dm.kernel_name).iter().map(|slave| self.shown(slave)).collect();
        let on = if slaves.is_empty() {
            "no device".to_owned()
        } else {
            slaves.join(" and ")
        };
        let (name, uuid) = (&dm.name, if dm.uuid.is_empty() { "none" } else { &dm.uuid });
        format!(
            "it lies on {on}, its device-mapper UUID is {uuid}, `dmsetup info {name}` shows more; give the volume another name, or remove it if nothing needs it"
        )
    }
}

fn foreign(volume: &Volume, what: &str, remedy: &str) -> Mapping {
    let node = volume.node();
    Mapping::Foreign(format!("{} {what}; it is left alone; {remedy}", node.display()))
}

/// The LUKS UUID, without dashes, in a device-mapper UUID `CRYPT-LUKS2-UUID-NAME` (`dm_prepare_uuid` in cryptsetup).
pub(super) fn luks_uuid_of(dm_uuid: &str) -> Option<&str> {
    let rest = dm_uuid
        .strip_prefix("CRYPT-LUKS1-")
        .or_else(|| dm_uuid.strip_prefix("CRYPT-LUKS2-"))?;
    rest.split('-').next().filter(|uuid| !uuid.is_empty())
}

/// A UUID as cryptsetup compares it.
pub(super) fn plain(uuid: &str) -> String {
    uuid.replace('-', "").to_ascii_lowercase()
}

/// Whether cryptsetup made this mapping to carry the volume: `NAME_dif` (dm-integrity), `NAME-overlay` and `NAME-hotzone-…`
/// (reencryption).
fn is_helper(dm: &Dm, volume: &str) -> bool {
    let of_volume = dm.name.strip_prefix(volume).is_some_and(|rest| rest.starts_with(['_', '-']));
    of_volume
        && ["CRYPT-SUBDEV-", "CRYPT-INTEGRITY-"]
            .iter()
            .any(|prefix| dm.uuid.starts_with(prefix))
}

/// What a device-mapper UUID says of its maker.
fn kind(dm_uuid: &str) -> &'static str {
    const KINDS: [(&str, &str); 8] = [
        ("LVM-", "a logical volume of LVM"),
        ("CRYPT-PLAIN-", "a plain dm-crypt mapping without a LUKS header"),
        ("CRYPT-TCRYPT-", "an open TrueCrypt or VeraCrypt volume"),
        ("CRYPT-BITLK-", "an open BitLocker volume"),
        ("CRYPT-VERITY-", "a dm-verity device"),
        ("CRYPT-INTEGRITY-", "a dm-integrity device"),
        ("mpath-", "a multipath device"),
        ("part", "a partition that kpartx mapped"),
    ];
    let known = KINDS.iter().find(|(prefix, _)| dm_uuid.starts_with(prefix));
    known.map_or("another device-mapper device", |(_, words)| words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::made_up::{Machine, UUID};
    use super::*;

    const OPEN: Mapping = Mapping::Open(DevNum { major: 253, minor: 3 });

    fn machine() -> Machine {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.disk("sdb", "8:16");
        machine
    }

    fn volume() -> Volume {
        Volume::new("mail", DeviceSpec::Path("/dev/sda".into()))
    }

    fn judged(machine: &Machine, volume: &Volume) -> Mapping {
        let kernel = machine.kernel();
        kernel.mapping_of(volume, kernel.device(&volume.device).as_ref())
    }

    /// The words for something else, which must have all of `parts`.
    #[track_caller]
    fn assert_foreign(mapping: &Mapping, parts: &[&str]) {
        let Mapping::Foreign(words) = mapping else {
            panic!("{mapping:?}")
        };
        for part in ["/dev/mapper/mail "].iter().chain(parts) {
            assert!(words.contains(part), "no {part:?} in {words:?}");
        }
    }

    fn header(uuid: &str) -> Vec<u8> {
        let mut bytes = vec![0; 592];
        bytes[..6].copy_from_slice(MAGIC);
        bytes[168..168 + uuid.len()].copy_from_slice(uuid.as_bytes());
        bytes
    }

    #[test]
    fn nothing_of_that_name_is_a_closed_volume() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail2", "sda");
        assert_eq!(judged(&machine, &volume()), Mapping::None);
        machine.link("/dev/mapper/mail", "../dm-9");
        assert_eq!(judged(&machine, &volume()), Mapping::None, "a stale link is in nobody's way");
    }

    #[test]
    fn a_plain_file_of_that_name_is_foreign() {
        let machine = machine();
        machine.write("/dev/mapper/mail", "an image");
        assert_foreign(&judged(&machine, &volume()), &["plain file", "move it away"]);
    }

    #[test]
    fn the_volume_is_known_by_udev_s_uuid_by_the_header_s_and_by_the_configuration_s() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "sda");
        assert_eq!(judged(&machine, &volume()), OPEN, "no UUID can be read");

        let other = "00000000-0000-0000-0000-000000000000";
        machine.write("/dev/sda", header(UUID));
        assert_eq!(judged(&machine, &volume()), OPEN);
        machine.write("/dev/sda", header(other));
        assert_foreign(&judged(&machine, &volume()), &[other, "cryptsetup close mail"]);

        machine.udev(
            "8:0",
            &format!("E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_UUID={}", UUID.to_uppercase()),
        );
        assert_eq!(judged(&machine, &volume()), OPEN, "udev is asked before the header");
        machine.udev("8:0", &format!("E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_UUID={other}"));
        assert_foreign(&judged(&machine, &volume()), &[other]);

        let missing = |uuid: &str| {
            machine
                .kernel()
                .mapping_of(&Volume::new("mail", DeviceSpec::Uuid(uuid.into())), None)
        };
        assert_eq!(missing(UUID), OPEN);
        assert_foreign(&missing(other), &[other]);
    }

    #[test]
    fn a_detached_header_has_the_uuid_and_the_data_device_is_below() {
        let machine = machine();
        let mut volume = volume();
        volume.header = Some("/boot/mail.header".into());
        machine.luks("dm-3", "253:3", "mail", "sda");
        machine.udev("8:0", "E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_UUID=not-this-one");
        machine.write("/boot/mail.header", header(UUID));
        assert_eq!(judged(&machine, &volume), OPEN);
        machine.write("/boot/mail.header", header("another"));
        assert_foreign(&judged(&machine, &volume), &["another"]);
        volume.device = DeviceSpec::Path("/dev/sdb".into());
        assert_foreign(&judged(&machine, &volume), &["on /dev/sda, not on /dev/sdb"]);
    }

    #[test]
    fn a_file_without_the_magic_tells_no_uuid() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "sda");
        let mut damaged = header("another");
        damaged[0] = b'S';
        machine.write("/dev/sda", damaged);
        assert_eq!(judged(&machine, &volume()), OPEN);
    }

    #[test]
    fn a_copy_on_another_device_is_foreign() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "sdb");
        assert_foreign(
            &judged(&machine, &volume()),
            &["on /dev/sdb, not on /dev/sda (sda)", "left alone", "cryptsetup close mail"],
        );
    }

    #[test]
    fn a_volume_in_a_file_lies_on_the_loop_device_of_that_file() {
        let machine = machine();
        machine.write("/srv/image", "");
        machine.disk("loop0", "7:0");
        machine.luks("dm-3", "253:3", "mail", "loop0");
        let volume = Volume::new("mail", DeviceSpec::Path("/srv/image".into()));
        assert_foreign(&judged(&machine, &volume), &["on /dev/loop0, not on /srv/image (a file)"]);
        machine.write("/sys/class/block/loop0/loop/backing_file", "/srv/image\n");
        assert_eq!(judged(&machine, &volume), OPEN);
    }

    #[test]
    fn cryptsetup_s_own_helpers_below_are_looked_through() {
        let machine = machine();
        machine.dm("dm-2", "253:2", "mail_dif", "CRYPT-SUBDEV-x-mail_dif", &["sda"]);
        machine.luks("dm-3", "253:3", "mail", "dm-2");
        assert_eq!(judged(&machine, &volume()), OPEN);
        let standalone = Volume::new("mail", DeviceSpec::Path("/dev/mapper/mail_dif".into()));
        assert_eq!(
            judged(&machine, &standalone),
            OPEN,
            "integrity that is configured as the device itself"
        );
    }

    #[test]
    fn other_kinds_of_mappings_are_foreign_and_named() {
        for (uuid, words) in [
            ("LVM-abc", "a logical volume of LVM"),
            ("CRYPT-PLAIN-mail", "a plain dm-crypt mapping"),
            ("CRYPT-VERITY-abc-mail", "a dm-verity device"),
            ("", "another device-mapper device"),
        ] {
            let machine = machine();
            machine.dm("dm-3", "253:3", "mail", uuid, &["sda"]);
            assert_foreign(
                &judged(&machine, &volume()),
                &[words, "lies on /dev/sda", "dmsetup info mail", uuid],
            );
        }
    }

    #[test]
    fn a_suspended_volume_and_an_empty_one_are_foreign() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "sda");
        machine.write("/sys/class/block/dm-3/dm/suspended", "1\n");
        assert_foreign(&judged(&machine, &volume()), &["suspended", "luksResume mail"]);
        machine.write("/sys/class/block/dm-3/dm/suspended", "0\n");
        assert_eq!(judged(&machine, &volume()), OPEN);
        fs::remove_file(machine.at("/sys/class/block/dm-3/slaves/sda")).unwrap();
        assert_foreign(&judged(&machine, &volume()), &["lies on no device"]);
    }

    #[test]
    fn a_volume_that_is_being_opened_is_given_a_moment() {
        let machine = machine();
        machine.luks("dm-3", "253:3", "mail", "sda");
        let flag = machine.at("/sys/class/block/dm-3/dm/suspended");
        fs::remove_file(&flag).unwrap();
        // The first look opens this pipe and reads "suspended"; what comes after it is the plain flag.
        nix::unistd::mkfifo(&flag, nix::sys::stat::Mode::S_IRWXU).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut pipe = OpenOptions::new().write(true).open(&flag).unwrap();
                fs::write(flag.with_extension("new"), "0\n").unwrap();
                fs::rename(flag.with_extension("new"), &flag).unwrap();
                std::io::Write::write_all(&mut pipe, b"1\n").unwrap();
            });
            assert_eq!(judged(&machine, &volume()), OPEN);
        });
    }
}
