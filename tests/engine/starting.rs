//! libvirt, its domains and pools, on the way up.

use std::time::Duration;

use virt_unlock::config::Start;
use virt_unlock::event::{Event, Happened, Outcome};
use virt_unlock::facts::{DomainState, PoolState};
use virt_unlock::graph::Layer;
use virt_unlock::host::HypervisorError;

use crate::fake_host::run::{Run, config, edit, failure, mount, table};
use crate::fake_host::{FakeHost, Fault, World};

fn refused() -> Fault {
    Fault::Libvirt(HypervisorError::Refused("internal error: no hugepages".to_owned()))
}

#[test]
fn a_domain_on_no_configured_volume_is_not_ours() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m")
        .domain("plain", &["elsewhere"], false)
        .domain("mailserver", &["mail"], false);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(report.summary.outcome(&Layer::Domain("plain".into())), None);
    assert_eq!(host.state_of("plain"), DomainState::ShutOff);
    host.set(|world| world.domains.get_mut("plain").unwrap().state = DomainState::Running);
    Run::new(&host, &config).down().assert_good();
    assert_eq!(host.state_of("plain"), DomainState::Running);
}

#[test]
fn without_libvirt_volumes_open_and_close() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    Run::new(&host, &config).without_libvirt().up().assert_good();
    assert!(host.is_open("mail"));
    assert_eq!(host.state_of("mailserver"), DomainState::ShutOff);
    Run::new(&host, &config).without_libvirt().down().assert_good();
    assert!(!host.is_open("mail"));
}

#[test]
fn the_half_without_libvirt_waits_until_a_guest_has_ended() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    Run::new(&host, &config).up().assert_good();
    std::thread::scope(|scope| {
        let down = scope.spawn(|| Run::new(&host, &config).without_libvirt().down());
        host.wait_until("some looks", |world| world.looks_at_users > 20);
        // It is not tried again and again meanwhile: each try is a failed job of systemd.
        assert_eq!(host.count("close mail"), 1);
        host.set(|world| world.domains.get_mut("mailserver").unwrap().state = DomainState::ShutOff);
        let report = down.join().unwrap();
        report.assert_good();
        assert!(report.says("waiting for guest mailserver to end"));
    });
}

#[test]
fn a_daemon_that_restarts_in_the_middle_is_waited_for() {
    let (host, mut config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    mount(&mut config, "mail");
    edit(&mut config, "mail").pools = vec!["images".to_owned()];
    host.set(|world| {
        world.pools.insert("images".to_owned(), PoolState::Inactive);
    });
    host.hold("open mail");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_for_call("open mail", 1);
        host.set(|world| world.libvirt_away = 7).release("open mail");
        up.join().unwrap().assert_good();
    });
    assert_eq!(host.state_of("mailserver"), DomainState::Running);
    host.set(|world| world.libvirt_away = 0);
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config);
        host.hold("button mailserver");
        let down = scope.spawn(move || run.down());
        host.wait_for_call("button mailserver", 1);
        host.set(|world| world.libvirt_away = 5).release("button mailserver");
        down.join().unwrap().assert_good();
    });
    assert_eq!(host.state_of("mailserver"), DomainState::ShutOff);
    host.assert_lawful();
}

#[test]
fn a_daemon_that_stays_away_is_given_up() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m")
        .domain("mailserver", &["mail"], false)
        .hold("open mail");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| {
            Run::new(&host, &config)
                .pace(|pace| pace.libvirt_limit = Duration::from_millis(10))
                .up()
        });
        host.wait_for_call("open mail", 1);
        host.set(|world| world.libvirt_away = usize::MAX).release("open mail");
        let report = up.join().unwrap();
        assert!(failure(report.domain("mailserver")).starts_with("libvirt does not answer"));
        assert!(report.volume("mail").is_good());
    });
}

#[test]
fn a_start_that_may_work_later_is_tried_again_and_each_try_is_said() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    let short = || Fault::Libvirt(HypervisorError::Passing("Cannot allocate memory".to_owned()));
    host.fault("start mailserver", short()).fault("start mailserver", short());
    let report = Run::new(&host, &config)
        .pace(|pace| pace.libvirt_pause = Duration::from_millis(2))
        .up();
    report.assert_good();
    assert_eq!(host.count("start mailserver"), 3);
    let is_try =
        |event: &&Event| matches!(&event.happened, Happened::Waiting(words) if words.starts_with("Cannot allocate memory"));
    let tries: Vec<String> = report
        .events
        .iter()
        .filter(is_try)
        .map(|event| format!("{:?}", event.happened))
        .collect();
    assert_eq!(tries.len(), 2, "{tries:?}");
    assert!(tries[0].contains("trying again in 2ms"), "{tries:?}");
    assert!(tries[1].contains("trying again in 4ms"), "{tries:?}");
}

#[test]
fn a_start_that_never_works_is_given_up_and_one_that_cannot_is_not_tried_again() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    for _ in 0..3 {
        host.fault(
            "start mailserver",
            Fault::Libvirt(HypervisorError::Passing("busy".to_owned())),
        );
    }
    let report = Run::new(&host, &config).pace(|pace| pace.libvirt_limit = Duration::ZERO).up();
    assert_eq!(
        failure(report.domain("mailserver")),
        "busy; `virsh start mailserver` tries again"
    );
    assert_eq!(host.count("start mailserver"), 1);
    host.set(World::clear_faults).fault("start mailserver", refused());
    failure(Run::new(&host, &config).up().domain("mailserver"));
    assert_eq!(host.count("start mailserver"), 2);
}

#[test]
fn a_network_that_is_not_active_is_started_first() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    host.set(|world| world.domains.get_mut("mailserver").unwrap().networks = vec!["default".to_owned()]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("libvirt's network default, which it is on, was not active: started"));
    assert!(host.when_done("networks mailserver") < host.when_begun("start mailserver"));
}

#[test]
fn a_network_that_does_not_start_is_said_and_the_guest_is_tried() {
    let (host, config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "m").domain("mailserver", &["mail"], false);
    host.fault("networks mailserver", refused());
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(
        report.warnings(),
        ["a network that it is on is not active and cannot be started: internal error: no hugepages"]
    );
}

#[test]
fn a_domain_that_does_not_start_keeps_nobody_else_and_its_followers_go_on() {
    let (host, mut config) = (FakeHost::new(), config(&["a", "b"]));
    host.volume("a", "a")
        .volume("b", "b")
        .domain("first", &["a"], false)
        .domain("second", &["b"], false);
    table(&mut config, "second").after = vec!["first".to_owned()];
    host.fault("start first", refused());
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.domain("first")),
        "internal error: no hugepages; `virsh start first` tries again"
    );
    assert!(report.domain("second").is_good());
    assert!(host.when_begun("start first") < host.when_begun("start second"));
}

#[test]
fn a_domain_starts_when_the_last_of_its_volumes_is_there() {
    let (host, config) = (FakeHost::new(), config(&["a", "b"]));
    host.volume("a", "a")
        .volume("b", "b")
        .domain("both", &["a", "b"], false)
        .silent("b");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_until("a is open", |world| world.mappings.contains_key("a"));
        assert_eq!(host.count("start both"), 0);
        host.answers("b", &[crate::fake_host::Answer::Says("b")]);
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_volume_that_only_the_image_names_and_that_does_not_come_is_said() {
    let (host, mut config) = (FakeHost::new(), config(&["images", "base"]));
    mount(&mut config, "images");
    mount(&mut config, "base");
    host.volume("images", "i")
        .volume("base", "b")
        .domain("web", &["images"], true);
    host.answers("base", &[crate::fake_host::Answer::Declines]);
    host.set(|world| {
        let web = world.domains.get_mut("web").unwrap();
        web.late_sources = vec!["/srv/base/debian.qcow2".into()];
        web.needs.push(("base".to_owned(), true));
    });
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.domain("web")),
        "volume base is not ready; `virt-unlock up base` opens it"
    );
    assert_eq!(host.count("start web"), 0);
}

#[test]
fn only_wanted_domains_start() {
    let (host, mut config) = (FakeHost::new(), config(&["a"]));
    host.volume("a", "a");
    for name in ["always", "never", "flag", "no-flag"] {
        host.domain(name, &["a"], false);
    }
    host.set(|world| {
        world.domains.get_mut("no-flag").unwrap().autostart = false;
        world.domains.get_mut("always").unwrap().autostart = false;
    });
    table(&mut config, "always").start = Start::Always;
    table(&mut config, "never").start = Start::Never;
    Run::new(&host, &config).up().assert_good();
    let runs = |name: &str| host.state_of(name).is_active();
    assert_eq!(
        [runs("always"), runs("never"), runs("flag"), runs("no-flag")],
        [true, false, true, false]
    );
    Run::new(&host, &config).names(&["never"]).up().assert_good();
    assert!(runs("never"));
}

#[test]
fn with_opening_elsewhere_each_domain_starts_as_its_own_volumes_come() {
    let (host, mut config) = (FakeHost::new(), config(&["raw", "files"]));
    mount(&mut config, "files");
    host.volume("raw", "r").volume("files", "f");
    host.domain("on-raw", &["raw"], false).domain("on-files", &["files"], true);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).elsewhere().up());
        host.set(|world| world.map("files", true));
        host.set(|world| world.mount("files"));
        host.wait_until("the first guest", |world| world.domains["on-files"].state.is_active());
        assert_eq!(host.count("start on-raw"), 0);
        host.set(|world| world.map("raw", true));
        up.join().unwrap().assert_good();
    });
    assert!(host.state_of("on-raw").is_active());
    assert!(
        !host
            .log()
            .iter()
            .any(|call| ["ask", "open", "mount"].iter().any(|word| call.starts_with(word)))
    );
    host.assert_lawful();
}

#[test]
fn a_guest_does_not_start_before_udev_has_made_the_node_of_its_volume() {
    let (host, config) = (FakeHost::new(), config(&["raw"]));
    host.volume("raw", "r").domain("on-raw", &["raw"], false);
    host.set(|world| {
        world.nodes_missing.insert("raw".to_owned());
        world.map("raw", true);
    });
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).elsewhere().up());
        host.wait_for_call("domain on-raw", 1);
        host.set(|world| world.nodes_missing.clear());
        up.join().unwrap().assert_good();
    });
    assert!(host.state_of("on-raw").is_active());
    host.assert_lawful();
}

#[test]
fn a_guest_whose_mount_went_after_the_plan_is_not_started() {
    let (host, mut config) = (FakeHost::new(), config(&["files"]));
    mount(&mut config, "files");
    host.volume("files", "f").domain("web", &["files"], true);
    host.set(|world| {
        world.map("files", true);
        world.mount("files");
    });
    host.hold("domain web");
    std::thread::scope(|scope| {
        let run = || {
            Run::new(&host, &config)
                .pace(|pace| pace.late_volume_limit = Duration::from_millis(20))
                .up()
        };
        let up = scope.spawn(run);
        host.wait_for_call("domain web", 1);
        host.set(|world| world.mounts.clear());
        host.release("domain web");
        failure(up.join().unwrap().domain("web"));
    });
    assert_eq!(host.count("start web"), 0);
    host.assert_lawful();
}

#[test]
fn a_pool_that_read_its_folder_before_the_mount_reads_it_again() {
    let (host, mut config) = (FakeHost::new(), config(&["files"]));
    mount(&mut config, "files");
    edit(&mut config, "files").pools = vec!["images".to_owned()];
    host.volume("files", "f").domain("web", &["files"], true);
    // Everything is up but that: libvirt's daemon started before the mount, this run plans after it.
    host.set(|world| {
        world.map("files", true);
        world.mount("files");
        world.pools.insert("images".to_owned(), PoolState::Stale);
    });
    Run::new(&host, &config).up().assert_good();
    assert_eq!(host.count("start pool images"), 1);
    Run::new(&host, &config).up().assert_good();
    assert_eq!(host.count("start pool images"), 1, "what it has read is not read again");
}

#[test]
fn a_pool_that_does_not_start_is_said_and_keeps_no_guest() {
    let (host, mut config) = (FakeHost::new(), config(&["files"]));
    mount(&mut config, "files");
    edit(&mut config, "files").pools = vec!["images".to_owned(), "unknown".to_owned()];
    host.volume("files", "f")
        .domain("web", &["files"], true)
        .fault("start pool images", refused());
    host.set(|world| {
        world.pools.insert("images".to_owned(), PoolState::Inactive);
    });
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.of(&Layer::Pool("images".into()))),
        "internal error: no hugepages"
    );
    failure(report.of(&Layer::Pool("unknown".into())));
    assert!(matches!(report.domain("web"), Outcome::Done(_)));
}

#[test]
fn a_volume_that_only_the_image_names_is_waited_for() {
    let (host, mut config) = (FakeHost::new(), config(&["images", "base"]));
    mount(&mut config, "images");
    mount(&mut config, "base");
    host.volume("images", "i")
        .volume("base", "b")
        .domain("web", &["images"], true)
        .silent("base");
    host.set(|world| {
        let web = world.domains.get_mut("web").unwrap();
        web.late_sources = vec!["/srv/base/debian.qcow2".into()];
        web.needs.push(("base".to_owned(), true));
    });
    let run = Run::new(&host, &config).pace(|pace| pace.late_volume_limit = Duration::from_secs(60));
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_for_call("domain web", 1);
        host.answers("base", &[crate::fake_host::Answer::Says("b")]);
        let report = up.join().unwrap();
        report.assert_good();
    });
    assert_eq!(host.state_of("web"), DomainState::Running);
    host.assert_lawful();
}

/// Only once the second image can be read is it known that there is a third.
/// What was read before a link of the chain was mounted is not the whole chain, however soon after that it was mounted.
#[test]
fn a_definition_that_was_read_before_its_base_was_mounted_is_read_again() {
    let (host, mut config) = (FakeHost::new(), config(&["files", "base", "deep"]));
    for volume in ["files", "base", "deep"] {
        mount(&mut config, volume);
        host.volume(volume, "x");
    }
    host.domain("web", &["files"], true).silent("base").silent("deep");
    host.set(|world| {
        let web = world.domains.get_mut("web").unwrap();
        web.late_sources = vec!["/srv/base/debian.qcow2".into(), "/srv/deep/plain.qcow2".into()];
        web.needs.extend(["base", "deep"].map(|volume| (volume.to_owned(), true)));
        let somebody_opens = |world: &mut World| {
            world.map("base", true);
            world.mount("base");
        };
        world.right_after.insert("domain web".to_owned(), Box::new(somebody_opens));
    });
    let run = Run::new(&host, &config).pace(|pace| pace.late_volume_limit = Duration::from_secs(60));
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_until("the second look or a start", |world| {
            world.worked("domain web") >= 2 || world.begun("start web") >= 1
        });
        host.answers("deep", &[crate::fake_host::Answer::Says("x")]);
        up.join().unwrap().assert_good();
    });
    assert_eq!(host.state_of("web"), DomainState::Running);
    host.assert_lawful();
}

#[test]
fn a_chain_over_three_volumes_is_read_to_its_end() {
    let (host, mut config) = (FakeHost::new(), config(&["files", "base", "deep"]));
    for volume in ["files", "base", "deep"] {
        mount(&mut config, volume);
    }
    host.volume("files", "f")
        .volume("base", "b")
        .volume("deep", "d")
        .domain("web", &["files"], true)
        .silent("base")
        .silent("deep");
    host.set(|world| {
        let web = world.domains.get_mut("web").unwrap();
        web.late_sources = vec!["/srv/base/debian.qcow2".into(), "/srv/deep/plain.qcow2".into()];
        web.needs.extend(["base", "deep"].map(|volume| (volume.to_owned(), true)));
    });
    let run = Run::new(&host, &config).pace(|pace| pace.late_volume_limit = Duration::from_secs(60));
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_until("the first look", |world| world.worked("domain web") == 1);
        host.answers("base", &[crate::fake_host::Answer::Says("b")]);
        host.wait_until("the second look or a start", |world| {
            world.begun("domain web") >= 2 || world.begun("start web") >= 1
        });
        host.answers("deep", &[crate::fake_host::Answer::Says("d")]);
        up.join().unwrap().assert_good();
    });
    assert_eq!(host.state_of("web"), DomainState::Running);
    host.assert_lawful();
}
