//! What udev found out about block devices: its database below `/run/udev/data` (a file `bMAJOR:MINOR` each, readable by
//! everybody) and its way to write names as links.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Kernel;
use super::sysfs::parse_number;
use crate::facts::DevNum;

/// udev's properties of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties(BTreeMap<String, String>);

impl Properties {
    /// A property; empty ones count as missing.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether udev found a LUKS header; `None`: it found nothing that it knows.
    pub(super) fn is_luks(&self) -> Option<bool> {
        self.get("ID_FS_TYPE").map(|kind| kind == "crypto_LUKS")
    }
}

impl Kernel {
    /// What udev knows of the device of this number. Empty where there is no udev, or not yet.
    pub(super) fn properties(&self, number: DevNum) -> Properties {
        let text = self.text(format!("/run/udev/data/b{number}")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('='));
        Properties(lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Every block device that udev knows of.
    pub(super) fn known_to_udev(&self) -> impl Iterator<Item = (DevNum, Properties)> + '_ {
        let numbers = self.names("/run/udev/data").into_iter();
        numbers
            .filter_map(|name| parse_number(name.strip_prefix('b')?))
            .map(|number| (number, self.properties(number)))
    }
}

/// A label or UUID as udev writes it in a link below `/dev/disk` and in `ID_FS_LABEL_ENC`: ASCII letters, digits, `#+-.:=@_` and
/// every character beyond ASCII stay, all else turns into `\xNN` (`encode_devnode_name` in systemd, `blkid_encode_string` in
/// util-linux).
pub(super) fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_alphanumeric() || "#+-.:=@_".contains(letter) || !letter.is_ascii() {
            encoded.push(letter);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "\\x{:02x}", u32::from(letter));
        }
    }
    encoded
}

/// Undoes [`encode`]. What is no `\xNN` stays as it is.
pub(super) fn decode(name: &str) -> String {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        plain.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest
            .get(at + 2..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(code.unwrap_or(b'\\'));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    plain.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_characters_are_written_as_udev_does() {
        assert_eq!(encode("guest disk/1\\"), "guest\\x20disk\\x2f1\\x5c");
        assert_eq!(encode("Größe_#+-.:=@"), "Größe_#+-.:=@");
    }

    #[test]
    fn what_udev_wrote_is_read_again() {
        for name in ["guest disk/1\\", "Größe_#+-.:=@", "\\x", "a\\xzz", ""] {
            assert_eq!(decode(&encode(name)), name);
        }
        assert_eq!(decode("a\\xzz\\x4"), "a\\xzz\\x4");
    }
}
