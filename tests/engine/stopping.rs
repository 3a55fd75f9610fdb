//! The way down: guests that do not hear, volumes that stay busy.

use std::time::Duration;

use virt_unlock::config::{Config, OnStopTimeout};
use virt_unlock::event::{Kind, Outcome};
use virt_unlock::facts::{DomainState, MountState, Pause};
use virt_unlock::host::{CloseError, HypervisorError, User};

use crate::fake_host::run::{Run, config, failure, mount, table};
use crate::fake_host::{FakeHost, Fault, Hears};

/// A host that is up: a guest on a raw volume, one on a filesystem.
fn up() -> (FakeHost, Config) {
    let host = FakeHost::new();
    host.volume("raw", "r").domain("on-raw", &["raw"], false);
    host.volume("files", "f").domain("on-files", &["files"], true);
    let mut config = config(&["raw", "files"]);
    mount(&mut config, "files");
    Run::new(&host, &config).up().assert_good();
    (host, config)
}

#[allow(clippy::unwrap_used)] // a helper of tests
fn hears(host: &FakeHost, domain: &str, hears: Hears) {
    host.set(|world| world.domains.get_mut(domain).unwrap().hears = hears);
}

fn shell() -> User {
    User::Process {
        pid: 42,
        comm: "bash".to_owned(),
        path: "/srv/files".into(),
        how: "working directory",
        machine: None,
    }
}

#[test]
fn the_request_is_sent_again_until_it_is_heard() {
    let (host, config) = up();
    hears(&host, "on-raw", Hears::Button(5));
    hears(&host, "on-files", Hears::Agent);
    Run::new(&host, &config).down().assert_good();
    assert_eq!(host.count("button on-raw"), 5);
    assert!(host.count("agent on-files") == 1 && host.count("destroy on-files") == 0);
    host.assert_lawful();
}

#[test]
fn a_request_that_fails_is_sent_again() {
    let (host, config) = up();
    for _ in 0..3 {
        host.fault("button on-raw", Fault::Libvirt(HypervisorError::Refused("busy".to_owned())));
    }
    Run::new(&host, &config).down().assert_good();
    assert!(host.count("button on-raw") > 3);
}

#[test]
fn a_guest_that_does_not_hear_is_destroyed_and_it_is_said() {
    let (host, mut config) = up();
    hears(&host, "on-raw", Hears::Nothing);
    table(&mut config, "on-raw").stop_timeout = Some(Duration::from_millis(20));
    let report = Run::new(&host, &config).down();
    report.assert_good();
    let Outcome::Done(words) = report.domain("on-raw") else {
        panic!("{report:?}")
    };
    assert!(words.starts_with("destroyed: it did not shut down within "), "{words}");
    assert!(report.warnings()[0].contains("its plug is pulled"));
    assert!(!host.is_open("raw"));
    assert_eq!(host.count("destroy on-files"), 0);
    host.assert_lawful();
}

#[test]
fn with_wait_the_plug_is_never_pulled_and_the_volume_stays_open() {
    let (host, mut config) = up();
    hears(&host, "on-raw", Hears::Nothing);
    table(&mut config, "on-raw").stop_timeout = Some(Duration::ZERO);
    table(&mut config, "on-raw").on_stop_timeout = OnStopTimeout::Wait;
    let report = Run::new(&host, &config).deadline(Duration::from_millis(100)).down();
    let words = failure(report.domain("on-raw"));
    assert!(words.contains("not destroyed, because on-stop-timeout = \"wait\""), "{words}");
    assert_eq!(report.volume("raw"), &Outcome::Skipped("guest on-raw failed".to_owned()));
    assert!(host.is_open("raw") && host.count("close raw") == 0 && host.count("destroy on-raw") == 0);
    assert!(!host.is_open("files"));
}

#[test]
fn one_that_even_destroying_does_not_end_keeps_its_volume() {
    let (host, mut config) = up();
    hears(&host, "on-raw", Hears::Nothing);
    host.set(|world| world.domains.get_mut("on-raw").unwrap().survives_destroy = true);
    table(&mut config, "on-raw").stop_timeout = Some(Duration::ZERO);
    let report = Run::new(&host, &config).down();
    assert_eq!(
        failure(report.domain("on-raw")),
        "did not end when it was destroyed; its volumes stay open"
    );
    assert_eq!(host.count("close raw"), 0);
}

#[allow(clippy::unwrap_used)] // a helper of tests
fn is_now(host: &FakeHost, domain: &str, state: DomainState) {
    host.set(|world| world.domains.get_mut(domain).unwrap().state = state);
}

#[test]
fn a_paused_guest_is_woken_so_that_it_can_hear() {
    for (state, words) in [
        (
            DomainState::Paused(Pause::Ordered),
            "is paused: resumed, so that it can hear the request",
        ),
        (
            DomainState::PmSuspended,
            "is suspended: woken, so that it can hear the request",
        ),
        (DomainState::Paused(Pause::IoError), "resumed, so that it tries that again"),
    ] {
        let (host, config) = up();
        is_now(&host, "on-raw", state);
        let report = Run::new(&host, &config).down();
        report.assert_good();
        assert!(report.says(words), "{report:?}");
        assert_eq!((host.count("destroy on-raw"), host.count("resume on-raw")), (0, 1));
    }
}

#[test]
fn one_whose_disk_is_full_is_resumed_once_and_then_has_its_time() {
    let (host, mut config) = up();
    is_now(&host, "on-raw", DomainState::Paused(Pause::IoError));
    host.set(|world| world.domains.get_mut("on-raw").unwrap().cannot_resume = true);
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let down = scope.spawn(|| run.down());
        // Asked again and again, it is not resumed again; somebody makes room.
        host.wait_for_call("button on-raw", 4);
        is_now(&host, "on-raw", DomainState::Running);
        let report = down.join().unwrap();
        report.assert_good();
        let [warning] = report.warnings()[..] else {
            panic!("{report:?}")
        };
        assert!(warning.contains("cannot shut down: make room or mend the disk, then `virsh resume on-raw`"));
    });
    assert_eq!((host.count("resume on-raw"), host.count("destroy on-raw")), (1, 0));

    // Nobody does: the end is the one that its table says.
    Run::new(&host, &config).up().assert_good();
    is_now(&host, "on-raw", DomainState::Paused(Pause::IoError));
    table(&mut config, "on-raw").stop_timeout = Some(Duration::from_millis(20));
    let report = Run::new(&host, &config).down();
    report.assert_good();
    assert!(host.count("destroy on-raw") == 1 && !host.is_open("raw"));
}

#[test]
fn one_that_libvirt_holds_is_not_disturbed() {
    let (host, config) = up();
    is_now(&host, "on-raw", DomainState::Paused(Pause::Held));
    std::thread::scope(|scope| {
        let down = scope.spawn(|| Run::new(&host, &config).down());
        host.wait_for_call("button on-raw", 2);
        is_now(&host, "on-raw", DomainState::ShutOff);
        down.join().unwrap().assert_good();
    });
    assert_eq!(host.count("resume on-raw"), 0);
}

#[test]
fn one_that_has_crashed_is_not_waited_for() {
    let (host, mut config) = up();
    is_now(&host, "on-raw", DomainState::Paused(Pause::Crashed));
    // With its stop-timeout of minutes, only giving up at once ends within the test's patience.
    let report = Run::new(&host, &config).down();
    assert_eq!(
        report.domain("on-raw"),
        &Outcome::Done("destroyed: it had crashed".to_owned())
    );
    assert_eq!(report.warnings(), ["has crashed and cannot shut down: its plug is pulled"]);
    assert!(!host.is_open("raw"));

    Run::new(&host, &config).up().assert_good();
    is_now(&host, "on-raw", DomainState::Paused(Pause::Crashed));
    table(&mut config, "on-raw").on_stop_timeout = OnStopTimeout::Wait;
    let report = Run::new(&host, &config).down();
    assert!(failure(report.domain("on-raw")).starts_with("has crashed and cannot shut down; not destroyed"));
    assert!(host.is_open("raw") && host.count("destroy on-raw") == 1);
}

#[test]
fn a_guest_started_by_hand_is_stopped_too() {
    let (host, config) = up();
    host.domain("by-hand", &["files"], true);
    host.set(|world| {
        let domain = world.domains.get_mut("by-hand").unwrap();
        domain.autostart = false;
        domain.state = DomainState::Running;
    });
    Run::new(&host, &config).down().assert_good();
    assert_eq!(host.state_of("by-hand"), DomainState::ShutOff);
    assert!(!host.is_open("files"));
    host.assert_lawful();
}

#[test]
fn each_volume_closes_as_soon_as_its_own_guest_is_off() {
    let (host, config) = up();
    hears(&host, "on-raw", Hears::Nothing);
    std::thread::scope(|scope| {
        let down = scope.spawn(|| Run::new(&host, &config).down());
        host.wait_until("the other volume is closed", |world| !world.mappings.contains_key("files"));
        assert!(host.state_of("on-raw").is_active() && host.count("close raw") == 0);
        hears(&host, "on-raw", Hears::Button(1));
        down.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn guests_stop_in_the_reverse_of_their_order() {
    let (host, mut config) = up();
    table(&mut config, "on-files").after = vec!["on-raw".to_owned()];
    Run::new(&host, &config).down().assert_good();
    assert!(host.when_done("button on-files") < host.when_begun("button on-raw"));
}

#[test]
fn a_shell_in_the_mount_is_named_and_the_volume_stays_open() {
    let (host, config) = up();
    host.set(|world| {
        world.users.insert("files".to_owned(), vec![shell()]);
    });
    let report = Run::new(&host, &config).down();
    let words = failure(report.mount("files"));
    assert!(
        words.contains("bash (process 42) has /srv/files as its working directory (end it)"),
        "{words}"
    );
    assert!(words.contains("`umount /srv/files` tries again"), "{words}");
    assert_eq!(report.volume("files"), &Outcome::Skipped("mount files failed".to_owned()));
    assert_eq!(host.mounted("/srv/files"), MountState::Ours);
    assert!(host.is_open("files") && !host.is_open("raw"));
    host.assert_lawful();
}

#[test]
fn open_files_that_go_by_themselves_are_waited_for() {
    let (host, config) = up();
    host.set(|world| {
        world.users.insert("files".to_owned(), vec![shell()]);
        world.users_leave_after.insert("files".to_owned(), 3);
    });
    Run::new(&host, &config)
        .pace(|pace| pace.busy_limit = Duration::from_secs(60))
        .down()
        .assert_good();
    assert!(host.count("unmount /srv/files") > 1);
}

#[test]
fn a_holder_on_top_is_hopeless_at_once_and_named() {
    let (host, config) = up();
    host.set(|world| {
        let holder = User::Holder {
            name: "dm-7".to_owned(),
            mapping: Some("guestvg-root".to_owned()),
            uuid: Some("LVM-abc".to_owned()),
        };
        world.users.insert("raw".to_owned(), vec![holder]);
    });
    // With a limit this long, only giving up at once ends within the test's patience.
    let report = Run::new(&host, &config)
        .pace(|pace| pace.busy_limit = Duration::from_secs(3600))
        .down();
    assert!(failure(report.volume("raw")).contains("vgchange -an guestvg"));
    assert_eq!(host.count("close raw"), 1);
    assert!(host.is_open("raw"));
}

#[test]
fn a_close_that_fails_otherwise_is_said_once() {
    let (host, config) = up();
    host.fault("close raw", Fault::Close(CloseError::Other("no udev".to_owned())));
    let report = Run::new(&host, &config).down();
    assert_eq!(failure(report.volume("raw")), "cannot be closed: no udev");
    assert!(!host.is_open("files"));
}

#[test]
fn a_guest_that_is_gone_from_libvirt_meanwhile_is_off() {
    let (host, config) = up();
    hears(&host, "on-raw", Hears::Nothing);
    std::thread::scope(|scope| {
        let down = scope.spawn(|| Run::new(&host, &config).down());
        host.wait_for_call("button on-raw", 2);
        host.set(|world| {
            world.domains.remove("on-raw");
        });
        down.join().unwrap().assert_good();
    });
    assert!(!host.is_open("raw"));
}

#[test]
fn a_hopeless_wait_for_a_guest_ends_at_the_deadline() {
    let (host, config) = up();
    let report = Run::new(&host, &config)
        .without_libvirt()
        .deadline(Duration::from_millis(50))
        .down();
    assert!(failure(report.volume("raw")).contains("waiting for guest on-raw to end"));
    assert!(host.is_open("raw") && host.state_of("on-raw").is_active());
}

#[test]
fn nobody_is_destroyed_before_being_asked() {
    let (host, mut config) = up();
    table(&mut config, "on-raw").stop_timeout = Some(Duration::from_millis(1));
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        host.hold("state on-raw");
        let down = scope.spawn(|| run.down());
        host.wait_for_call("state on-raw", 1);
        // The daemon is away for longer than the guest may take to stop.
        host.set(|world| world.libvirt_away = 30).release("state on-raw");
        down.join().unwrap().assert_good();
    });
    assert_eq!((host.count("button on-raw"), host.count("destroy on-raw")), (1, 0));
}

#[test]
fn an_agent_that_does_not_answer_costs_no_request() {
    let (host, config) = up();
    hears(&host, "on-raw", Hears::Button(3));
    Run::new(&host, &config).down().assert_good();
    assert_eq!((host.count("agent on-raw"), host.count("button on-raw")), (1, 3));
    let log = host.log();
    let agent = log.iter().position(|call| call == "agent on-raw").unwrap();
    assert_eq!(
        log[agent..]
            .iter()
            .find(|call| call.ends_with("on-raw") && !call.starts_with("agent"))
            .unwrap(),
        "button on-raw"
    );
}

/// While a guest takes its time to stop, somebody closes a volume by hand and uses its name, or its mount point, for something else.
#[test]
fn what_became_foreign_since_the_plan_is_left_alone() {
    let (host, config) = up();
    hears(&host, "on-raw", Hears::Nothing);
    hears(&host, "on-files", Hears::Nothing);
    std::thread::scope(|scope| {
        let down = scope.spawn(|| Run::new(&host, &config).down());
        host.wait_for_call("button on-raw", 1);
        host.wait_for_call("button on-files", 1);
        host.set(|world| {
            world.map("raw", false);
            let at = std::path::PathBuf::from("/srv/files");
            let foreign = MountState::Foreign("a tmpfs".to_owned());
            world.mounts.insert(at, (foreign, "other".to_owned()));
            for domain in world.domains.values_mut() {
                domain.state = DomainState::ShutOff;
            }
        });
        let report = down.join().unwrap();
        let left = |outcome: &Outcome, part: &str| matches!(outcome, Outcome::Left(words) if words.contains(part));
        assert!(left(report.volume("raw"), "not this volume"), "{report:?}");
        assert!(left(report.mount("files"), "a tmpfs"), "{report:?}");
    });
    host.assert_lawful();
    assert_eq!((host.count("close raw"), host.count("unmount /srv/files")), (0, 0));
}

#[test]
fn the_deadline_of_the_whole_way_ends_every_wait() {
    let (host, config) = up();
    host.set(|world| {
        world.users.insert("files".to_owned(), vec![shell()]);
    });
    for _ in 0..1000 {
        let away = HypervisorError::Unavailable("Connection refused".to_owned());
        host.fault("button on-raw", Fault::Libvirt(away));
    }
    let run = Run::new(&host, &config).deadline(Duration::from_millis(50));
    let report = run.pace(|pace| pace.busy_limit = Duration::from_secs(3600)).down();
    failure(report.mount("files"));
    let Outcome::Done(words) = report.domain("on-raw") else {
        panic!("{report:?}")
    };
    assert!(words.starts_with("destroyed"), "{words}");
}

#[test]
fn an_unmount_that_hangs_is_said_in_time_and_keeps_nobody_else() {
    let (host, config) = up();
    host.fault("unmount /srv/files", Fault::Hang);
    let report = Run::new(&host, &config)
        .pace(|pace| pace.destroy_limit = Duration::ZERO)
        .deadline(Duration::from_millis(250))
        .down();
    let words = failure(report.mount("files"));
    assert!(words.starts_with("/srv/files is still being unmounted after "), "{words}");
    assert!(host.is_open("files") && !host.is_open("raw"));
    host.assert_lawful();
}

/// A chain of guests: each is stopped before the one that it is `after`.
fn chain(count: usize, stop_timeout: Duration) -> (FakeHost, Config) {
    let host = FakeHost::new();
    let mut config = config(&["raw"]);
    host.volume("raw", "r");
    for number in 0..count {
        host.domain(&format!("g{number}"), &["raw"], false);
        let table = table(&mut config, &format!("g{number}"));
        table.stop_timeout = Some(stop_timeout);
        table.after = number.checked_sub(1).map(|before| format!("g{before}")).into_iter().collect();
    }
    Run::new(&host, &config).up().assert_good();
    (host, config)
}

#[test]
fn one_that_takes_all_of_the_time_leaves_the_others_theirs() {
    // Together they want far more than there is, and the first one hears nothing.
    let (host, config) = chain(3, Duration::from_secs(60));
    hears(&host, "g2", Hears::Nothing);
    for heard in ["g1", "g0"] {
        hears(&host, heard, Hears::Button(2));
    }
    let report = Run::new(&host, &config).deadline(Duration::from_secs(1)).down();
    report.assert_good();
    let Outcome::Done(words) = report.domain("g2") else {
        panic!("{report:?}")
    };
    assert!(words.starts_with("destroyed: it did not shut down within "), "{words}");
    assert_eq!((host.count("destroy g1"), host.count("destroy g0")), (0, 0));
    // What was cut is said before, and what became of it.
    let cut = report.events.iter().filter(|event| event.kind == Some(Kind::GuestCutShort));
    assert_eq!(cut.count(), 3);
    let warnings = report.warnings();
    assert!(
        warnings[0].starts_with("stop-deadline is near: it has ") && warnings[0].contains("not the 1min of its stop-timeout")
    );
    assert!(report.says("all that stop-deadline leaves of its stop-timeout of 1min: its plug is pulled"));
    assert!(!host.is_open("raw"));
}

#[test]
fn nobody_is_cut_off_at_once_when_no_time_is_left() {
    let (host, config) = chain(2, Duration::from_secs(60));
    hears(&host, "g1", Hears::Nothing);
    hears(&host, "g0", Hears::Button(3));
    // The way is over before it has begun. A guest that has 20 ms all the same is asked again and again in them.
    let run = Run::new(&host, &config).deadline(Duration::ZERO);
    let report = run.pace(|pace| pace.least_to_stop = Duration::from_millis(500)).down();
    report.assert_good();
    assert!(host.count("button g1") > 3 && host.count("destroy g1") == 1);
    assert_eq!((host.count("button g0"), host.count("destroy g0")), (3, 0));
}

#[test]
fn one_whose_plug_is_never_pulled_does_not_wait_at_the_cost_of_others() {
    let (host, mut config) = chain(2, Duration::from_millis(300));
    hears(&host, "g1", Hears::Nothing);
    hears(&host, "g0", Hears::Button(5));
    table(&mut config, "g1").on_stop_timeout = OnStopTimeout::Wait;
    let report = Run::new(&host, &config).deadline(Duration::from_millis(600)).down();
    assert!(failure(report.domain("g1")).contains("not destroyed, because on-stop-timeout = \"wait\""));
    let Outcome::Done(words) = report.domain("g0") else {
        panic!("{report:?}")
    };
    assert!(words.starts_with("shut down after"), "{words}");
    assert_eq!(host.count("destroy g0"), 0);
}

/// A guest whose plug is pulled at the very end is gone a moment later.
#[test]
fn a_volume_that_comes_free_just_after_the_deadline_is_closed() {
    let (host, config) = up();
    let run = Run::new(&host, &config).without_libvirt().deadline(Duration::ZERO);
    let run = run.pace(|pace| pace.destroy_limit = Duration::from_secs(60));
    std::thread::scope(|scope| {
        let down = scope.spawn(|| run.down());
        let looks = host.look(|world| world.looks_at_users);
        host.wait_until("it waits", |world| world.looks_at_users > looks + 4);
        for guest in ["on-raw", "on-files"] {
            is_now(&host, guest, DomainState::ShutOff);
        }
        down.join().unwrap().assert_good();
    });
    assert!(!host.is_open("raw") && !host.is_open("files"));
}
