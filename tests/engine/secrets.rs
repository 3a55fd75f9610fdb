//! Disks that QEMU decrypts itself, by secrets of libvirt's.

use std::time::Duration;

use virt_unlock::config::{Config, Unlock};
use virt_unlock::event::Outcome;
use virt_unlock::facts::DomainState;
use virt_unlock::host::HypervisorError;
use virt_unlock::secret::Secret;

use crate::fake_host::run::{Run, config, edit, failure, secret, table};
use crate::fake_host::{Answer, FakeHost, Fault, World};

const UUID: &str = "5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50";

/// A guest on no volume, with one encrypted disk.
fn one() -> (FakeHost, Config) {
    let (host, mut config) = (FakeHost::new(), config(&[]));
    host.domain("web", &[], false).encrypted("web", UUID, "right");
    secret(&mut config, UUID);
    (host, config)
}

#[test]
fn a_secret_is_set_before_its_guest_starts_and_forgotten_when_it_is_down() {
    let (host, config) = one();
    Run::new(&host, &config).up().assert_good();
    assert_eq!(
        host.look(|world| world.questions.clone()),
        [format!("Passphrase for guest web (secret {UUID}), try 1 of 3:")]
    );
    assert_eq!(
        (host.state_of("web"), host.secrets()),
        (DomainState::Running, vec![UUID.to_owned()])
    );
    // All is up: nobody is asked again.
    Run::new(&host, &config).up().assert_good();
    assert_eq!(host.count(&format!("ask secret {UUID}")), 1);
    let report = Run::new(&host, &config).down();
    assert_eq!(report.secret(UUID), &Outcome::Done("forgotten".into()));
    assert!(host.when_begun("button web") < host.when_begun(&format!("forget secret {UUID}")));
    assert!(host.secrets().is_empty());
    host.assert_lawful();
}

#[test]
fn a_wrong_passphrase_is_found_before_the_guest_starts() {
    let (host, config) = one();
    host.answers(&format!("secret {UUID}"), &[Answer::Says("wrong"), Answer::Says("right")]);
    Run::new(&host, &config).up().assert_good();
    assert_eq!((host.count(&format!("ask secret {UUID}")), host.count("start web")), (2, 1));

    let (host, config) = one();
    let wrong = ["a", "b", "c"].map(Answer::Says);
    host.answers(&format!("secret {UUID}"), &wrong);
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.secret(UUID)),
        "given up after 3 wrong passphrases; `virt-unlock up` tries again"
    );
    assert!(matches!(report.domain("web"), Outcome::Skipped(_)));
    assert_eq!((host.count("start web"), host.secrets().len()), (0, 0));
    host.assert_lawful();
}

#[test]
fn what_cannot_be_looked_at_is_asked_again_when_the_guest_does_not_start() {
    let (host, config) = one();
    host.set(|world| world.images.clear());
    // What belongs to the root disk would be taken for right.
    host.set(|world| world.cached = vec![Secret::copy_of(b"root disk")]);
    host.answers(&format!("secret {UUID}"), &[Answer::Says("wrong"), Answer::Says("right")]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("shows only when the guest starts"));
    assert_eq!((host.count(&format!("ask secret {UUID}")), host.count("start web")), (2, 2));
    assert!(host.look(|world| world.questions[1].ends_with("try 2 of 3, the last one was wrong:")));

    let (host, config) = one();
    host.set(|world| world.images.clear());
    host.answers(&format!("secret {UUID}"), &["a", "b", "c"].map(Answer::Says));
    let report = Run::new(&host, &config).up();
    assert!(failure(report.domain("web")).starts_with("given up after 3 wrong passphrases for its disk"));
    assert_eq!(host.count(&format!("ask secret {UUID}")), 3);
    host.assert_lawful();
}

#[test]
fn what_has_opened_its_disk_is_not_asked_for_again() {
    let (host, mut config) = one();
    host.encrypted("web", "rbd:web", "far");
    secret(&mut config, "rbd:web");
    host.answers("secret rbd:web", &[Answer::Says("wrong"), Answer::Says("far")]);
    Run::new(&host, &config).up().assert_good();
    assert_eq!(
        (host.count("ask secret rbd:web"), host.count(&format!("ask secret {UUID}"))),
        (2, 1)
    );
    host.assert_lawful();
}

#[test]
fn the_other_ways_need_nobody_and_a_wrong_one_leads_to_the_next() {
    for (bytes, asked) in [(&b"right"[..], 0), (b"wrong", 1), (b"\xff", 1)] {
        let (host, mut config) = one();
        config.secrets[0].unlock = vec![Unlock::Credential { name: "web".into() }, Unlock::Passphrase];
        host.set(|world| drop(world.credentials.insert("web".into(), bytes.to_vec())));
        let report = Run::new(&host, &config).up();
        report.assert_good();
        assert_eq!(report.says("UTF-8"), bytes == b"\xff");
        assert_eq!(host.count(&format!("ask secret {UUID}")), asked);
        host.assert_lawful();
    }
}

#[test]
fn a_key_file_that_nobody_can_look_at_is_not_tried_twice() {
    let (host, mut config) = one();
    config.secrets[0].unlock = vec![Unlock::Credential { name: "web".into() }];
    host.set(|world| {
        world.images.clear();
        world.credentials.insert("web".into(), b"wrong".to_vec());
    });
    let report = Run::new(&host, &config).up();
    assert!(failure(report.domain("web")).contains("nobody is to be asked"), "{report:?}");
    assert_eq!(host.count("start web"), 1);
}

#[test]
fn a_group_is_asked_once_for_its_volumes_and_secrets() {
    let (host, mut config) = (FakeHost::new(), config(&["mail"]));
    host.volume("mail", "office").domain("web", &["mail"], false);
    host.encrypted("web", UUID, "office").encrypted("web", "/usage", "office");
    for name in [UUID, "/usage"] {
        secret(&mut config, name).passphrase_group = Some("office".into());
    }
    edit(&mut config, "mail").passphrase_group = Some("office".into());
    Run::new(&host, &config).up().assert_good();
    assert_eq!(
        host.look(|world| world.questions.clone()),
        ["Passphrase for volume mail and 2 more of group office, try 1 of 3:"]
    );
    host.assert_lawful();
}

#[test]
fn a_secret_waits_for_the_volume_of_its_guest_whoever_opens_that() {
    for elsewhere in [false, true] {
        let (host, mut config) = (FakeHost::new(), config(&["vm"]));
        host.volume("vm", "vm opens")
            .domain("web", &["vm"], false)
            .encrypted("web", UUID, "right");
        secret(&mut config, UUID);
        let run = Run::new(&host, &config);
        let run = if elsewhere { run.elsewhere() } else { run };
        std::thread::scope(|scope| {
            let up = scope.spawn(|| run.up());
            if elsewhere {
                host.set(|world| world.map("vm", true));
            }
            up.join().unwrap().assert_good();
        });
        let first = host.when_begun(&format!("ask secret {UUID}"));
        assert!(elsewhere || host.when_begun("open vm") < first);
        host.assert_lawful();
    }
}

#[test]
fn nobody_is_asked_for_a_guest_that_is_not_started() {
    let (host, mut config) = one();
    host.domain("other", &[], false).encrypted("other", UUID, "right");
    table(&mut config, "web").start = virt_unlock::config::Start::Never;
    table(&mut config, "other").start = virt_unlock::config::Start::Never;
    let report = Run::new(&host, &config).up();
    assert!(matches!(report.secret(UUID), Outcome::Left(words) if words.contains("no guest that needs it")));
    Run::new(&host, &config).names(&["other"]).up().assert_good();
    assert_eq!(
        (host.state_of("web"), host.state_of("other")),
        (DomainState::ShutOff, DomainState::Running)
    );
    // It stays while one that needs it runs, and goes with the last.
    Run::new(&host, &config).names(&["web"]).up().assert_good();
    Run::new(&host, &config).names(&["web"]).down().assert_good();
    assert_eq!(host.secrets(), [UUID]);
    Run::new(&host, &config).names(&["other"]).down().assert_good();
    assert!(host.secrets().is_empty());
    host.assert_lawful();
}

#[test]
fn what_libvirt_keeps_on_its_disk_is_left_alone() {
    let (host, config) = one();
    host.set(|world| drop(world.secrets.insert(UUID.into(), (false, b"right".to_vec()))));
    Run::new(&host, &config).up().assert_good();
    assert_eq!(
        (host.state_of("web"), host.count(&format!("ask secret {UUID}"))),
        (DomainState::Running, 0)
    );
    Run::new(&host, &config).down().assert_good();
    assert_eq!(host.secrets(), [UUID]);
    host.assert_lawful();
}

#[test]
fn a_libvirt_that_does_not_take_it_is_said_and_the_guest_is_not_started() {
    let (host, config) = one();
    let call = format!("set secret {UUID}");
    host.fault(&call, Fault::Libvirt(HypervisorError::Unavailable("gone".into())));
    Run::new(&host, &config).up().assert_good();
    let (host, config) = one();
    host.fault(&call, Fault::Libvirt(HypervisorError::Denied("not you".into())));
    let report = Run::new(&host, &config).up();
    assert_eq!(failure(report.secret(UUID)), "libvirt does not allow it: not you");
    assert_eq!(host.count("start web"), 0);
}

#[test]
fn where_libvirt_does_not_say_what_it_has_it_is_told_to_forget_all_the_same() {
    let (host, config) = one();
    Run::new(&host, &config).up().assert_good();
    host.set(|world| world.secrets_error = Some("virtsecretd is away".into()));
    Run::new(&host, &config).down().assert_good();
    assert!(host.secrets().is_empty());
    // Nothing is set that nobody could forget.
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.secret(UUID)),
        "libvirt's secrets do not answer: virtsecretd is away"
    );
    assert_eq!(host.count("start web"), 1);
    host.assert_lawful();
}

#[test]
fn an_emergency_waits_for_no_guest_to_have_its_secret_forgotten() {
    let (host, config) = one();
    host.domain("other", &[], false).encrypted("other", "/other", "right");
    let mut config = config;
    secret(&mut config, "/other");
    Run::new(&host, &config).up().assert_good();
    host.set(|world| world.domains.get_mut("web").unwrap().survives_destroy = true);
    // A daemon that hangs keeps nobody.
    host.fault("forget secret /other", Fault::Hang);
    let report = Run::new(&host, &config)
        .pace(|pace| pace.libvirt_limit = Duration::from_millis(50))
        .down_at_once();
    assert!(report.domain("web").is_bad());
    assert_eq!(report.secret(UUID), &Outcome::Done("forgotten".into()));
    assert!(
        failure(report.secret("/other")).contains("does not answer within"),
        "{report:?}"
    );
    assert_eq!(host.secrets(), ["/other"]);
    assert_eq!(report.domain("other"), &Outcome::Done("destroyed: at once".into()));

    // One that somebody else needs stays.
    let (host, mut config) = one();
    host.domain("other", &[], false).encrypted("other", UUID, "right");
    table(&mut config, "other").start = virt_unlock::config::Start::Always;
    Run::new(&host, &config).up().assert_good();
    Run::new(&host, &config).names(&["web"]).down_at_once().assert_good();
    assert_eq!(host.secrets(), [UUID]);
    host.assert_lawful();
}

#[test]
fn a_run_that_is_ended_leaves_what_the_next_one_finds() {
    // Set, and not started.
    let (host, config) = one();
    let run = Run::new(&host, &config);
    let cancel = run.cancel.clone();
    let ends = Box::new(move |_: &mut World| cancel.raise());
    host.set(|world| drop(world.right_after.insert(format!("set secret {UUID}"), ends)));
    run.up();
    assert_eq!((host.secrets(), host.count("start web")), (vec![UUID.to_owned()], 0));
    Run::new(&host, &config).down().assert_good();
    assert!(host.secrets().is_empty());
    Run::new(&host, &config).up().assert_good();

    // What somebody else has set meanwhile counts for nothing: it may be wrong.
    Run::new(&host, &config).down().assert_good();
    host.set(|world| drop(world.secrets.insert(UUID.into(), (true, b"of somebody".to_vec()))));
    Run::new(&host, &config).up().assert_good();
    assert_eq!(host.state_of("web"), DomainState::Running);
    host.assert_lawful();
}
