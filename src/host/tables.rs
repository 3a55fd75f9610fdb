//! crypttab(5) and fstab(5): which volumes and filesystems a host opens and mounts by itself. Text in, plain data out.

use std::path::PathBuf;

use crate::facts::survey::{CrypttabLine, FstabLine};

/// Where crypttab(5) is.
pub const CRYPTTAB: &str = "/etc/crypttab";
/// Where fstab(5) is.
pub const FSTAB: &str = "/etc/fstab";

/// The lines of a crypttab(5). A name alone is no line: it names no device.
pub fn crypttab(text: &str) -> Vec<CrypttabLine> {
    let read = |(line, fields): (usize, Vec<&str>)| {
        let field = |number: usize| fields.get(number).map(|field| (*field).to_owned());
        // "none", "-" and an empty key all say that there is no key file.
        let key = field(2).filter(|key| key != "none" && key != "-");
        Some(CrypttabLine {
            line,
            name: field(0)?,
            device: field(1)?,
            key,
            options: options(field(3).as_deref()),
            number: None,
            key_by_name: None,
        })
    };
    lines(text).filter_map(read).collect()
}

/// The lines of a fstab(5).
pub fn fstab(text: &str) -> Vec<FstabLine> {
    let read = |(line, fields): (usize, Vec<&str>)| {
        let field = |number: usize| fields.get(number).map(|field| unescape(field));
        Some(FstabLine {
            line,
            device: field(0)?,
            at: PathBuf::from(field(1)?),
            fstype: field(2).unwrap_or_default(),
            options: options(field(3).as_deref()),
            number: None,
        })
    };
    lines(text).filter_map(read).collect()
}

/// The fields of each line that has some, with the line's number from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let numbered = text.lines().enumerate().map(|(place, line)| (place + 1, line.trim()));
    numbered
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number, line.split_whitespace().collect()))
}

/// Options between commas. "-" and "none" say that there are none.
fn options(field: Option<&str>) -> Vec<String> {
    let field = field.filter(|field| *field != "-" && *field != "none").unwrap_or_default();
    let options = field.split(',').filter(|option| !option.is_empty());
    options.map(ToOwned::to_owned).collect()
}

/// Undoes `\040` for a space, and its like.
fn unescape(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = code.filter(u8::is_ascii) {
            plain.push(char::from(byte));
            rest = &rest[at + 4..];
        } else {
            plain.push('\\');
            rest = &rest[at + 1..];
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crypttab_is_read_line_by_line() {
        let text =
            "# name device key options\n\nmail /dev/vg0/mail\tnone luks,discard\n  vm UUID=1 /etc/key -\nalone\nx /dev/x -\n";
        let read = crypttab(text);
        let named: Vec<_> = read
            .iter()
            .map(|line| (line.line, line.name.as_str(), line.key.as_deref()))
            .collect();
        assert_eq!(named, [(3, "mail", None), (4, "vm", Some("/etc/key")), (6, "x", None)]);
        assert_eq!(read[0].options, ["luks", "discard"]);
        assert_eq!(read[0].device, "/dev/vg0/mail");
        assert!(read[1].options.is_empty());
    }

    #[test]
    fn fstab_is_read_with_its_escapes() {
        let text = "# comment\n/dev/sda1 / ext4 defaults 0 1\n/dev/x /srv/my\\040vm ext4\n/dev/y /a\\b\\9 xfs noatime,ro\n";
        let read = fstab(text);
        let places: Vec<_> = read
            .iter()
            .map(|line| (line.line, line.at.to_string_lossy().into_owned()))
            .collect();
        let expected = [(2, "/"), (3, "/srv/my vm"), (4, "/a\\b\\9")];
        assert_eq!(places, expected.map(|(line, at)| (line, at.to_owned())));
        assert_eq!(read[2].options, ["noatime", "ro"]);
        assert_eq!(unescape("größe\\04é\\777\\134"), "größe\\04é\\777\\");
    }
}
