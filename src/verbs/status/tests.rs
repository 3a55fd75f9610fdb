//! The state of a host, as a table.

use super::*;
use crate::config::DeviceSpec;
use crate::facts::{DevNum, Device, DomainState, LibvirtFacts, Pause, SecretFacts, SecretId, SecretUse, VolumeFacts};
use std::collections::BTreeMap;

fn open() -> Mapping {
    Mapping::Open(DevNum { major: 254, minor: 0 })
}

/// One volume, and one guest on it.
fn status(mapping: Mapping, is_there: bool, guest: DomainState, remembered: Option<Remembered>, under_way: bool) -> Status {
    let mut table = DomainConfig::new("web");
    (table.volumes, table.start) = (Some(vec!["vm".to_owned()]), Start::Always);
    let config = Config {
        volumes: vec![Volume::new("vm", DeviceSpec::Path("/dev/vm".into()))],
        domains: vec![table],
        ..Config::default()
    };
    let device = is_there.then(|| Device {
        path: "/dev/vm".into(),
        number: None,
    });
    let facts = Facts {
        volumes: BTreeMap::from([(
            "vm".to_owned(),
            VolumeFacts {
                device,
                mapping,
                node: true,
                mount: MountState::None,
            },
        )]),
        libvirt: Some(LibvirtFacts {
            domains: vec![DomainFacts {
                name: "web".into(),
                uuid: "u".into(),
                state: guest,
                autostart: false,
                sources: Vec::new(),
                ..DomainFacts::default()
            }],
            ..LibvirtFacts::default()
        }),
        libvirt_error: None,
    };
    let record = remembered.map(|found| Record::from([(Layer::Volume("vm".into()), found)]));
    Status::of(
        &config,
        &facts,
        &record.unwrap_or_default(),
        UnderWay {
            volumes: under_way,
            guests: under_way,
        },
    )
}

#[test]
fn the_state_follows_the_machine_and_the_record_gives_the_reason() {
    use DomainState::{Paused, Running, ShutOff};
    let asked = || Some(Remembered::Waiting("a question for it is open".into()));
    let failed = || Some(Remembered::Failed("wrong three times".into()));
    let foreign = || Mapping::Foreign("something else".into());
    let none = || Mapping::None;
    let table = [
        // What the kernel says, whether the device is there, the guest, what is remembered, whether somebody is at it.
        ((open(), true, Running, None, false), State::Up, VolumeState::Open, None),
        (
            (open(), true, Paused(Pause::Ordered), None, false),
            State::Up,
            VolumeState::Open,
            None,
        ),
        // A record that the machine overtook says nothing any more.
        ((open(), true, Running, failed(), false), State::Up, VolumeState::Open, None),
        ((open(), true, ShutOff, None, false), State::Degraded, VolumeState::Open, None),
        ((none(), true, ShutOff, None, false), State::Down, VolumeState::Closed, None),
        (
            (none(), true, Running, None, false),
            State::Degraded,
            VolumeState::Closed,
            None,
        ),
        (
            (none(), true, ShutOff, asked(), true),
            State::Waiting,
            VolumeState::Waiting,
            Some("a question for it is open"),
        ),
        // Whoever waited was killed.
        (
            (none(), true, ShutOff, asked(), false),
            State::Down,
            VolumeState::Closed,
            None,
        ),
        (
            (none(), true, ShutOff, failed(), false),
            State::Degraded,
            VolumeState::Failed,
            Some("wrong three times"),
        ),
        (
            (none(), false, ShutOff, failed(), false),
            State::Degraded,
            VolumeState::Missing,
            Some("not there"),
        ),
        (
            (none(), false, ShutOff, asked(), true),
            State::Waiting,
            VolumeState::Waiting,
            Some("a question for it is open"),
        ),
        (
            (foreign(), true, ShutOff, None, false),
            State::Degraded,
            VolumeState::Failed,
            Some("something else"),
        ),
    ];
    for ((mapping, is_there, guest, remembered, under_way), state, volume, reason) in table {
        let found = status(mapping, is_there, guest, remembered, under_way);
        assert_eq!((found.state, found.volumes[0].state), (state, volume), "{found:?}");
        let said = found.volumes[0].reason.as_deref();
        assert_eq!(said.is_some(), reason.is_some(), "{found:?}");
        assert!(said.unwrap_or_default().contains(reason.unwrap_or_default()), "{found:?}");
        assert_eq!(found.domains[0].reason.is_some(), !guest.is_active(), "{found:?}");
    }
}

#[test]
fn what_waits_for_its_name_is_not_missed() {
    let volume = |name: &str, noauto| {
        let mut volume = Volume::new(name, DeviceSpec::Path(format!("/dev/{name}").into()));
        volume.noauto = noauto;
        volume
    };
    let mut table = DomainConfig::new("web");
    (table.volumes, table.start) = (Some(vec!["vm".to_owned()]), Start::Always);
    let config = Config {
        volumes: vec![volume("mail", false), volume("vm", true)],
        domains: vec![table],
        ..Config::default()
    };
    let state = |mail: Mapping, vm: Mapping, web: DomainState, record: &Record| {
        let facts = |mapping| VolumeFacts {
            mapping,
            node: true,
            ..VolumeFacts::default()
        };
        let facts = Facts {
            volumes: BTreeMap::from([("mail".to_owned(), facts(mail)), ("vm".to_owned(), facts(vm))]),
            libvirt: Some(LibvirtFacts {
                domains: vec![DomainFacts {
                    name: "web".into(),
                    uuid: "u".into(),
                    state: web,
                    autostart: false,
                    sources: Vec::new(),
                    ..DomainFacts::default()
                }],
                ..LibvirtFacts::default()
            }),
            libvirt_error: None,
        };
        Status::of(&config, &facts, record, UnderWay::default())
    };
    let (none, foreign) = (Mapping::None, Mapping::Foreign("something else".into()));
    let failed = Record::from([(Layer::Volume("vm".into()), Remembered::Failed("wrong three times".into()))]);
    // Its device may be another host's now, and a start that failed is the affair of whoever ordered it.
    for record in [Record::default(), failed] {
        let found = state(open(), none.clone(), DomainState::ShutOff, &record);
        assert_eq!(found.state, State::Up, "{found:?}");
        assert!(!found.volumes[1].wanted && !found.domains[0].wanted, "{found:?}");
        assert!(found.domains[0].reason.is_none(), "{found:?}");
        let table = found.table(Verbosity::Normal, Colour(false));
        assert!(table.contains("on /dev/vm; noauto"), "{table}");
        assert_eq!(found.table(Verbosity::Quiet, Colour(false)), "");
    }
    // Once it is open, it and its guests are like all others.
    let nothing = Record::default();
    let up = state(open(), open(), DomainState::Running, &nothing);
    assert!(
        up.state == State::Up && up.volumes[1].wanted && up.domains[0].wanted,
        "{up:?}"
    );
    for (mail, vm) in [(open(), open()), (open(), foreign)] {
        let found = state(mail, vm, DomainState::ShutOff, &nothing);
        assert_eq!(found.state, State::Degraded, "{found:?}");
    }
    let running = state(open(), none, DomainState::Running, &nothing);
    assert_eq!(running.state, State::Up, "{running:?}");
}

#[test]
fn the_table_says_what_is_not_mounted_and_how_to_mend_it() {
    let found = status(open(), true, DomainState::ShutOff, None, false);
    let table = "degraded: something is not as it should be\n\
                 volume   vm   open      on /dev/vm\n\
                 guest    web  shut off  on vm; wanted, and not started: `virt-unlock up` starts it\n";
    assert_eq!(found.table(Verbosity::Normal, Colour(false)), table);
    let quiet: Vec<&str> = table
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("volume"))
        .collect();
    assert_eq!(found.table(Verbosity::Quiet, Colour(false)), quiet.concat());

    let mut volume = Volume::new("vm", DeviceSpec::Path("/dev/vm".into()));
    volume.mount = Some(crate::config::Mount {
        at: "/srv/vm".into(),
        fstype: None,
        options: None,
    });
    let facts = Facts {
        volumes: BTreeMap::from([(
            "vm".to_owned(),
            VolumeFacts {
                mapping: open(),
                ..VolumeFacts::default()
            },
        )]),
        ..Facts::default()
    };
    let found = VolumeStatus::of(&volume, &facts, &[], &Record::default(), false);
    assert_eq!(found.reason.as_deref(), Some("not mounted: `virt-unlock up` mounts it"));
    assert_eq!(State::of(&[found], &[], false, false), State::Degraded);
}

#[test]
fn a_guest_that_runs_and_is_not_ready_says_what_is_waited_for() {
    let config = Config {
        domains: vec![DomainConfig::new("web")],
        ..Config::default()
    };
    let facts = Facts {
        libvirt: Some(LibvirtFacts {
            domains: vec![DomainFacts {
                name: "web".into(),
                state: DomainState::Running,
                ..DomainFacts::default()
            }],
            ..LibvirtFacts::default()
        }),
        ..Facts::default()
    };
    let words = "runs; waiting until its guest agent answers";
    let record = Record::from([(Layer::Domain("web".into()), Remembered::Waiting(words.into()))]);
    let status = |guests| {
        let under_way = UnderWay { volumes: false, guests };
        Status::of(&config, &facts, &record, under_way).domains[0].reason.clone()
    };
    assert_eq!(status(true).as_deref(), Some(words));
    assert_eq!(status(false), None, "nobody waits any more");
}

#[test]
fn how_the_host_went_off_is_the_last_line() {
    let mut status = status(open(), true, DomainState::Running, None, false);
    let last = |status: &Status, verbosity| {
        let table = status.table(verbosity, Colour(false));
        table.lines().last().unwrap_or_default().to_owned()
    };
    assert!(!last(&status, Verbosity::Normal).contains("last shutdown"));
    status.last_shutdown = Some(LastShutdown {
        completed: true,
        at: Some("2025-11-27T23:21:39Z".to_owned()),
        words: Some("1 guest shut down, 1 volume closed".to_owned()),
    });
    assert_eq!(
        last(&status, Verbosity::Normal),
        "last shutdown: 2025-11-27 23:21:39 UTC: 1 guest shut down, 1 volume closed"
    );
    assert_eq!(last(&status, Verbosity::Quiet), "");
    status.last_shutdown = Some(LastShutdown {
        completed: false,
        at: None,
        words: None,
    });
    let words = "last shutdown: not completed: the host went off while volumes were open";
    for verbosity in [Verbosity::Normal, Verbosity::Quiet] {
        assert_eq!(last(&status, verbosity), words);
    }
}

#[test]
fn a_secret_says_whether_libvirt_has_it_and_why_not() {
    let config = Config {
        secrets: vec![SecretConfig::new("/srv/web")],
        ..Config::default()
    };
    let record = Record::from([(
        Layer::Secret("/srv/web".into()),
        Remembered::Failed("wrong three times".into()),
    )]);
    let of = |found: Option<bool>, state: DomainState| {
        let used = SecretUse {
            id: SecretId::of("/srv/web"),
            image: None,
            format: None,
        };
        let libvirt = LibvirtFacts {
            domains: vec![DomainFacts {
                name: "web".into(),
                state,
                secrets: vec![used],
                ..DomainFacts::default()
            }],
            secrets: Vec::from_iter(found.map(|ephemeral| SecretFacts {
                uuid: "u".into(),
                usage: Some("/srv/web".into()),
                ephemeral,
            })),
            ..LibvirtFacts::default()
        };
        let facts = Facts {
            libvirt: Some(libvirt),
            ..Facts::default()
        };
        Status::of(&config, &facts, &record, UnderWay::default()).table(Verbosity::Normal, Colour(false))
    };
    assert!(of(None, DomainState::ShutOff).contains("secret   /srv/web  not set   for web; wrong three times\n"));
    assert!(of(Some(true), DomainState::Running).contains("secret   /srv/web  set       for web\n"));
    assert!(of(None, DomainState::Running).contains("secret   /srv/web  not set   for web\n"));
    assert!(of(Some(false), DomainState::ShutOff).contains("libvirt keeps it on this host's disk"));
}
