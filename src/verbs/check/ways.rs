//! The ways to a volume's key.

use super::Finding;
use crate::config::{Unlock, Volume};
use crate::verbs::surroundings::key_file_fault;

/// `credentials`: the names of those that a unit loads; `None`: systemd does not say.
pub(super) fn of_ways(volume: &Volume, credentials: impl Fn(&str) -> Option<Vec<String>>) -> Vec<Finding> {
    let about = format!("volume {}", volume.name);
    let mut found = of_key_files(&about, &volume.unlock);
    for way in &volume.unlock {
        match way {
            Unlock::Passphrase | Unlock::KeyFile { .. } | Unlock::Master { .. } => {}
            Unlock::Credential { name } => {
                // What opens it at boot, or by its name; a name that systemd takes only with escapes is not looked up.
                let (unit, template) = if volume.noauto {
                    (format!("virt-unlock@{}.service", volume.name), "virt-unlock@.service")
                } else {
                    ("virt-unlock.service".to_owned(), "virt-unlock.service")
                };
                if credentials(&unit).is_some_and(|names| !names.contains(name)) {
                    found.push(Finding::warning(
                        &about,
                        format!("{unit} has no credential named {name}"),
                        format!(
                            "systemctl edit {template}: [Service] LoadCredentialEncrypted={name}:/FILE and SetCredential={name}: \
                             (virt-unlock.toml(5) shows how the file is made)"
                        ),
                    ));
                }
            }
        }
    }
    found
}

/// Key files that others can read.
pub(super) fn of_key_files(about: &str, ways: &[Unlock]) -> Vec<Finding> {
    let fault = |way: &Unlock| {
        let Unlock::KeyFile { path, .. } = way else { return None };
        let what = key_file_fault(path)?;
        Some(Finding::warning(
            about,
            format!("key file {}: {what}", path.display()),
            format!("chown root: {0}; chmod 0400 {0}", path.display()),
        ))
    };
    ways.iter().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSpec;

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
