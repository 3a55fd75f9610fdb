//! Keys in files that come late, on sticks and elsewhere.

use std::path::Path;
use std::time::Duration;

use virt_unlock::config::{DeviceSpec, KeyFile, Unlock};
use virt_unlock::event::Outcome;

use crate::fake_host::FakeHost;
use crate::fake_host::run::{Run, edit};
use crate::ways::two;

/// A key on a stick, which is waited for this long.
fn on_stick(timeout: Duration) -> Unlock {
    Unlock::KeyFile(KeyFile {
        device: Some(DeviceSpec::Path("/dev/stick".into())),
        timeout,
        ..KeyFile::new("/mail.key")
    })
}

fn plug_in(host: &FakeHost, key: &str) {
    host.set(|world| {
        let files = [("/mail.key".into(), key.as_bytes().to_vec())];
        world.sticks.insert("/dev/stick".into(), files.into());
    });
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_key_on_a_stick_opens_its_volume() {
    let (host, config) = two(&[on_stick(LONG), Unlock::Passphrase]);
    plug_in(&host, "mail opens");
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("opened by key file /mail.key on /dev/stick"));
    assert!(!report.says("waiting up to"), "{report:?}");
    assert_eq!(host.count("ask mail"), 0);
}

#[test]
fn a_stick_that_comes_late_is_waited_for_and_keeps_nobody_s_question_back() {
    let (host, config) = two(&[on_stick(LONG), Unlock::Passphrase]);
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config).pace(|pace| pace.order_patience = LONG);
        let up = scope.spawn(move || run.up());
        host.wait_until("web is open", |world| world.mappings.contains_key("web"));
        plug_in(&host, "mail opens");
        let report = up.join().unwrap();
        report.assert_good();
        assert!(report.says("the device /dev/stick of its key file is not there; waiting up to 1h for it"));
    });
    assert_eq!(host.count("ask mail"), 0);
    host.assert_lawful();
}

#[test]
fn a_stick_that_does_not_come_is_said_and_the_next_way_is_tried() {
    let (host, config) = two(&[on_stick(Duration::from_millis(10)), Unlock::Passphrase]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    let words = "key file /mail.key on /dev/stick: the device is not there, after waiting 10ms for it";
    assert_eq!(report.warnings(), [words]);
    assert_eq!(host.count("ask mail"), 1);
    // Nor does one without the file on it.
    let (host, config) = two(&[on_stick(LONG)]);
    host.set(|world| {
        world.sticks.insert("/dev/stick".into(), [].into());
    });
    let report = Run::new(&host, &config).up();
    let words = "key file /mail.key on /dev/stick: the key file cannot be read: No such file or directory";
    assert_eq!(report.warnings(), [words]);
}

#[test]
fn a_stick_that_is_missing_is_waited_for_once() {
    let ways = [on_stick(Duration::from_millis(10)), Unlock::Passphrase];
    let (host, mut config) = two(&ways);
    edit(&mut config, "web").unlock = ways.to_vec();
    edit(&mut config, "web").after = vec!["mail".into()];
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(report.count("waiting up to 10ms"), 1, "{report:?}");
    assert_eq!(report.warnings().len(), 2);
}

#[test]
fn waiting_for_a_stick_can_be_cancelled() {
    let (host, config) = two(&[on_stick(LONG)]);
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config);
        let cancel = run.cancel.clone();
        let up = scope.spawn(move || run.up());
        host.wait_until("web is open", |world| world.mappings.contains_key("web"));
        cancel.raise();
        let report = up.join().unwrap();
        assert_eq!(*report.volume("mail"), Outcome::Cancelled);
    });
}

#[test]
fn a_key_file_that_comes_late_is_waited_for_as_long_as_it_says() {
    let late = |timeout| {
        Unlock::KeyFile(KeyFile {
            timeout,
            ..KeyFile::new("/srv/key")
        })
    };
    let (host, config) = two(&[late(LONG)]);
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config);
        let up = scope.spawn(move || run.up());
        host.wait_until("web is open", |world| world.mappings.contains_key("web"));
        host.set(|world| {
            world.files.insert(Path::new("/srv/key").into(), b"mail opens".to_vec());
        });
        let report = up.join().unwrap();
        report.assert_good();
        assert!(report.says("its key file /srv/key is not there; waiting up to 1h for it"));
    });
    let (host, config) = two(&[late(Duration::from_millis(5))]);
    let report = Run::new(&host, &config).up();
    let words = "key file /srv/key: the key file cannot be read: No such file or directory";
    assert_eq!(report.warnings(), [words]);
}
