//! The emergency: nobody is asked, and what cannot be closed loses its key.

use std::time::Duration;

use virt_unlock::config::{Config, OnStopTimeout, Stop};
use virt_unlock::event::Outcome;
use virt_unlock::facts::DomainState;
use virt_unlock::host::{CloseError, User};

use crate::fake_host::run::{Run, config, edit, failure, mount, table};
use crate::fake_host::{FakeHost, Fault, Hears};

/// A host that is up: a guest that hears nothing on a raw volume, one that would be waited for or saved on a filesystem.
#[allow(clippy::unwrap_used)] // a helper of tests
fn up() -> (FakeHost, Config) {
    let host = FakeHost::new();
    host.volume("raw", "r").domain("on-raw", &["raw"], false);
    host.volume("files", "f").domain("on-files", &["files"], true);
    let mut config = config(&["raw", "files"]);
    mount(&mut config, "files");
    Run::new(&host, &config).up().assert_good();
    host.set(|world| world.domains.get_mut("on-raw").unwrap().hears = Hears::Nothing);
    table(&mut config, "on-raw").on_stop_timeout = OnStopTimeout::Wait;
    table(&mut config, "on-files").stop = Stop::Save;
    (host, config)
}

fn asked(host: &FakeHost) -> bool {
    let log = host.log();
    log.iter()
        .any(|call| ["button", "agent", "save"].iter().any(|word| call.starts_with(word)))
}

#[test]
fn guests_are_not_asked_and_all_is_closed() {
    let (host, config) = up();
    let report = Run::new(&host, &config).down_at_once();
    report.assert_good();
    assert_eq!(report.domain("on-raw"), &Outcome::Done("destroyed: at once".to_owned()));
    assert_eq!(report.domain("on-files"), &Outcome::Done("destroyed: at once".to_owned()));
    assert!(!asked(&host), "{:?}", host.log());
    assert!(!host.is_open("raw") && !host.is_open("files"));
    assert!(host.look(|world| world.suspended.is_empty()));
    host.assert_lawful();
}

#[test]
fn what_a_name_means_goes_and_nothing_else() {
    let (host, config) = up();
    Run::new(&host, &config).names(&["files"]).down_at_once().assert_good();
    assert!(!host.is_open("files") && host.is_open("raw"));
    assert_eq!(host.state_of("on-raw"), DomainState::Running);
    assert!(host.look(|world| world.suspended.is_empty()));
}

#[test]
fn a_volume_that_stays_busy_loses_its_key_and_its_user_is_named() {
    let (host, config) = up();
    let shell = User::Process {
        pid: 42,
        comm: "bash".to_owned(),
        path: "/srv/files".into(),
        how: "working directory",
        machine: None,
    };
    host.set(|world| {
        world.users.insert("files".to_owned(), vec![shell]);
    });
    let report = Run::new(&host, &config).down_at_once();
    assert!(failure(report.mount("files")).contains("bash (process 42) has /srv/files as its working directory"));
    assert!(report.volume("files").is_bad() && report.volume("raw") == &Outcome::Done("closed".to_owned()));
    assert!(host.look(|world| world.suspended.iter().eq(["files"])));
    let warnings = report.warnings();
    let words = "is not closed, but its key is gone from the kernel: what uses it hangs; `cryptsetup luksResume files`";
    assert!(warnings.iter().any(|warning| warning.starts_with(words)), "{warnings:?}");
    host.assert_lawful();
}

#[test]
fn what_was_not_closed_the_first_time_is_no_success_the_second_time() {
    let (host, config) = up();
    host.set(|world| world.domains.get_mut("on-raw").unwrap().survives_destroy = true);
    Run::new(&host, &config).down_at_once();
    let report = Run::new(&host, &config).down_at_once();
    assert_eq!(failure(report.volume("raw")), "not ours to close: is suspended");
    assert_eq!(report.volume("files"), &Outcome::Already("closed already".to_owned()));
    // Who asks for another one has what was asked for.
    Run::new(&host, &config).names(&["files"]).down_at_once().assert_good();
    host.assert_lawful();
}

#[test]
fn what_lies_below_a_volume_that_is_not_ours_to_close_is_closed_all_the_same() {
    let (host, mut config) = up();
    edit(&mut config, "raw").after = vec!["files".to_owned()];
    host.set(|world| world.suspended.extend(["raw".to_owned()]));
    let report = Run::new(&host, &config).down_at_once();
    assert!(report.volume("raw").is_bad());
    assert_eq!(report.volume("files"), &Outcome::Done("closed".to_owned()));
}

#[test]
fn a_step_that_hangs_keeps_no_key() {
    let (host, config) = up();
    host.fault("close raw", Fault::Hang);
    let report = Run::new(&host, &config)
        .pace(|pace| pace.destroy_limit = Duration::from_millis(50))
        .deadline(Duration::from_millis(250))
        .down_at_once();
    assert_eq!(report.volume("raw"), &Outcome::Cancelled);
    assert!(host.look(|world| world.suspended.iter().eq(["raw"])));
    host.assert_lawful();
}

#[test]
fn a_guest_that_survives_keeps_a_volume_without_a_key() {
    let (host, config) = up();
    host.set(|world| world.domains.get_mut("on-raw").unwrap().survives_destroy = true);
    let report = Run::new(&host, &config).down_at_once();
    assert!(failure(report.domain("on-raw")).contains("did not end when it was destroyed"));
    assert!(host.look(|world| world.suspended.iter().eq(["raw"])));
    assert!(!host.is_open("files"));
    host.assert_lawful();
}

#[test]
fn without_libvirt_the_keys_are_gone_all_the_same() {
    let (host, config) = up();
    host.set(|world| world.libvirt_away = usize::MAX);
    Run::new(&host, &config).deadline(Duration::ZERO).down_at_once();
    assert!(host.look(|world| world.suspended.len() == 2));
    assert!(host.state_of("on-raw").is_active() && host.is_open("raw"));
    host.assert_lawful();
}

#[test]
fn a_key_that_stays_is_said_loudly() {
    let (host, config) = up();
    host.set(|world| world.domains.get_mut("on-raw").unwrap().survives_destroy = true);
    host.fault("suspend raw", Fault::Close(CloseError::Other("not supported".to_owned())));
    let report = Run::new(&host, &config).down_at_once();
    let words = "IS NOT CLOSED, AND ITS KEY IS STILL IN THE KERNEL: not supported";
    assert!(report.warnings().contains(&words), "{:?}", report.warnings());
}
