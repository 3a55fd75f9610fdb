//! The tables of volumes, masters and secrets as a person would write them: the way back of [`super::volume`], [`super::master`] and
//! [`super::secret`]. Keys with their defaults are left out.

use std::path::Path;
use std::time::Duration;

use super::secret::SecretConfig;
use super::types::{DeviceSpec, KeyFile, Master, Mount, Unlock, Volume};
use crate::text;

/// The table of a volume, header and keys, each on a line of its own. `None`: a path in it is not UTF-8, and TOML has nothing else.
pub fn volume_table(volume: &Volume) -> Option<String> {
    let default = Volume::new(&volume.name, volume.device.clone());
    let mut table = format!("[volume.{}]\n", key(&volume.name));
    let mut put = |key: &str, value: String| table.push_str(&format!("{key} = {value}\n"));
    put("device", device_spec(&volume.device)?);
    if let Some(header) = &volume.header {
        put("header", path(header)?);
    }
    if volume.unlock != default.unlock {
        put("unlock", ways(&volume.unlock)?);
    }
    if let Some(group) = &volume.passphrase_group {
        put("passphrase-group", string(group));
    }
    if volume.tries != default.tries {
        put("tries", volume.tries.to_string());
    }
    if !volume.after.is_empty() {
        put("after", strings(&volume.after));
    }
    if volume.device_timeout != default.device_timeout {
        put("device-timeout", string(&text::duration(volume.device_timeout)));
    }
    let flags = volume.flags;
    for (key, is_set) in [
        ("read-only", flags.read_only),
        ("discard", flags.discard),
        ("same-cpu-crypt", flags.same_cpu_crypt),
        ("submit-from-crypt-cpus", flags.submit_from_crypt_cpus),
        ("no-read-workqueue", flags.no_read_workqueue),
        ("no-write-workqueue", flags.no_write_workqueue),
    ] {
        if is_set {
            put(key, true.to_string());
        }
    }
    if volume.noauto {
        put("noauto", true.to_string());
    }
    if volume.initramfs {
        put("initramfs", true.to_string());
    }
    if flags.private != volume.mount.is_none() {
        put("private", flags.private.to_string());
    }
    if let Some(found) = &volume.mount {
        put("mount", mount(found)?);
    }
    if !volume.pools.is_empty() {
        put("pools", strings(&volume.pools));
    }
    Some(table)
}

/// The table of a master, in the same way.
pub fn master_table(master: &Master) -> Option<String> {
    let default = Master::new(&master.name, master.header.clone());
    let mut table = format!("[master.{}]\nheader = {}\n", key(&master.name), path(&master.header)?);
    if master.unlock != default.unlock {
        table.push_str(&format!("unlock = {}\n", ways(&master.unlock)?));
    }
    if master.tries != default.tries {
        table.push_str(&format!("tries = {}\n", master.tries));
    }
    Some(table)
}

/// The table of a secret, in the same way.
pub fn secret_table(secret: &SecretConfig) -> Option<String> {
    let default = SecretConfig::new(&secret.name);
    let mut table = format!("[secret.{}]\n", key(&secret.name));
    if secret.unlock != default.unlock {
        table.push_str(&format!("unlock = {}\n", ways(&secret.unlock)?));
    }
    if let Some(group) = &secret.passphrase_group {
        table.push_str(&format!("passphrase-group = {}\n", string(group)));
    }
    if secret.tries != default.tries {
        table.push_str(&format!("tries = {}\n", secret.tries));
    }
    Some(table)
}

/// A TOML string on one line, in which nothing moves a cursor or turns the direction of what follows.
pub fn string(text: &str) -> String {
    let mut written = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => written.extend(['\\', letter]),
            letter if text::moves(letter) => written.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter => written.push(letter),
        }
    }
    written + "\""
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_bare { name.to_owned() } else { string(name) }
}

fn device_spec(device: &DeviceSpec) -> Option<String> {
    // A path with bytes that are no UTF-8 would be another one when it is shown.
    let device = device.to_string();
    (!device.contains(char::REPLACEMENT_CHARACTER)).then(|| string(&device))
}

fn path(path: &Path) -> Option<String> {
    path.to_str().map(string)
}

fn strings(texts: &[String]) -> String {
    let all: Vec<String> = texts.iter().map(|text| string(text)).collect();
    format!("[{}]", all.join(", "))
}

fn ways(ways: &[Unlock]) -> Option<String> {
    let all: Option<Vec<String>> = ways.iter().map(way).collect();
    Some(format!("[{}]", all?.join(", ")))
}

fn way(way: &Unlock) -> Option<String> {
    match way {
        Unlock::Passphrase => Some(string("passphrase")),
        Unlock::Token => Some(string("token")),
        Unlock::KeyFile(file) => key_file(file),
        Unlock::Master { name } => Some(format!("{{ master = {} }}", string(name))),
        Unlock::Credential { name } => Some(format!("{{ credential = {} }}", string(name))),
    }
}

fn key_file(file: &KeyFile) -> Option<String> {
    let mut words = format!("{{ key-file = {}", path(&file.path)?);
    if file.offset != 0 {
        words.push_str(&format!(", key-file-offset = {}", file.offset));
    }
    if let Some(size) = file.size {
        words.push_str(&format!(", key-file-size = {size}"));
    }
    if let Some(device) = &file.device {
        words.push_str(&format!(", key-file-device = {}", device_spec(device)?));
    }
    if file.timeout != KeyFile::default_timeout(file.device.is_some()) {
        // The words for a span have whole seconds in them, or less than one.
        let exact = Duration::from_secs(file.timeout.as_secs()) == file.timeout;
        let millis = format!("{}ms", file.timeout.as_millis());
        let timeout = if exact { text::duration(file.timeout) } else { millis };
        words.push_str(&format!(", key-file-timeout = {}", string(&timeout)));
    }
    Some(words + " }")
}

fn mount(mount: &Mount) -> Option<String> {
    let at = path(&mount.at)?;
    if mount.fstype.is_none() && mount.options.is_none() {
        return Some(at);
    }
    let also = |key: &str, value: &Option<String>| {
        let value = value.as_ref().map(|value| format!(", {key} = {}", string(value)));
        value.unwrap_or_default()
    };
    let (fstype, options) = (also("type", &mount.fstype), also("options", &mount.options));
    Some(format!("{{ where = {at}{fstype}{options} }}"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::super::types::OpenFlags;
    use super::*;

    #[track_caller]
    fn comes_back(volume: &Volume) -> String {
        let text = volume_table(volume).expect("it is UTF-8");
        let read = super::super::parse(&[("/test".into(), text.clone())]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(read.volumes, std::slice::from_ref(volume), "{text}");
        text
    }

    #[test]
    fn a_volume_of_defaults_is_two_lines() {
        let volume = Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()));
        assert_eq!(comes_back(&volume), "[volume.mail]\ndevice = \"/dev/vg0/mail\"\n");
    }

    #[test]
    fn every_key_comes_back_as_it_was() {
        let mut volume = Volume::new("a:b=@", DeviceSpec::Label("\"odd\" \\ l\u{202e}abel".into()));
        volume.header = Some("/root/my \"header\"".into());
        let key_file = |offset, size| KeyFile {
            offset,
            size,
            ..KeyFile::new("/root/key")
        };
        let on_stick = KeyFile {
            device: Some(DeviceSpec::Uuid("1A2B-3C4D".into())),
            timeout: Duration::from_secs(30),
            ..key_file(0, None)
        };
        let late = KeyFile {
            timeout: Duration::from_millis(1500),
            ..key_file(1, None)
        };
        let credential = Unlock::Credential { name: "mail.key".into() };
        volume.unlock = [key_file(0, None), key_file(512, Some(64)), on_stick, late]
            .map(Unlock::KeyFile)
            .to_vec();
        volume.unlock.extend([credential, Unlock::Token, Unlock::Passphrase]);
        volume.passphrase_group = Some("guests".into());
        volume.tries = 0;
        volume.device_timeout = Duration::from_secs(3600 + 30);
        volume.flags = OpenFlags {
            read_only: true,
            discard: true,
            same_cpu_crypt: true,
            submit_from_crypt_cpus: true,
            no_read_workqueue: true,
            no_write_workqueue: true,
            private: false,
        };
        volume.initramfs = true;
        let mut texts = comes_back(&volume);
        (volume.initramfs, volume.noauto) = (false, true);
        volume.mount = Some(Mount {
            at: "/srv/my vm".into(),
            fstype: Some("ext4".into()),
            options: Some("noatime,ro".into()),
        });
        volume.pools = vec!["vm".into(), "größe".into()];
        texts.push_str(&comes_back(&volume));
        assert!(texts.contains("l\\u202Eabel"), "{texts}");
        // It names another volume and a master, so it cannot be read alone.
        volume.after = vec!["mail".into()];
        volume.unlock = vec![Unlock::Master { name: "office".into() }];
        texts.extend(volume_table(&volume));
        for key in super::super::volume::KEYS {
            assert!(texts.contains(&format!("\n{key} = ")), "{key} is never written");
        }
        assert!(texts.contains("unlock = [{ master = \"office\" }]\n"));
    }

    #[test]
    fn a_master_comes_back_as_it_was() {
        let mut master = Master::new("office.2", "/etc/virt-unlock/masters/office.luks".into());
        let read = |master: &Master| {
            let text = master_table(master).expect("it is UTF-8");
            let config = super::super::parse(&[("/test".into(), text.clone())]).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.masters, std::slice::from_ref(master), "{text}");
            text
        };
        let plain = "[master.\"office.2\"]\nheader = \"/etc/virt-unlock/masters/office.luks\"\n";
        assert_eq!(read(&master), plain);
        let key_file = Unlock::KeyFile(KeyFile {
            size: Some(64),
            ..KeyFile::new("/root/key")
        });
        (master.unlock, master.tries) = (vec![key_file, Unlock::Passphrase], 0);
        let text = read(&master);
        for key in super::super::master::KEYS {
            assert!(text.contains(&format!("\n{key} = ")), "{key} is never written");
        }
    }

    #[test]
    fn a_secret_comes_back_as_it_was() {
        let read = |secret: &SecretConfig| {
            let text = secret_table(secret).expect("it is UTF-8");
            let config = super::super::parse(&[("/test".into(), text.clone())]).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.secrets, std::slice::from_ref(secret), "{text}");
            text
        };
        let uuid = "5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50";
        assert_eq!(read(&SecretConfig::new(uuid)), format!("[secret.{uuid}]\n"));
        let mut secret = SecretConfig::new("/srv/vm/web \"1\".qcow2");
        secret.unlock = vec![Unlock::Credential { name: "web".into() }, Unlock::Passphrase];
        (secret.passphrase_group, secret.tries) = (Some("office".into()), 0);
        let text = read(&secret);
        for key in super::super::secret::KEYS {
            assert!(text.contains(&format!("\n{key} = ")), "{key} is never written");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_not_written() {
        let odd = Path::new(OsStr::from_bytes(b"/dev/\xff"));
        assert_eq!(volume_table(&Volume::new("v", DeviceSpec::Path(odd.to_owned()))), None);
        let mut volume = Volume::new("v", DeviceSpec::Path("/dev/v".into()));
        volume.header = Some(odd.to_owned());
        assert_eq!(volume_table(&volume), None);
    }
}
