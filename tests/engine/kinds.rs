//! The kind that each end has for the journal, apart from its words.

use std::time::Duration;

use virt_unlock::config::{Config, OnStopTimeout};
use virt_unlock::event::{Happened, Kind};
use virt_unlock::graph::Layer;
use virt_unlock::host::{HypervisorError, MountError, OpenError, User};

use crate::fake_host::run::{Report, Run, config, edit, mount, table};
use crate::fake_host::{Answer, FakeHost, Fault, Hears};

/// A guest on a raw volume, one on a filesystem.
fn two() -> (FakeHost, Config) {
    let host = FakeHost::new();
    host.volume("raw", "r").domain("on-raw", &["raw"], false);
    host.volume("files", "f").domain("on-files", &["files"], true);
    let mut config = config(&["raw", "files"]);
    mount(&mut config, "files");
    (host, config)
}

/// The kind of a layer's end.
#[allow(clippy::unwrap_used)] // a helper of tests
fn end(report: &Report, layer: &Layer) -> Option<Kind> {
    let is_end = |happened: &Happened| matches!(happened, Happened::Ended(_));
    let mut ends = report.events.iter().filter(|event| is_end(&event.happened));
    ends.find(|event| event.layer.as_ref() == Some(layer)).unwrap().kind
}

fn volume(report: &Report, name: &str) -> Option<Kind> {
    end(report, &Layer::Volume(name.into()))
}

fn domain(report: &Report, name: &str) -> Option<Kind> {
    end(report, &Layer::Domain(name.into()))
}

fn of_files(report: &Report) -> Option<Kind> {
    end(report, &Layer::Mount("files".into()))
}

#[test]
fn a_way_up_and_back_without_faults() {
    let (host, config) = two();
    let up = Run::new(&host, &config).up();
    assert_eq!(volume(&up, "raw"), Some(Kind::VolumeOpen));
    assert_eq!(of_files(&up), Some(Kind::Mounted));
    assert_eq!(domain(&up, "on-files"), Some(Kind::GuestStarted));
    let asked: Vec<_> = up
        .events
        .iter()
        .filter(|event| matches!(event.happened, Happened::Asking(_)))
        .map(|event| event.kind)
        .collect();
    assert_eq!(asked, [Some(Kind::QuestionOpen); 2]);

    // Open already is open; the other layers have nothing to tell that happened now.
    let again = Run::new(&host, &config).up();
    assert_eq!(volume(&again, "raw"), Some(Kind::VolumeOpen));
    assert_eq!((of_files(&again), domain(&again, "on-raw")), (None, None));

    let down = Run::new(&host, &config).down();
    assert_eq!(domain(&down, "on-raw"), Some(Kind::GuestShutDown));
    assert_eq!(volume(&down, "raw"), Some(Kind::VolumeClosed));
    let again = Run::new(&host, &config).down();
    assert_eq!((volume(&again, "raw"), domain(&again, "on-raw")), (None, None));
}

#[test]
fn each_reason_why_a_volume_stays_closed_has_its_own() {
    type Breaks = fn(&FakeHost, &mut Config);
    let broken: [(Kind, Breaks); 8] = [
        (Kind::VolumeGivenUp, |host, _| {
            host.answers("raw", &["a", "b", "c"].map(Answer::Says));
        }),
        (Kind::DeviceMissing, |host, config| {
            edit(config, "raw").device_timeout = Duration::from_millis(10);
            host.set(|world| world.volumes.get_mut("raw").unwrap().there = false);
        }),
        (Kind::ForeignMapping, |host, _| {
            host.set(|world| world.map("raw", false));
        }),
        // Taken since the plan was made.
        (Kind::ForeignMapping, |host, _| {
            host.fault("open raw", Fault::Open(OpenError::Exists("raw".to_owned())));
        }),
        (Kind::NoHeader, |host, _| {
            let header = Err(OpenError::Header("no LUKS magic".to_owned()));
            host.set(|world| world.volumes.get_mut("raw").unwrap().header = header);
        }),
        (Kind::NoMemory, |host, _| {
            host.fault("open raw", Fault::Open(OpenError::Memory("killed".to_owned())));
        }),
        (Kind::VolumeNotOpened, |host, _| {
            host.fault("open raw", Fault::Open(OpenError::Busy("busy".to_owned())));
        }),
        (Kind::VolumeNotOpened, |host, _| {
            host.fault("open raw", Fault::Panic);
        }),
    ];
    for (kind, breaks) in broken {
        let (host, mut config) = two();
        breaks(&host, &mut config);
        let report = Run::new(&host, &config).up();
        assert_eq!(volume(&report, "raw"), Some(kind));
        assert_eq!(domain(&report, "on-raw"), Some(Kind::GuestNotStarted));
        assert_eq!(domain(&report, "on-files"), Some(Kind::GuestStarted));
    }
}

#[test]
fn what_hangs_on_a_foreign_mapping_is_not_foreign_itself() {
    let (host, mut config) = two();
    edit(&mut config, "files").after = vec!["raw".to_owned()];
    host.set(|world| world.map("raw", false));
    let report = Run::new(&host, &config).up();
    assert_eq!(volume(&report, "raw"), Some(Kind::ForeignMapping));
    assert_eq!(volume(&report, "files"), Some(Kind::VolumeNotOpened));
}

#[test]
fn what_is_not_mounted_and_a_libvirt_that_is_away() {
    let (host, config) = two();
    host.fault("mount files", Fault::Mount(MountError::Other("needs a repair".to_owned())));
    let away = HypervisorError::Unavailable("libvirt does not answer".to_owned());
    host.fault("start on-raw", Fault::Libvirt(away));
    let report = Run::new(&host, &config).up();
    assert_eq!(of_files(&report), Some(Kind::NotMounted));
    assert_eq!(domain(&report, "on-files"), Some(Kind::GuestNotStarted));
    let waits = |kind| report.events.iter().filter(move |event| event.kind == Some(kind));
    assert_eq!(waits(Kind::LibvirtSilent).count(), 1);
    assert_eq!(domain(&report, "on-raw"), Some(Kind::GuestStarted));
}

#[test]
fn what_does_not_go_down() {
    let (host, mut config) = two();
    Run::new(&host, &config).up().assert_good();
    let shell = User::Process {
        pid: 42,
        comm: "bash".to_owned(),
        path: "/srv/files".into(),
        how: "working directory",
        machine: None,
    };
    host.set(|world| {
        world.users.insert("files".to_owned(), vec![shell]);
        world.domains.get_mut("on-raw").unwrap().hears = Hears::Nothing;
    });
    table(&mut config, "on-raw").stop_timeout = Some(Duration::ZERO);
    table(&mut config, "on-raw").on_stop_timeout = OnStopTimeout::Wait;
    let report = Run::new(&host, &config).deadline(Duration::from_millis(100)).down();
    assert_eq!(of_files(&report), Some(Kind::VolumeStaysOpen));
    assert_eq!(volume(&report, "files"), Some(Kind::VolumeStaysOpen));
    assert_eq!(domain(&report, "on-raw"), Some(Kind::GuestStillRuns));

    // Now its plug may be pulled.
    table(&mut config, "on-raw").on_stop_timeout = OnStopTimeout::Destroy;
    let report = Run::new(&host, &config).down();
    assert_eq!(domain(&report, "on-raw"), Some(Kind::GuestDestroyed));
    assert_eq!(volume(&report, "raw"), Some(Kind::VolumeClosed));
}
