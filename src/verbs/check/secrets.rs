//! The secrets of disks that QEMU decrypts itself.

use std::collections::BTreeMap;

use super::Finding;
use super::ways::{of_credential, of_key_files};
use crate::config::{Config, SecretConfig, Unlock, secret_table};
use crate::facts::{LibvirtFacts, SecretId};

/// The unit that asks for secrets.
const UNIT: &str = "virt-unlock-guests.service";

/// `credentials`: the names of those that a unit loads; `None`: systemd does not say.
pub(super) fn of_secrets(
    config: &Config,
    libvirt: Option<&LibvirtFacts>,
    credentials: impl Fn(&str) -> Option<Vec<String>>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for secret in &config.secrets {
        let about = about(&secret.id);
        found.extend(of_key_files(&about, &secret.unlock));
        for way in &secret.unlock {
            if let Unlock::Credential { name } = way {
                found.extend(of_credential(&about, name, UNIT, UNIT, &credentials));
            }
        }
    }
    let Some(libvirt) = libvirt else { return found };
    if let Some(error) = &libvirt.secrets_error {
        found.push(Finding::error(
            "secrets",
            format!("libvirt's secrets do not answer: {error}"),
            "`virsh secret-list` asks it too; with modular daemons: systemctl status virtsecretd.socket",
        ));
        return found;
    }
    found.extend(config.secrets.iter().filter_map(|secret| of_secret(secret, libvirt)));
    found.extend(of_unknown(config, libvirt));
    found
}

fn of_secret(secret: &SecretConfig, libvirt: &LibvirtFacts) -> Option<Finding> {
    let about = about(&secret.id);
    if libvirt.secret(&secret.id).is_some_and(|found| !found.ephemeral) {
        return Some(Finding::warning(
            about,
            "libvirt keeps it on this host's disk (ephemeral='no'), where whoever steals the disk can read it; it is not asked for",
            "`virsh secret-undefine` it: it is asked for then, and kept in memory alone",
        ));
    }
    let mut used = libvirt.domains.iter().flat_map(|domain| &domain.secrets);
    (!used.any(|used| used.id == secret.id)).then(|| {
        Finding::warning(
            about,
            "no guest's XML refers to it",
            "is it the UUID or the usage in <secret type='passphrase' …/> of the disk's <encryption>?",
        )
    })
}

/// What guests need, and neither we nor libvirt by itself can give.
fn of_unknown(config: &Config, libvirt: &LibvirtFacts) -> Vec<Finding> {
    let mut unknown: BTreeMap<&SecretId, Vec<&str>> = BTreeMap::new();
    for domain in &libvirt.domains {
        for used in &domain.secrets {
            let is_known = config.secret_of(&used.id).is_some() || libvirt.secret(&used.id).is_some_and(|found| !found.ephemeral);
            let guests = unknown.entry(&used.id).or_default();
            if !is_known && !guests.contains(&domain.name.as_str()) {
                guests.push(&domain.name);
            }
        }
    }
    let named = unknown.into_iter().filter(|(_, guests)| !guests.is_empty());
    named
        .map(|(id, guests)| {
            let table = secret_table(&SecretConfig::new(&id.to_string())).unwrap_or_default();
            Finding::warning(
                format!("guest {}", guests.join(", ")),
                format!("a disk of it needs {}, which nobody gives to libvirt after a boot", about(id)),
                format!("add the table {}: it is asked for before the guest starts", table.trim_end()),
            )
        })
        .collect()
}

fn about(id: &SecretId) -> String {
    format!("secret {id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{DomainFacts, SecretFacts, SecretUse};

    const UUID: &str = "5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50";

    fn libvirt(secrets: &[(&str, bool)]) -> LibvirtFacts {
        let domain = |name: &str| DomainFacts {
            name: name.to_owned(),
            secrets: vec![SecretUse {
                id: SecretId::of(UUID),
                image: None,
                format: None,
            }],
            ..DomainFacts::default()
        };
        let facts = |(uuid, ephemeral): &(&str, bool)| SecretFacts {
            uuid: (*uuid).to_owned(),
            usage: None,
            ephemeral: *ephemeral,
        };
        LibvirtFacts {
            domains: vec![domain("web"), domain("wiki")],
            secrets: secrets.iter().map(facts).collect(),
            ..LibvirtFacts::default()
        }
    }

    fn found(config: &Config, libvirt: &LibvirtFacts) -> Vec<Finding> {
        of_secrets(config, Some(libvirt), |_| None)
    }

    #[test]
    fn a_secret_that_nobody_gives_is_named_with_its_table() {
        let nothing = Config::default();
        for secrets in [&[][..], &[(UUID, true)]] {
            let found = found(&nothing, &libvirt(secrets));
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].about, "guest web, wiki");
            assert!(found[0].remedy.contains(&format!("[secret.{UUID}]")), "{found:?}");
        }
        assert_eq!(found(&nothing, &libvirt(&[(UUID, false)])), [], "libvirt gives it itself");
    }

    #[test]
    fn a_table_for_what_is_not_needed_or_lies_on_the_disk_is_said() {
        let with = |name: &str| Config {
            secrets: vec![SecretConfig::new(name)],
            ..Config::default()
        };
        assert_eq!(found(&with(&UUID.to_uppercase()), &libvirt(&[])), []);
        assert_eq!(found(&with(UUID), &libvirt(&[(UUID, true)])), []);
        let kept = found(&with(UUID), &libvirt(&[(UUID, false)]));
        assert!(kept.len() == 1 && kept[0].what.contains("on this host's disk"), "{kept:?}");
        let idle = found(&with("/other"), &libvirt(&[(UUID, false)]));
        assert!(idle.len() == 1 && idle[0].what.contains("no guest's XML"), "{idle:?}");
    }

    #[test]
    fn secrets_that_do_not_answer_and_a_missing_credential_are_said() {
        let mut config = Config {
            secrets: vec![SecretConfig::new(UUID)],
            ..Config::default()
        };
        config.secrets[0].unlock = vec![Unlock::Credential { name: "web".into() }];
        let silent = LibvirtFacts {
            secrets_error: Some("refused".into()),
            ..LibvirtFacts::default()
        };
        let found = of_secrets(&config, Some(&silent), |_| Some(Vec::new()));
        let whats: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "virt-unlock-guests.service has no credential named web",
                "libvirt's secrets do not answer: refused"
            ]
        );
    }
}
