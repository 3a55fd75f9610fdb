//! Who is asked what, when, and what becomes of the answers.

use std::time::Duration;

use virt_unlock::config::{KeyFile, Unlock};
use virt_unlock::event::Outcome;
use virt_unlock::secret::Secret;

use crate::fake_host::run::{Run, config, edit, failure};
use crate::fake_host::{Answer, FakeHost};

/// Three volumes with a guest on each.
fn three() -> FakeHost {
    let host = FakeHost::new();
    for name in ["mail", "web", "files"] {
        host.volume(name, &format!("{name} opens"))
            .domain(&format!("{name}-guest"), &[name], false);
    }
    host
}

#[test]
fn wrong_then_right_opens() {
    let (host, config) = (three(), config(&["mail", "web", "files"]));
    host.answers("web", &[Answer::Says("wrong")]);
    let run = Run::new(&host, &config);
    run.up().assert_good();
    run.wait_unanswered(0);
    assert_eq!(host.count("ask web"), 2);
    host.look(|world| {
        let again = "Passphrase for volume web, try 2 of 3, the last one was wrong:";
        assert!(world.questions.iter().any(|words| words == again), "{:?}", world.questions);
    });
    host.assert_lawful();
}

#[test]
fn three_wrong_answers_give_up_that_volume_alone() {
    let (host, config) = (three(), config(&["mail", "web", "files"]));
    host.answers("web", &["a", "b", "c"].map(Answer::Says));
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("web")),
        "given up after 3 wrong passphrases; `virt-unlock up web` tries again"
    );
    assert_eq!(report.domain("web-guest"), &Outcome::Skipped("volume web failed".to_owned()));
    for name in ["mail", "files"] {
        assert!(report.volume(name).is_good() && report.domain(&format!("{name}-guest")).is_good());
    }
    assert_eq!(host.count("ask web"), 3);
    host.assert_lawful();
}

#[test]
fn no_limit_of_tries_means_no_limit() {
    let (host, mut config) = (three(), config(&["mail"]));
    edit(&mut config, "mail").tries = 0;
    host.answers("mail", &["a", "b", "c", "d", "e"].map(Answer::Says));
    Run::new(&host, &config).up().assert_good();
}

#[test]
fn a_question_that_is_declined_or_cannot_be_put_fails_its_volume_alone() {
    let (host, config) = (three(), config(&["mail", "web", "files"]));
    host.answers("web", &[Answer::Declines])
        .answers("files", &[Answer::CannotBeAsked]);
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("web")),
        "the question was cancelled; `virt-unlock up web` tries again"
    );
    assert_eq!(
        failure(report.volume("files")),
        "cannot ask: no agent; `virt-unlock up files` tries again"
    );
    assert!(report.domain("mail-guest").is_good());
    assert_eq!((host.count("ask web"), host.count("ask files")), (1, 1));
}

#[test]
fn while_nobody_answers_the_others_are_up_and_a_late_answer_brings_the_rest() {
    let (host, mut config) = (three(), config(&["mail", "web", "files"]));
    edit(&mut config, "mail").unlock = vec![key_file()];
    host.set(|world| {
        world.files.insert("/key".into(), b"mail opens".to_vec());
    });
    host.silent("files");
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_until("all but one volume's guests", |world| {
            ["mail-guest", "web-guest"]
                .iter()
                .all(|name| world.domains[*name].state.is_active())
        });
        run.wait_unanswered(1);
        assert!(!host.is_open("files"));
        host.answers("files", &[Answer::Says("files opens")]);
        up.join().unwrap().assert_good();
    });
    run.wait_unanswered(0);
    host.assert_lawful();
}

#[test]
fn while_one_derives_the_next_question_is_open() {
    let (host, config) = (three(), config(&["mail", "web"]));
    host.hold("open mail").silent("web");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_until("one derives while the next is asked for", |world| {
            world.begun("open mail") == 1 && world.begun("ask web") == 1
        });
        host.answers("web", &[Answer::Says("web opens")]).release("open mail");
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_volume_is_asked_for_only_when_what_it_is_after_is_open() {
    let (host, mut config) = (three(), config(&["mail", "web"]));
    edit(&mut config, "mail").after = vec!["web".to_owned()];
    Run::new(&host, &config).up().assert_good();
    assert!(host.when_done("open web") < host.when_begun("ask mail"));
}

#[test]
fn a_group_costs_one_question() {
    let (host, mut config) = (FakeHost::new(), config(&["a", "b", "c"]));
    for name in ["a", "b", "c"] {
        host.volume(name, "shared");
        edit(&mut config, name).passphrase_group = Some("office".to_owned());
    }
    Run::new(&host, &config).up().assert_good();
    host.look(|world| assert_eq!(world.questions.len(), 1, "{:?}", world.questions));
    assert_eq!((host.count("open a"), host.count("open b"), host.count("open c")), (1, 1, 1));
    host.assert_lawful();
}

#[test]
fn what_failed_in_a_group_is_offered_to_nobody_else() {
    let (host, mut config) = (FakeHost::new(), config(&["a", "b"]));
    host.volume("a", "of a").volume("b", "of b");
    for name in ["a", "b"] {
        edit(&mut config, name).passphrase_group = Some("office".to_owned());
    }
    // It would open b: but at a it opened nothing, so b asks for itself.
    host.answers("a", &[Answer::Says("of b"), Answer::Says("of a")]);
    Run::new(&host, &config).up().assert_good();
    assert_eq!((host.count("ask a"), host.count("ask b")), (2, 1));
    // What opened a was tried at b (it is another's), then came b's own question.
    assert_eq!(host.count("open b"), 2);
}

#[test]
fn a_member_of_a_group_that_is_given_up_hands_the_question_on() {
    let (host, mut config) = (FakeHost::new(), config(&["a", "b"]));
    host.volume("a", "shared").volume("b", "shared");
    for name in ["a", "b"] {
        edit(&mut config, name).passphrase_group = Some("office".to_owned());
    }
    host.answers("a", &[Answer::Declines]);
    let report = Run::new(&host, &config).up();
    failure(report.volume("a"));
    assert!(report.volume("b").is_good());
}

#[test]
fn the_passphrase_of_the_root_disk_is_tried_first_and_costs_no_try() {
    let (host, mut config) = (three(), config(&["mail", "web"]));
    edit(&mut config, "web").tries = 1;
    host.set(|world| world.cached = vec![Secret::copy_of(b"mail opens")]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(
        report.volume("mail"),
        &Outcome::Done("opened by the passphrase of the root disk".to_owned())
    );
    assert_eq!((host.count("ask mail"), host.count("ask web")), (0, 1));
    host.look(|world| assert_eq!(world.questions, ["Passphrase for volume web, try 1 of 1:"]));
}

#[test]
fn a_machine_s_wrong_answers_do_not_eat_tries() {
    let (host, config) = (three(), config(&["mail", "web"]));
    host.answers("mail", &["m1", "m2", "m3", "m4", "m5"].map(Answer::Says));
    // Everything here answers within a day, so everything is a machine.
    let report = Run::new(&host, &config)
        .pace(|pace| pace.machine = Duration::from_secs(86_400))
        .up();
    report.assert_good();
    assert_eq!(host.count("ask mail"), 6);
    assert!(report.says("it does not count"));
    host.look(|world| {
        let last = world.questions.iter().rfind(|words| words.contains("mail"));
        assert_eq!(
            last.unwrap(),
            "Passphrase for volume mail, try 1 of 3, a program's answer was wrong:"
        );
    });
}

#[test]
fn the_same_wrong_answer_again_is_neither_derived_nor_counted() {
    let (host, config) = (three(), config(&["mail"]));
    host.answers("mail", &["same", "same", "same", "same"].map(Answer::Says));
    Run::new(&host, &config).up().assert_good();
    assert_eq!((host.count("ask mail"), host.count("open mail")), (5, 2));
}

#[test]
fn a_key_file_that_is_missing_or_wrong_leads_to_the_question() {
    let (host, mut config) = (three(), config(&["mail", "web"]));
    for name in ["mail", "web"] {
        edit(&mut config, name).unlock = vec![key_file(), Unlock::Passphrase];
    }
    host.set(|world| {
        world.files.insert("/key".into(), b"web opens".to_vec());
    });
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(report.warnings(), ["key file /key: no keyslot opens with this key"]);
    assert_eq!((host.count("ask mail"), host.count("ask web")), (1, 0));
    host.assert_lawful();
}

fn key_file() -> Unlock {
    Unlock::KeyFile(KeyFile::new("/key"))
}

#[test]
fn questions_come_in_the_order_of_the_configuration() {
    for _ in 0..20 {
        let names = ["e", "d", "c", "b", "a"];
        let (host, config) = (FakeHost::new(), config(&names));
        for name in names {
            host.volume(name, name);
        }
        Run::new(&host, &config).up().assert_good();
        let asked: Vec<String> = host.log().into_iter().filter(|call| call.starts_with("ask ")).collect();
        assert_eq!(asked, ["ask e", "ask d", "ask c", "ask b", "ask a"]);
        host.assert_lawful();
    }
}

#[test]
fn a_volume_whose_header_cannot_be_read_yet_does_not_keep_the_next_question_back_for_ever() {
    let (host, config) = (three(), config(&["mail", "web"]));
    host.hold("probe mail");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| {
            Run::new(&host, &config)
                .pace(|pace| pace.order_patience = Duration::from_millis(5))
                .up()
        });
        host.wait_until("web is open", |world| world.domains["web-guest"].state.is_active());
        host.release("probe mail");
        up.join().unwrap().assert_good();
    });
}

#[test]
fn volumes_that_will_never_be_asked_for_do_not_hold_logins() {
    // One is after a volume that is given up, one after a volume whose device is missing.
    let (host, mut config) = (three(), config(&["mail", "web", "files", "late"]));
    edit(&mut config, "web").after = vec!["mail".to_owned()];
    edit(&mut config, "late").device_timeout = Duration::from_secs(3600);
    edit(&mut config, "files").after = vec!["late".to_owned()];
    host.answers("mail", &[Answer::Declines]);
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_for_call("ask mail", 1);
        run.wait_unanswered(0);
        run.cancel.raise();
        up.join().unwrap();
    });
}

#[test]
fn who_waits_for_its_group_keeps_nobody_s_question_back() {
    let (host, mut config) = (FakeHost::new(), config(&["a", "b", "c"]));
    host.volume("a", "shared")
        .volume("b", "shared")
        .volume("c", "other")
        .hold("open a");
    for name in ["a", "b"] {
        edit(&mut config, name).passphrase_group = Some("office".to_owned());
    }
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config).pace(|pace| pace.order_patience = Duration::from_secs(3600));
        let up = scope.spawn(move || run.up());
        host.wait_until("c is open while a derives", |world| world.mappings.contains_key("c"));
        host.release("open a");
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}
