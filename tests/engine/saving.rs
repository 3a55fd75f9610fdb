//! Guests whose memory is saved instead of their being asked to shut down.

use std::time::Duration;

use virt_unlock::config::{Config, Stop};
use virt_unlock::event::{Event, Happened, Kind, Outcome};
use virt_unlock::facts::DomainState;
use virt_unlock::graph;
use virt_unlock::host::HypervisorError;
use virt_unlock::plan::{self, Names};

use crate::fake_host::run::{Report, Run, config, edit, mount, table};
use crate::fake_host::{FakeHost, Fault};

/// `web` is to be saved, and runs.
fn running() -> (FakeHost, Config) {
    let (host, mut config) = (FakeHost::new(), config(&["files"]));
    mount(&mut config, "files");
    host.volume("files", "f").domain("web", &["files"], true);
    table(&mut config, "web").stop = Stop::Save;
    Run::new(&host, &config).up().assert_good();
    (host, config)
}

fn kinds(report: &Report) -> Vec<Kind> {
    let ended = |event: &&Event| matches!(event.happened, Happened::Ended(Outcome::Done(_)));
    report.events.iter().filter(ended).filter_map(|event| event.kind).collect()
}

#[test]
fn a_guest_is_saved_and_restored() {
    let (host, config) = running();
    let down = Run::new(&host, &config).down();
    down.assert_good();
    assert_eq!((host.count("save web"), host.count("button web")), (1, 0));
    assert!(kinds(&down).contains(&Kind::GuestSaved) && !kinds(&down).contains(&Kind::GuestShutDown));
    assert!(host.when_done("save web") < host.when_begun("unmount /srv/files"));
    assert!(!host.is_open("files"));

    let run = Run::new(&host, &config);
    let facts = run.facts();
    let graph = graph::of(&config, &facts).unwrap();
    let plan = plan::up(&config, &facts, &graph, &Names::default()).unwrap();
    let step = plan.steps.last().unwrap();
    assert_eq!(
        step.reason,
        "is shut off and set to autostart; restored from its managed save"
    );
    let up = run.up();
    assert_eq!(*up.domain("web"), Outcome::Done("restored from its managed save".to_owned()));
    host.assert_lawful();
}

/// No file of the guest's lies there before it is saved.
#[test]
fn the_half_without_libvirt_keeps_the_mount_that_a_guest_is_saved_to_until_it_is_off() {
    let (host, mut config) = (FakeHost::new(), config(&["files", "data"]));
    mount(&mut config, "files");
    edit(&mut config, "files").mount.as_mut().unwrap().at = "/var/lib/libvirt/qemu/save".into();
    host.volume("files", "f").volume("data", "d").domain("web", &["data"], false);
    table(&mut config, "web").stop = Stop::Save;
    Run::new(&host, &config).up().assert_good();
    std::thread::scope(|scope| {
        let down = scope.spawn(|| Run::new(&host, &config).without_libvirt().down());
        host.wait_until("some looks", |world| world.looks_at_users > 20);
        assert_eq!(host.count("unmount /var/lib/libvirt/qemu/save"), 0);
        host.set(|world| world.domains.get_mut("web").unwrap().state = DomainState::ShutOff);
        let report = down.join().unwrap();
        report.assert_good();
        assert!(report.says("waiting for guest web to end: its memory is saved here"));
    });
    assert!(!host.is_open("files"));
}

/// libvirt looks for what is saved when its daemon starts; the folder may be mounted later.
#[test]
fn what_libvirt_finds_saved_only_when_it_starts_it_is_restored_all_the_same() {
    let (host, config) = running();
    Run::new(&host, &config).down().assert_good();
    host.set(|world| world.saves_not_known = true);
    let up = Run::new(&host, &config).up();
    assert_eq!(*up.domain("web"), Outcome::Done("restored from its managed save".to_owned()));
}

#[test]
fn a_guest_is_not_saved_to_a_disk_in_the_clear() {
    let (host, config) = running();
    host.set(|world| world.save_in_the_clear = true);
    let down = Run::new(&host, &config).down();
    down.assert_good();
    assert_eq!((host.count("save web"), host.count("button web")), (0, 1));
    assert_eq!(
        down.warnings(),
        ["is not saved: /var/lib/libvirt/qemu/save lies on /dev/sda1, which is not encrypted; it is asked to shut down instead"]
    );
    host.assert_lawful();
}

#[test]
fn a_libvirt_of_which_the_folder_is_not_known_saves_nothing() {
    let (host, mut config) = running();
    config.host.libvirt_uri = "qemu:///session".to_owned();
    Run::new(&host, &config).down().assert_good();
    assert_eq!((host.count("save web"), host.count("button web")), (0, 1));
}

#[test]
fn a_guest_that_cannot_be_saved_is_shut_down() {
    let (host, config) = running();
    let refused = HypervisorError::Refused("cannot migrate domain with VFIO".to_owned());
    host.fault("save web", Fault::Libvirt(refused));
    let down = Run::new(&host, &config).down();
    down.assert_good();
    assert_eq!(host.count("button web"), 1);
    assert!(down.warnings()[0].starts_with("is not saved: cannot migrate"));
    assert!(kinds(&down).contains(&Kind::GuestShutDown));
}

#[test]
fn a_save_can_be_cancelled() {
    let (host, config) = running();
    host.hold("save web");
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config).deadline(Duration::from_secs(600));
        let cancel = run.cancel.clone();
        let down = scope.spawn(move || run.down());
        host.wait_for_call("save web", 1);
        cancel.raise();
        assert_eq!(*down.join().unwrap().domain("web"), Outcome::Cancelled);
    });
    assert_eq!((host.state_of("web"), host.count("button web")), (DomainState::Running, 0));
    assert!(host.is_open("files"));
}
