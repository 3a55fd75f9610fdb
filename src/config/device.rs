//! `device = …`: how an encrypted device is named.

use std::str::FromStr;

use super::near;
use super::problem::quoted;
use super::types::DeviceSpec;
use super::value::normal;

const TAGS: [&str; 4] = ["UUID", "PARTUUID", "LABEL", "PARTLABEL"];

impl FromStr for DeviceSpec {
    /// What is wrong, to be read after "the device".
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text)
    }
}

/// The device that is written, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<DeviceSpec, String> {
    if text.starts_with('/') {
        return Ok(DeviceSpec::Path(text.into()));
    }
    let shown = quoted(text);
    let Some((tag, value)) = text.split_once('=') else {
        return Err(format!(
            "must be an absolute path, `UUID=`, `PARTUUID=`, `LABEL=` or `PARTLABEL=`, but this is {shown}"
        ));
    };
    if !TAGS.contains(&tag) {
        return Err(format!(
            "cannot be named by {}; {}",
            quoted(&format!("{tag}=")),
            near::hint(tag, TAGS, "names")
        ));
    }
    if value.is_empty() {
        return Err(format!("says nothing after {shown}"));
    }
    match tag {
        "UUID" if !is_uuid(value) => Err(format!(
            "is no UUID: {shown} is not 32 hexadecimal digits in groups of 8-4-4-4-12 (`cryptsetup luksUUID DEVICE` shows it)"
        )),
        "UUID" => Ok(DeviceSpec::Uuid(value.to_owned())),
        "PARTUUID" if !value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') => Err(format!(
            "is no PARTUUID: {shown} has more than hexadecimal digits and `-` in it (`blkid -s PARTUUID` shows it)"
        )),
        "PARTUUID" => Ok(DeviceSpec::PartUuid(value.to_owned())),
        "LABEL" => Ok(DeviceSpec::Label(value.to_owned())),
        _ => Ok(DeviceSpec::PartLabel(value.to_owned())),
    }
}

/// The same for a device with a filesystem on it, whose UUID is what its kind of filesystem has: `1A2B-3C4D` for FAT.
///
/// # Errors
/// What is wrong, to be read after "the device".
pub fn parse_filesystem(text: &str) -> Result<DeviceSpec, String> {
    match text.strip_prefix("UUID=") {
        Some(uuid) if !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') => {
            Ok(DeviceSpec::Uuid(uuid.to_owned()))
        }
        Some(uuid) if !uuid.is_empty() => Err(format!(
            "is no UUID: {} has more than hexadecimal digits and `-` in it (`blkid -s UUID` shows it)",
            quoted(text)
        )),
        _ => parse(text),
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The same for every spelling of one name of a device. (A link and what it leads to are told apart here.)
pub(super) fn identity(device: &DeviceSpec) -> String {
    match device {
        DeviceSpec::Path(path) => normal(path).to_string_lossy().into_owned(),
        DeviceSpec::Uuid(_) | DeviceSpec::PartUuid(_) => device.to_string().to_ascii_uppercase(),
        DeviceSpec::Label(_) | DeviceSpec::PartLabel(_) => device.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0f5e2a4c-9b1d-4e6f-8a7b-3c2d1e0f9a8b";

    #[test]
    fn reads_every_kind_of_name() {
        let names = [
            ("/dev/vg0/mail".to_owned(), DeviceSpec::Path("/dev/vg0/mail".into())),
            (format!("UUID={UUID}"), DeviceSpec::Uuid(UUID.into())),
            ("PARTUUID=1234abcd-01".into(), DeviceSpec::PartUuid("1234abcd-01".into())),
            ("LABEL=a=b".into(), DeviceSpec::Label("a=b".into())),
            ("PARTLABEL=mail".into(), DeviceSpec::PartLabel("mail".into())),
        ];
        for (text, device) in names {
            assert_eq!(parse(&text), Ok(device.clone()));
            assert_eq!(device.to_string(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, words) in [
            ("dev/vg0/mail", "absolute path"),
            ("uuid=x", "did you mean `UUID`?"),
            ("LABLE=x", "did you mean `LABEL`?"),
            ("ID=x", "`ID=`"),
            ("UUID=", "says nothing"),
            ("UUID=\"x\"", "is no UUID"),
            ("UUID=0f5e2a4c9b1d4e6f8a7b3c2d1e0f9a8b", "is no UUID"),
            ("PARTUUID=xyz", "is no PARTUUID"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_filesystem_has_the_uuid_of_its_kind() {
        for uuid in ["1A2B-3C4D", "4E2A0C1B2A0BFD6F", UUID] {
            assert_eq!(parse_filesystem(&format!("UUID={uuid}")), Ok(DeviceSpec::Uuid(uuid.into())));
        }
        assert!(parse_filesystem("UUID=stick").unwrap_err().contains("`blkid -s UUID`"));
        assert!(parse_filesystem("UUID=").unwrap_err().contains("says nothing"));
        assert_eq!(parse_filesystem("LABEL=KEYS"), parse("LABEL=KEYS"));
    }

    #[test]
    fn one_device_in_two_spellings_is_one_device() {
        let same_text = |one: &str, other: &str| identity(&parse(one).unwrap()) == identity(&parse(other).unwrap());
        assert!(same_text("/dev/vg0/mail", "/dev//vg0/./mail/"));
        assert!(same_text(&format!("UUID={UUID}"), &format!("UUID={}", UUID.to_uppercase())));
        assert!(!same_text("LABEL=mail", "LABEL=MAIL"));
        assert!(!same_text("LABEL=mail", "PARTLABEL=mail"));
        assert!(!same_text("/dev/vg0/mail", "/dev/vg0/mail2"));
    }
}
