//! Findings from facts that are made up.

use super::*;
use crate::config::{DeviceSpec, KeyFile, Unlock};
use crate::facts::{DomainState, Source, VolumeFacts};
use std::collections::BTreeMap;

fn domain(source: &str) -> DomainFacts {
    DomainFacts {
        name: "web".into(),
        uuid: "u".into(),
        state: DomainState::ShutOff,
        autostart: true,
        sources: vec![Source {
            path: source.into(),
            resolved: source.into(),
            number: None,
            pool: None,
        }],
        restarts_on_poweroff: true,
        ..DomainFacts::default()
    }
}

fn whats(config: &Config, domain: DomainFacts) -> Vec<String> {
    let facts = Facts {
        volumes: BTreeMap::from([("mail".to_owned(), VolumeFacts::default())]),
        libvirt: Some(LibvirtFacts {
            domains: vec![domain],
            ..LibvirtFacts::default()
        }),
        libvirt_error: None,
    };
    of_domains(config, &facts, None)
        .into_iter()
        .map(|finding| finding.what)
        .collect()
}

#[test]
fn a_guest_that_never_stops_and_one_on_a_volume_nobody_configured_are_found() {
    let config = Config {
        volumes: vec![Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()))],
        ..Config::default()
    };
    let found = whats(&config, domain("/dev/mapper/mail"));
    assert!(found.len() == 1 && found[0].contains("on_poweroff"), "{found:?}");
    let found = whats(&config, domain("/dev/mapper/mial"));
    assert!(
        found.iter().any(|what| what.contains("/dev/mapper/mial is not there")),
        "{found:?}"
    );
    assert!(found.iter().any(|what| what == "no guest lies on it"), "{found:?}");
}

#[test]
fn who_comes_after_another_is_not_left_to_libvirt_s_autostart() {
    let mut config = Config::default();
    config.domains.push(DomainConfig::new("web"));
    let noted = |config: &Config, domain: &DomainFacts| of_autostart(config.domain("web"), domain).map(|finding| finding.weight);
    let mut web = domain("/dev/mapper/mail");
    assert_eq!(noted(&config, &web), None);
    config.domains[0].after = vec!["db".to_owned()];
    assert_eq!(noted(&config, &web), Some(Weight::Note));
    web.autostart = false;
    assert_eq!(noted(&config, &web), None);
}

#[test]
fn a_volume_in_crypttab_or_without_keyslots_is_found() {
    let volume = Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()));
    let around = Surroundings {
        crypttab_names: vec!["mail".into()],
        ..Surroundings::default()
    };
    let header = Ok(Header::default());
    let found = of_volume(&volume, &Facts::default(), Some(&header), &around);
    assert!(found.iter().any(|finding| finding.what.contains("no keyslot")), "{found:?}");
    assert!(
        found.iter().any(|finding| finding.what.contains("/etc/crypttab")),
        "{found:?}"
    );
}

#[test]
fn an_older_systemd_is_a_note_for_whoever_wants_more_words() {
    let found = of_systemd(Some(252)).unwrap();
    assert_eq!(found.weight, Weight::Note);
    assert!(found.what.contains("systemd 252 lets logins begin"), "{found:?}");
    assert_eq!(of_systemd(Some(254)), None);
    assert_eq!(
        of_systemd(None),
        None,
        "a systemd that does not answer is nobody's fault here"
    );
}

#[test]
fn what_an_initramfs_cannot_do_is_said() {
    let mut mail = Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()));
    mail.unlock = vec![Unlock::KeyFile(KeyFile::new("/etc/key"))];
    let mut config = Config {
        volumes: vec![mail],
        ..Config::default()
    };
    config.host.hold_login = Duration::ZERO;
    let whats = |config: &Config, has_dracut| {
        let around = Surroundings {
            has_dracut,
            ..Surroundings::default()
        };
        let found = initramfs::of_initramfs(config, &around).into_iter();
        found.map(|finding| finding.what).collect::<Vec<_>>()
    };
    assert_eq!(whats(&config, false), [""; 0]);
    config.volumes[0].initramfs = true;
    let found = whats(&config, false);
    assert!(found.len() == 1 && found[0].contains("no dracut"), "{found:?}");
    let found = whats(&config, true);
    assert!(
        found.len() == 2 && found[0].contains("hold-login") && found[1].contains("/boot"),
        "{found:?}"
    );
    config.host.hold_login = Duration::from_secs(90);
    // One on a stick is not copied.
    config.volumes[0].unlock = vec![Unlock::KeyFile(KeyFile {
        device: Some(DeviceSpec::Label("KEYS".into())),
        ..KeyFile::new("/key")
    })];
    assert_eq!(whats(&config, true), [""; 0]);
    config.volumes[0].unlock = vec![Unlock::Credential { name: "mail".into() }];
    let found = whats(&config, true);
    assert!(found.len() == 1 && found[0].contains("its credential is not in"), "{found:?}");
    config.volumes[0].unlock = vec![Unlock::Passphrase];
    assert_eq!(whats(&config, true), [""; 0]);
}

#[test]
fn an_agent_that_is_waited_for_needs_a_channel() {
    let mut table = DomainConfig::new("web");
    table.ready = Ready::Agent;
    let mut found = domain("/dev/mapper/mail");
    assert!(of_ready(Some(&table), &found).is_some_and(|finding| finding.weight == Weight::Error));
    assert_eq!(of_ready(None, &found), None);
    found.has_agent = true;
    assert_eq!(of_ready(Some(&table), &found), None);
}

#[test]
fn memory_that_would_be_saved_in_the_clear_is_an_error() {
    let mut table = DomainConfig::new("web");
    assert_eq!(of_save(Some(&table), Some("it lies on /dev/sda1")), None);
    table.stop = Stop::Save;
    let found = of_save(Some(&table), Some("it lies on /dev/sda1")).unwrap();
    assert_eq!(found.weight, Weight::Error);
    assert!(found.what.contains("it lies on /dev/sda1"), "{found:?}");
    assert_eq!(of_save(Some(&table), None), None);
}
