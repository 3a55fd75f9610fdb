//! Names of units.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest name of a unit, in bytes (`UNIT_NAME_MAX` without its end, systemd src/basic/unit-def.h).
const LONGEST: usize = 255;

/// What a unit of a template stands for: the part between `@` and its ending, with systemd's escapes undone (`systemd-escape
/// --unescape`); but a `-` is one, and not a slash: no volume and no domain has a slash in its name, and people write
/// `virt-unlock@mail-server`. `None`: it stands for nothing that is UTF-8.
pub fn instance(escaped: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), escaped.as_bytes());
    while let [first, after @ ..] = rest {
        let digits = rest.strip_prefix(b"\\x").and_then(|rest| rest.get(..2)).map(<[u8]>::to_vec);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &rest[4..] } else { after };
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

/// The name of the mount unit of this path, as `systemd-escape --path --suffix=mount` has it (systemd.unit(5)).
///
/// # Errors
/// When it would be too long, in words.
pub(super) fn of_mount(at: &Path) -> Result<String, String> {
    let parts = at.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let escaped: Vec<String> = parts.filter(|part| !part.is_empty()).map(escape).collect();
    // A dot is escaped only where it would make the whole name a hidden file.
    let mut name = match escaped.join("-") {
        root if root.is_empty() => "-".to_owned(),
        name => match name.strip_prefix('.') {
            Some(rest) => format!("\\x2e{rest}"),
            None => name,
        },
    };
    name.push_str(".mount");
    if name.len() > LONGEST {
        return Err(format!(
            "{} is too long for a mount unit of systemd's ({} bytes with its escapes, at most {LONGEST}); choose a shorter mount point",
            at.display(),
            name.len()
        ));
    }
    Ok(name)
}

fn escape(part: &[u8]) -> String {
    let mut escaped = String::new();
    for byte in part {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b':' | b'_' | b'.' => escaped.push(char::from(*byte)),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\x{byte:02x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `systemd-escape --path --suffix=mount` of systemd 252 says.
    #[test]
    fn names_are_systemds() {
        let names = [
            ("/", "-.mount"),
            ("/srv", "srv.mount"),
            ("/srv/vm", "srv-vm.mount"),
            ("/srv//vm/", "srv-vm.mount"),
            ("/srv/my-vms", r"srv-my\x2dvms.mount"),
            ("/srv/a b", r"srv-a\x20b.mount"),
            ("/.hidden/.too", r"\x2ehidden-.too.mount"),
            ("/srv/ü", r"srv-\xc3\xbc.mount"),
            (r"/srv/\x", r"srv-\x5cx.mount"),
            ("/srv/a:b_c.d@e", r"srv-a:b_c.d\x40e.mount"),
        ];
        for (path, name) in names {
            assert_eq!(of_mount(Path::new(path)).as_deref(), Ok(name));
        }
    }

    #[test]
    fn an_instance_stands_for_a_name() {
        let names = [
            ("mail", Some("mail")),
            ("mail-server", Some("mail-server")),
            (r"mail\x2dserver", Some("mail-server")),
            (r"Mail\x20server\x20\x28old\x29", Some("Mail server (old)")),
            (r"m\xc3\xa4il", Some("mäil")),
            (r"a\x5cx20b", Some(r"a\x20b")),
            (r"odd\x2", Some(r"odd\x2")),
            (r"odd\xzz", Some(r"odd\xzz")),
            (r"odd\x+2", Some(r"odd\x+2")),
            (r"odd\xé", Some(r"odd\xé")),
            (r"\xff", None),
            ("", None),
        ];
        for (escaped, name) in names {
            assert_eq!(instance(escaped).as_deref(), name, "{escaped}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let path = |count| format!("/{}", "x".repeat(count));
        assert_eq!(of_mount(Path::new(&path(LONGEST - 6))).unwrap().len(), LONGEST);
        assert!(
            of_mount(Path::new(&path(LONGEST - 5)))
                .unwrap_err()
                .contains("shorter mount point")
        );
    }
}
