//! From the configuration's words to the encrypted device.

use std::fs;
use std::path::{Path, PathBuf};

use super::Kernel;
use super::sysfs::node;
use super::udev::encode;
use crate::config::DeviceSpec;
use crate::facts::Device;

impl Kernel {
    pub(super) fn device(&self, spec: &DeviceSpec) -> Option<Device> {
        match spec {
            DeviceSpec::Path(path) => self.device_at(path.clone()),
            DeviceSpec::PartUuid(uuid) => self.linked("by-partuuid", uuid),
            DeviceSpec::PartLabel(label) => self.linked("by-partlabel", label),
            DeviceSpec::Uuid(uuid) => self.encrypted("by-uuid", uuid, "ID_FS_UUID_ENC"),
            DeviceSpec::Label(label) => self.encrypted("by-label", label, "ID_FS_LABEL_ENC"),
        }
    }

    /// The device whose filesystem has this UUID or label.
    pub(super) fn filesystem_device(&self, spec: &DeviceSpec) -> Option<Device> {
        match spec {
            DeviceSpec::Uuid(uuid) => self.linked("by-uuid", uuid),
            DeviceSpec::Label(label) => self.linked("by-label", label),
            other => self.device(other),
        }
    }

    /// What kind of filesystem a device has, as udev knows it.
    pub fn filesystem(&self, device: &Path) -> Option<String> {
        self.properties(self.number_at(device)?).get("ID_FS_TYPE").map(str::to_owned)
    }

    /// A block device or a plain file.
    fn device_at(&self, path: PathBuf) -> Option<Device> {
        let number = self.number_at(&path);
        if number.is_none() && !fs::metadata(self.at(&path)).ok()?.is_file() {
            return None;
        }
        Some(Device { path, number })
    }

    /// The device that a link below `/dev/disk` leads to. UUIDs may be written in either case, labels may not.
    pub(super) fn linked(&self, folder: &str, name: &str) -> Option<Device> {
        let folder = Path::new("/dev/disk").join(folder);
        let link = encode(name);
        if let Some(device) = self.device_at(folder.join(&link)) {
            return Some(device);
        }
        if !folder.ends_with("by-uuid") && !folder.ends_with("by-partuuid") {
            return None;
        }
        let same = self
            .names(&folder)
            .into_iter()
            .find(|other| other.eq_ignore_ascii_case(&link))?;
        self.device_at(folder.join(same))
    }

    /// The device whose LUKS header has this UUID or label. udev's link goes to one device of that name only: a filesystem inside
    /// an open volume may have the same label and win.
    fn encrypted(&self, folder: &str, name: &str, property: &str) -> Option<Device> {
        let linked = self.linked(folder, name)?;
        let Some(number) = linked.number else { return Some(linked) };
        if self.properties(number).is_luks() != Some(false) {
            return Some(linked);
        }
        let name = encode(name);
        let luks = self.known_to_udev().find(|(_, properties)| {
            let same = properties.get(property).is_some_and(|value| match folder {
                "by-uuid" => value.eq_ignore_ascii_case(&name),
                _ => value == name,
            });
            same && properties.is_luks() == Some(true)
        });
        if let Some(device) = luks.and_then(|(number, _)| self.device_at(node(&self.kernel_name(number)?))) {
            return Some(device);
        }
        // What is inside an open volume is never the encrypted device. Anything else is for the one who reads the header to name.
        let inside = self
            .dm(&self.kernel_name(number)?)
            .is_some_and(|dm| dm.uuid.starts_with("CRYPT-"));
        (!inside).then_some(linked)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::made_up::{Machine, UUID};
    use super::*;
    use crate::facts::DevNum;

    fn found(machine: &Machine, spec: &DeviceSpec) -> Option<(String, Option<String>)> {
        let device = machine.kernel().device(spec)?;
        let number = device.number.map(|DevNum { major, minor }| format!("{major}:{minor}"));
        Some((device.path.to_str().unwrap().to_owned(), number))
    }

    fn is(path: &str, number: &str) -> (String, Option<String>) {
        (path.to_owned(), Some(number.to_owned()))
    }

    #[test]
    fn a_path_is_kept_and_its_links_are_followed_for_the_number() {
        let machine = Machine::new();
        let spec = DeviceSpec::Path("/dev/vg0/mail".into());
        assert_eq!(found(&machine, &spec), None);
        machine.dm("dm-2", "253:2", "vg0-mail", "LVM-x", &[]);
        machine.link("/dev/vg0/mail", "../dm-2");
        assert_eq!(found(&machine, &spec), Some(is("/dev/vg0/mail", "253:2")));
    }

    #[test]
    fn a_plain_file_has_no_number_and_a_folder_is_no_device() {
        let machine = Machine::new();
        machine.write("/srv/image", "");
        assert_eq!(
            found(&machine, &DeviceSpec::Path("/srv/image".into())),
            Some(("/srv/image".into(), None))
        );
        assert_eq!(found(&machine, &DeviceSpec::Path("/srv".into())), None);
    }

    #[test]
    fn uuids_are_found_in_either_case_and_labels_as_udev_writes_them() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        for (link, spec) in [
            (format!("/dev/disk/by-uuid/{UUID}"), DeviceSpec::Uuid(UUID.to_uppercase())),
            ("/dev/disk/by-partuuid/ab-1".into(), DeviceSpec::PartUuid("AB-1".into())),
            ("/dev/disk/by-label/my\\x20mail".into(), DeviceSpec::Label("my mail".into())),
            ("/dev/disk/by-partlabel/p".into(), DeviceSpec::PartLabel("p".into())),
        ] {
            assert_eq!(found(&machine, &spec), None, "{spec}");
            machine.link(&link, "../../sda");
            assert_eq!(found(&machine, &spec), Some(is(&link, "8:0")), "{spec}");
        }
        assert_eq!(found(&machine, &DeviceSpec::PartLabel("P".into())), None);
        assert_eq!(found(&machine, &DeviceSpec::Label("My mail".into())), None);
    }

    #[test]
    fn a_label_that_the_filesystem_inside_has_too_leads_to_the_encrypted_device() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.udev("8:0", "E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_LABEL=vm\nE:ID_FS_LABEL_ENC=vm");
        machine.luks("dm-3", "253:3", "vm", "sda");
        machine.udev("253:3", "E:ID_FS_TYPE=ext4\nE:ID_FS_LABEL_ENC=vm");
        machine.link("/dev/disk/by-label/vm", "../../dm-3");
        assert_eq!(found(&machine, &DeviceSpec::Label("vm".into())), Some(is("/dev/sda", "8:0")));
    }

    #[test]
    fn a_filesystem_is_found_where_it_is_and_of_what_kind() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.udev("8:0", "E:ID_FS_TYPE=crypto_LUKS\nE:ID_FS_LABEL_ENC=KEYS");
        machine.luks("dm-3", "253:3", "vm", "sda");
        machine.udev(
            "253:3",
            "E:ID_FS_TYPE=vfat\nE:ID_FS_UUID_ENC=1A2B-3C4D\nE:ID_FS_LABEL_ENC=KEYS",
        );
        machine.link("/dev/disk/by-label/KEYS", "../../dm-3");
        machine.link("/dev/disk/by-uuid/1A2B-3C4D", "../../dm-3");
        let kernel = machine.kernel();
        for spec in [DeviceSpec::Label("KEYS".into()), DeviceSpec::Uuid("1a2b-3c4d".into())] {
            let device = kernel.filesystem_device(&spec).unwrap();
            assert_eq!(device.number.unwrap().to_string(), "253:3", "{spec}");
            assert_eq!(kernel.filesystem(&device.path).as_deref(), Some("vfat"));
        }
        assert_eq!(kernel.filesystem_device(&DeviceSpec::Uuid("0000-0000".into())), None);
        let path = DeviceSpec::Path("/dev/sda".into());
        assert_eq!(kernel.filesystem_device(&path), kernel.device(&path));
    }

    #[test]
    fn what_is_inside_an_open_volume_is_not_its_device() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.luks("dm-3", "253:3", "vm", "sda");
        machine.udev("253:3", "E:ID_FS_TYPE=ext4\nE:ID_FS_UUID_ENC=inside");
        machine.link("/dev/disk/by-uuid/inside", "../../dm-3");
        assert_eq!(found(&machine, &DeviceSpec::Uuid("inside".into())), None);
    }

    #[test]
    fn a_uuid_of_something_else_is_found_so_that_its_header_can_be_judged() {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.udev("8:0", "E:ID_FS_TYPE=ext4\nE:ID_FS_UUID_ENC=plain");
        machine.link("/dev/disk/by-uuid/plain", "../../sda");
        assert_eq!(
            found(&machine, &DeviceSpec::Uuid("plain".into())),
            Some(is("/dev/disk/by-uuid/plain", "8:0"))
        );
    }
}
