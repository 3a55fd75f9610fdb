//! Ways to a key that need nobody, or need somebody else than a passphrase's owner.

use std::time::Duration;

use virt_unlock::config::{Config, Unlock};
use virt_unlock::event::Outcome;

use crate::fake_host::masters::by_master;
use crate::fake_host::run::{Run, config, edit, failure};
use crate::fake_host::tokens::{FakeToken, RIGHT_PIN};
use crate::fake_host::{Answer, FakeHost};

/// A volume with these ways, and one that is asked for.
pub fn two(ways: &[Unlock]) -> (FakeHost, Config) {
    let (host, mut config) = (FakeHost::new(), config(&["mail", "web"]));
    host.volume("mail", "mail opens").volume("web", "web opens");
    edit(&mut config, "mail").unlock = ways.to_vec();
    (host, config)
}

fn credential() -> Unlock {
    Unlock::Credential { name: "mail".into() }
}

#[test]
fn a_credential_opens_its_volume_and_nobody_is_asked() {
    let (host, config) = two(&[credential(), Unlock::Passphrase]);
    host.set(|world| {
        world.credentials.insert("mail".into(), b"mail opens".to_vec());
    });
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("opened by credential mail"));
    assert_eq!((host.count("ask mail"), host.count("ask web")), (0, 1));
    host.assert_lawful();
}

#[test]
fn a_credential_that_is_missing_or_does_not_fit_is_said_and_the_next_way_is_tried() {
    for (bytes, warning) in [
        (None, "credential mail: its unit has no credential of this name"),
        (Some("other"), "credential mail: no keyslot opens with this key"),
    ] {
        let (host, config) = two(&[credential(), Unlock::Passphrase]);
        host.set(|world| {
            world
                .credentials
                .extend(bytes.map(|bytes| ("mail".into(), bytes.as_bytes().to_vec())));
        });
        let report = Run::new(&host, &config).up();
        report.assert_good();
        assert_eq!(report.warnings(), [warning]);
        assert_eq!(host.count("ask mail"), 1);
    }
    let (host, config) = two(&[credential()]);
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("mail")),
        "credential mail: its unit has no credential of this name; `virt-unlock up mail` tries again"
    );
    assert_eq!(host.count("ask mail"), 0);
}

const BOTH: [Unlock; 2] = [Unlock::Token, Unlock::Passphrase];

#[test]
fn a_token_opens_its_volume_and_nobody_is_asked() {
    let (host, config) = two(&BOTH);
    host.token("mail", FakeToken::Refuses("no stick"))
        .token("mail", FakeToken::Opens);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("opened by its token"));
    assert_eq!((host.count("ask mail"), host.count("ask mail PIN")), (0, 0));
    host.assert_lawful();
}

#[test]
fn a_token_that_gives_no_key_is_said_and_the_next_way_is_tried() {
    let (host, config) = two(&BOTH);
    host.token("mail", FakeToken::Refuses("no stick"));
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(report.warnings(), ["token: token 0: no stick"]);
    assert_eq!(host.count("ask mail"), 1);
    let (host, config) = two(&[Unlock::Token]);
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("mail")),
        "token: there is no token; `virt-unlock up mail` tries again"
    );
    assert_eq!(host.count("ask mail"), 0);
}

#[test]
fn a_pin_is_asked_for_where_a_token_wants_one_and_a_wrong_one_costs_a_try() {
    let (host, config) = two(&BOTH);
    host.token("mail", FakeToken::WantsPin(8));
    let answers = [Answer::Says("wrong"), Answer::Says("wrong"), Answer::Says(RIGHT_PIN)];
    host.answers("mail PIN", &answers);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    let asked = host.look(|world| world.questions.clone());
    let asked: Vec<&str> = asked
        .iter()
        .map(String::as_str)
        .filter(|words| words.contains("mail"))
        .collect();
    assert_eq!(
        asked,
        [
            "Token PIN for volume mail, try 1 of 3:",
            "Token PIN for volume mail, try 2 of 3, the last one was wrong:",
            "Token PIN for volume mail, try 2 of 3, that one was tried before:",
        ]
    );
    assert!(report.says("wrong PIN, try 1 of 3") && report.says("token 0 (systemd-fido2) asks for a PIN"));
    assert_eq!(host.count("open mail"), 3, "the wrong one is not tried again");
    host.assert_lawful();
}

/// The token counts too, and locks: who types for it is no matter.
#[test]
fn a_wrong_pin_counts_however_fast_it_came() {
    let (host, config) = two(&BOTH);
    host.token("mail", FakeToken::WantsPin(8));
    let wrong = ["1", "2", "3", "4"].map(Answer::Says);
    host.answers("mail PIN", &wrong);
    let hour = Duration::from_secs(3600);
    let report = Run::new(&host, &config)
        .pace(|pace| (pace.machine, pace.machine_pause) = (hour, Duration::from_millis(1)))
        .up();
    report.assert_good();
    assert_eq!((host.count("ask mail PIN"), host.count("ask mail")), (3, 1));
    assert_eq!(
        report.warnings(),
        ["token: token 0 (systemd-fido2): given up after 3 wrong PINs"]
    );
}

#[test]
fn a_token_that_locks_is_left_alone_and_the_next_one_is_asked_for() {
    let (host, config) = two(&[Unlock::Token]);
    host.token("mail", FakeToken::WantsPin(1))
        .token("mail", FakeToken::WantsPin(8));
    host.answers("mail PIN", &["1", "2"].map(Answer::Says));
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(host.count("ask mail PIN"), 3);
    host.assert_lawful();
}

#[test]
fn a_masters_token_opens_it_for_all_with_one_pin() {
    let (host, mut config) = (FakeHost::new(), config(&["mail", "web"]));
    host.volume("mail", "mail opens").volume("web", "web opens");
    host.master("office", "office opens");
    for volume in ["mail", "web"] {
        host.enroll(volume, "office");
        by_master(&mut config, volume, "office");
    }
    config.masters[0].unlock = vec![Unlock::Token];
    host.token("master office", FakeToken::WantsPin(8));
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(
        (host.count("ask master office PIN"), host.count("open master office")),
        (1, 2)
    );
    assert_eq!(host.look(|world| world.questions.len()), 1);
    assert!(report.says("master office: opened by its token"));
    host.assert_lawful();
}

/// A stick serves one at a time. Those that need none do not wait for it, nor do questions.
#[test]
fn one_volume_at_a_time_is_at_its_token() {
    let (host, mut config) = (FakeHost::new(), config(&["mail", "web", "wiki"]));
    for name in ["mail", "web", "wiki"] {
        host.volume(name, "opens");
    }
    for name in ["mail", "web"] {
        edit(&mut config, name).unlock = vec![Unlock::Token];
        host.token(name, FakeToken::Opens).hold(&format!("open {name}"));
    }
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let report = scope.spawn(|| run.up());
        host.wait_until("wiki is open", |world| world.mappings.contains_key("wiki"));
        host.wait_until("one is at its token", |world| {
            world.begun("open mail") + world.begun("open web") == 1
        });
        run.wait_unanswered(2);
        host.release("open mail").release("open web");
        report.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn an_order_to_end_ends_the_waiting_for_a_token_and_for_its_pin() {
    for call in ["open mail", "ask mail PIN"] {
        let (host, config) = two(&BOTH);
        host.token("mail", FakeToken::WantsPin(8)).hold(call);
        let run = Run::new(&host, &config);
        let report = std::thread::scope(|scope| {
            let report = scope.spawn(|| run.up());
            host.wait_for_call(call, 1);
            run.cancel.raise();
            report.join().unwrap()
        });
        assert_eq!(report.volume("mail"), &Outcome::Cancelled, "{call}");
    }
}

#[test]
fn a_tokens_keyslot_takes_what_it_takes_and_not_what_others_would() {
    let (host, config) = two(&[Unlock::Token]);
    host.token("mail", FakeToken::Opens);
    // The volume's other keyslot takes 1 GiB.
    host.set(|world| world.memory = 64 << 20);
    let report = Run::new(&host, &config).names(&["mail"]).up();
    report.assert_good();
    host.assert_lawful();
}
