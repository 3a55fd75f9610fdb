//! The ways to a volume's key.

use super::Finding;
use crate::config::{Unlock, Volume};
use crate::host::{Header, OtherToken, tokens};
use crate::verbs::surroundings::key_file_fault;

/// `credentials`: the names of those that a unit loads; `None`: systemd does not say.
pub(super) fn of_ways(volume: &Volume, credentials: impl Fn(&str) -> Option<Vec<String>>) -> Vec<Finding> {
    let about = format!("volume {}", volume.name);
    let mut found = of_key_files(&about, &volume.unlock);
    for way in &volume.unlock {
        match way {
            Unlock::Passphrase | Unlock::KeyFile(_) | Unlock::Master { .. } | Unlock::Token => {}
            Unlock::Credential { name } => {
                // What opens it at boot, or by its name; a name that systemd takes only with escapes is not looked up.
                let (unit, template) = if volume.noauto {
                    (format!("virt-unlock@{}.service", volume.name), "virt-unlock@.service")
                } else {
                    ("virt-unlock.service".to_owned(), "virt-unlock.service")
                };
                found.extend(of_credential(&about, name, &unit, template, &credentials));
            }
        }
    }
    found
}

/// Tokens that are to open a header and cannot. `place`: where that header is.
pub(super) fn of_tokens(about: &str, ways: &[Unlock], header: &Header, place: &str) -> Vec<Finding> {
    if !ways.contains(&Unlock::Token) {
        return Vec::new();
    }
    let is_only_way = ways.iter().all(|way| *way == Unlock::Token);
    let finding = |what: String, remedy: String| {
        if is_only_way {
            Finding::error(about, what, remedy)
        } else {
            Finding::warning(about, what, remedy)
        }
    };
    if let Some(lack) = tokens::lack(header) {
        let enroll = format!("`systemd-cryptenroll --tpm2-device=auto {place}` (or --fido2-device=auto) adds one");
        let remedy = if header.version == 1 {
            format!("`cryptsetup convert --type luks2 {place}` makes it LUKS2, then {enroll}")
        } else {
            format!("{enroll}; or take \"token\" out of `unlock`")
        };
        return vec![finding(format!("no token opens it: {lack}"), remedy)];
    }
    let without = header.others.iter().filter(|token| tokens::lacks_plugin(token));
    let of = |token: &OtherToken| {
        let remedy = if token.kind.starts_with("systemd-") {
            "install systemd-cryptsetup (on Debian 12 systemd has the plug-ins); for the initramfs, then: dracut --force"
        } else {
            "install what brings that plug-in; for the initramfs, then: dracut --force"
        };
        finding(format!("{token}: {}", tokens::without_plugin(&token.kind)), remedy.to_owned())
    };
    without.map(of).collect()
}

/// A credential that the unit does not load; `edited` is what its drop-in belongs to.
pub(super) fn of_credential(
    about: &str,
    name: &str,
    unit: &str,
    edited: &str,
    credentials: &impl Fn(&str) -> Option<Vec<String>>,
) -> Option<Finding> {
    let is_missing = credentials(unit).is_some_and(|names| !names.iter().any(|known| known == name));
    is_missing.then(|| {
        Finding::warning(
            about,
            format!("{unit} has no credential named {name}"),
            format!(
                "systemctl edit {edited}: [Service] LoadCredentialEncrypted={name}:/FILE and SetCredential={name}:- \
                 (virt-unlock.toml(5) shows how the file is made)"
            ),
        )
    })
}

/// Key files that others can read.
pub(super) fn of_key_files(about: &str, ways: &[Unlock]) -> Vec<Finding> {
    let fault = |way: &Unlock| {
        let Unlock::KeyFile(file) = way else { return None };
        // Who may read what is on a stick is decided by who holds it; one that is waited for need not be there now.
        if file.device.is_some() || !(file.timeout.is_zero() || file.path.exists()) {
            return None;
        }
        let what = key_file_fault(&file.path)?;
        Some(Finding::warning(
            about,
            format!("{file}: {what}"),
            format!("chown root: {0}; chmod 0400 {0}", file.path.display()),
        ))
    };
    ways.iter().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSpec;

    #[test]
    fn a_token_that_cannot_open_is_said_with_its_remedy() {
        let header = |version, kinds: &[(&str, bool)]| Header {
            version,
            others: (0..)
                .zip(kinds)
                .map(|(number, (kind, has_plugin))| OtherToken {
                    number,
                    kind: (*kind).to_owned(),
                    has_plugin: *has_plugin,
                    ..OtherToken::default()
                })
                .collect(),
            ..Header::default()
        };
        let found = |ways: &[Unlock], header: &Header| {
            let found = of_tokens("volume mail", ways, header, "/dev/vg0/mail");
            let lines = found.iter().map(|finding| finding.line(crate::report::Colour(false)));
            lines.collect::<Vec<_>>().join(" | ")
        };
        let (alone, both) = ([Unlock::Token], [Unlock::Token, Unlock::Passphrase]);
        for (header, words) in [
            (
                header(1, &[]),
                "LUKS1, which has no tokens\n    remedy: `cryptsetup convert --type luks2 /dev/vg0/mail`",
            ),
            (
                header(2, &[]),
                "has no token of a TPM, a FIDO2 stick or a smart card\n    remedy: `systemd-cryptenroll",
            ),
            (header(2, &[("systemd-recovery", false)]), "typed as a passphrase"),
            (
                header(2, &[("systemd-tpm2", false)]),
                "token 0 (systemd-tpm2): its plug-in libcryptsetup-token-systemd-tpm2.so is not installed",
            ),
        ] {
            let line = found(&alone, &header);
            assert!(line.starts_with("error: volume mail: ") && line.contains(words), "{line}");
            assert!(found(&both, &header).starts_with("warning: "));
            assert_eq!(found(&[Unlock::Passphrase], &header), "");
        }
        let sound = header(2, &[("systemd-recovery", false), ("clevis", false), ("systemd-tpm2", true)]);
        assert_eq!(found(&alone, &sound), "");
    }

    #[test]
    fn a_credential_that_the_unit_does_not_load_is_said() {
        let mut volume = Volume::new("mail-1", DeviceSpec::Path("/dev/vg0/mail".into()));
        volume.unlock = vec![Unlock::Credential { name: "key".into() }];
        let of = |volume: &Volume, names: Option<&[&str]>| {
            let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            of_ways(volume, |_| names.clone())
        };
        assert_eq!(of(&volume, Some(&["key"])), []);
        assert_eq!(of(&volume, None), [], "a systemd that does not answer");
        let found = of(&volume, Some(&["other"]));
        assert_eq!(found[0].what, "virt-unlock.service has no credential named key");
        assert!(
            found[0]
                .remedy
                .contains("edit virt-unlock.service: [Service] LoadCredentialEncrypted=key:"),
            "{found:?}"
        );
        volume.noauto = true;
        let found = of(&volume, Some(&[]));
        assert!(found[0].what.starts_with("virt-unlock@mail-1.service has"), "{found:?}");
        assert!(
            found[0].remedy.starts_with("systemctl edit virt-unlock@.service:"),
            "{found:?}"
        );
    }
}
