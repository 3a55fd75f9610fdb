//! Names and paths that the kernel, systemd or libvirt cannot carry, or that would do harm.

use std::path::{Path, PathBuf};

use super::problem::quoted;
use super::value::normal;

/// The longest name of a mapping, in bytes: `DM_NAME_LEN` of linux/dm-ioctl.h without the terminating zero.
const LONGEST_MAPPING: usize = 127;
/// The longest name of a unit, in bytes: `UNIT_NAME_MAX` of systemd's basic/unit-name.h without the terminating zero.
const LONGEST_UNIT: usize = 255;

/// The longest name of a credential, in bytes: `FDNAME_MAX` of systemd's basic/fd-util.h.
const LONGEST_CREDENTIAL: usize = 255;

/// Directories of the running system: a mount there would hide it.
const SYSTEM: [&str; 18] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr",
    "/var", "/var/lib", "/var/log",
];
/// Filesystems of the kernel: nothing of ours belongs below them.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What keeps a volume from being `/dev/mapper/NAME`.
pub fn check_volume(name: &str) -> Result<(), String> {
    let shown = quoted(name);
    if name.is_empty() {
        return Err("a volume needs a name: [volume.NAME]".to_owned());
    }
    if let Some(wrong) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"#+-.:=@_".contains(*c)) {
        let wrong = quoted(&wrong.to_string());
        return Err(format!(
            "a volume cannot be named {shown}: /dev/mapper has no {wrong} in its names, only letters and digits of ASCII and `#+-.:=@_`"
        ));
    }
    if name.len() > LONGEST_MAPPING {
        return Err(format!(
            "a volume cannot be named {shown}: {} bytes are too long for /dev/mapper, {LONGEST_MAPPING} fit",
            name.len()
        ));
    }
    if matches!(name, "." | ".." | "control") {
        return Err(format!(
            "a volume cannot be named {shown}: /dev/mapper/{name} is something else"
        ));
    }
    if name.starts_with("luks-") {
        // crypt-cleanup.sh of dracut's module crypt.
        return Err(format!(
            "a volume cannot be named {shown}: dracut closes what starts with `luks-` when it leaves the initramfs"
        ));
    }
    Ok(())
}

/// The longest name of a master, in bytes: it stands in questions, and its header's file is named after it.
const LONGEST_MASTER: usize = 64;

/// What keeps a master from having this name: it is a word of commands and questions, and the name of its header's file.
pub fn check_master(name: &str) -> Result<(), String> {
    let shown = quoted(name);
    if name.is_empty() {
        return Err("a master needs a name: [master.NAME]".to_owned());
    }
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if !is_plain || name.starts_with(['-', '.']) {
        return Err(format!(
            "a master cannot be named {shown}: only letters and digits of ASCII and `-._` make its name, and it begins with neither `-` nor `.`"
        ));
    }
    if name.len() > LONGEST_MASTER {
        return Err(format!(
            "a master cannot be named {shown}: {} bytes are too long, {LONGEST_MASTER} fit",
            name.len()
        ));
    }
    Ok(())
}

/// What keeps a secret from having this name: it is the UUID or the usage that libvirt knows it by, and stands in questions.
pub(super) fn check_secret(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a secret needs a name: [secret.\"UUID\"], the UUID or usage that the guest's XML refers to".to_owned());
    }
    if let Some(wrong) = name.chars().find(|c| c.is_control()) {
        let wrong = quoted(&wrong.to_string());
        return Err(format!("a secret cannot be named {}: XML has no {wrong}", quoted(name)));
    }
    Ok(())
}

/// What keeps a domain from having this name in libvirt (`virDomainDefPostParseCheck…`: no slash, no line end, not empty).
pub(super) fn check_domain(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a domain needs a name: [domain.NAME]".to_owned());
    }
    if let Some(wrong) = name.chars().find(|c| c.is_control() || *c == '/') {
        let wrong = quoted(&wrong.to_string());
        return Err(format!(
            "a domain cannot be named {}: libvirt has no {wrong} in its names",
            quoted(name)
        ));
    }
    Ok(())
}

/// What keeps a credential of systemd's from having this name (`credential_name_valid` in systemd's shared/creds-util.c).
pub(super) fn check_credential(name: &str) -> Result<(), String> {
    let shown = quoted(name);
    if let Some(wrong) = name
        .chars()
        .find(|c| !(c.is_ascii_graphic() || *c == ' ') || "/:".contains(*c))
    {
        let wrong = quoted(&wrong.to_string());
        return Err(format!(
            "cannot be {shown}: systemd has no {wrong} in the names of credentials; it is a name, such as `mail`, and not a path"
        ));
    }
    if matches!(name, "." | "..") {
        return Err(format!("cannot be {shown}, which names a folder"));
    }
    if name.len() > LONGEST_CREDENTIAL {
        return Err(format!("is too long: it has {} bytes, {LONGEST_CREDENTIAL} fit", name.len()));
    }
    Ok(())
}

/// The mount point that is written, or what keeps it from being one.
pub fn mount_point(text: &str) -> Result<PathBuf, String> {
    let shown = quoted(text);
    if !text.starts_with('/') {
        return Err(format!("must be an absolute path, but {shown} does not start with `/`"));
    }
    let at = normal(Path::new(text));
    if SYSTEM.iter().any(|system| at == Path::new(system)) {
        return Err(format!(
            "cannot be {shown}: a mount there would hide a directory of the system; use one of its own, such as `/srv/vm`"
        ));
    }
    if let Some(kernel) = KERNEL.iter().find(|kernel| at.starts_with(kernel)) {
        return Err(format!(
            "cannot be {shown}: below {kernel} is only what the kernel puts there"
        ));
    }
    if let Some(part) = text
        .trim_end_matches('/')
        .split('/')
        .skip(1)
        .find(|part| matches!(*part, "" | "." | ".."))
    {
        let wrong = if part.is_empty() { "//" } else { part };
        return Err(format!("must not have `{wrong}` in it, as {shown} has; write the plain path"));
    }
    let unit = unit_name_length(&at);
    if unit > LONGEST_UNIT {
        return Err(format!(
            "is too long: the name of its systemd unit would have {unit} bytes, {LONGEST_UNIT} fit"
        ));
    }
    Ok(at)
}

/// How long the name of a path's mount unit is, in bytes, systemd-escape(1).
fn unit_name_length(at: &Path) -> usize {
    let path = at.as_os_str().as_encoded_bytes();
    let escaped: usize = path[1..]
        .iter()
        .enumerate()
        .map(|(place, byte)| match byte {
            b'.' if place == 0 => 4,
            b'/' | b':' | b'_' | b'.' => 1,
            byte if byte.is_ascii_alphanumeric() => 1,
            _ => 4,
        })
        .sum();
    escaped + ".mount".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_names_that_dev_mapper_can_carry() {
        for good in ["mail", "a", "vm-1.raw", "#+-.:=@_", "Luks-x", &"x".repeat(127)] {
            assert_eq!(check_volume(good), Ok(()), "{good:?}");
        }
        for (bad, words) in [
            ("", "needs a name"),
            (".", "something else"),
            ("..", "something else"),
            ("control", "something else"),
            ("a b", "no ` `"),
            ("a/b", "no `/`"),
            ("mäil", "no `ä`"),
            ("a\\x20", "no `\\`"),
            ("a\n", "no `\\n`"),
            ("luks-mail", "dracut"),
            (&*"x".repeat(128), "128 bytes"),
        ] {
            let error = check_volume(bad).unwrap_err();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
    }

    #[test]
    fn masters_have_names_that_are_words_and_file_names() {
        for good in ["office", "a", "Office-2.old_1", &"x".repeat(64)] {
            assert_eq!(check_master(good), Ok(()), "{good:?}");
        }
        for bad in ["", ".", "..", ".x", "-x", "a b", "a/b", "ö", "a\n", &"x".repeat(65)] {
            assert!(check_master(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secrets_have_names_that_xml_can_carry() {
        for good in ["5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50", "/var/lib/x y.qcow2", "größe & <more>"] {
            assert_eq!(check_secret(good), Ok(()), "{good:?}");
        }
        for bad in ["", "a\nb"] {
            assert!(check_secret(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn domains_have_names_that_libvirt_takes() {
        for good in ["mail", "Mail server (old)", "mäil"] {
            assert_eq!(check_domain(good), Ok(()), "{good:?}");
        }
        for bad in ["", "a/b", "a\nb"] {
            assert!(check_domain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn credentials_have_names_that_systemd_takes() {
        for good in ["mail", "mail.key", "a b@c", &"x".repeat(255)] {
            assert_eq!(check_credential(good), Ok(()), "{good:?}");
        }
        for (bad, words) in [
            ("..", "a folder"),
            ("/etc/key", "no `/`"),
            ("mail:key", "no `:`"),
            ("größe", "no `ö`"),
            (&*"x".repeat(256), "256 bytes"),
        ] {
            let error = check_credential(bad).unwrap_err();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
    }

    #[test]
    fn mount_points_are_plain_and_hide_nothing() {
        assert_eq!(mount_point("/srv/vm"), Ok("/srv/vm".into()));
        assert_eq!(mount_point("/srv/vm/"), Ok("/srv/vm".into()));
        assert_eq!(mount_point("/var/lib/libvirt/images"), Ok("/var/lib/libvirt/images".into()));
        assert_eq!(mount_point("/srv/...vm"), Ok("/srv/...vm".into()));
        for (bad, words) in [
            ("srv/vm", "absolute"),
            ("/", "hide"),
            ("///", "hide"),
            ("/usr", "hide"),
            ("/etc/", "hide"),
            ("/var//lib", "hide"),
            ("/dev/shm/vm", "kernel"),
            ("/srv//vm", "`//`"),
            ("/srv/./vm", "`.`"),
            ("/srv/../vm", "`..`"),
            ("/srv/vm/..", "`..`"),
        ] {
            let error = mount_point(bad).unwrap_err();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
    }

    #[test]
    fn mount_points_have_units_that_systemd_can_name() {
        // /srv/vm-x… → srv-vm\x2dx….mount
        let fits = format!("/srv/vm-{}", "x".repeat(255 - ".mount".len() - "srv-vm\\x2d".len()));
        assert!(mount_point(&fits).is_ok());
        let error = mount_point(&format!("{fits}x")).unwrap_err();
        assert!(error.contains("256 bytes"), "{error}");
    }
}
