//! Volumes that a master opens: one question and one derivation for all of them, and their own passphrase where that fails.

use std::time::Duration;

use virt_unlock::config::{Config, KeyFile, Unlock};
use virt_unlock::event::Outcome;
use virt_unlock::graph::{self, Layer};
use virt_unlock::host::{Header, OpenError};
use virt_unlock::plan::{self, Names};
use virt_unlock::secret::Secret;

use crate::fake_host::masters::by_master;
use crate::fake_host::run::{Run, config, edit, failure};
use crate::fake_host::{Answer, FakeHost, Fault};

/// What is said when this was done to it.
type Case<T> = (&'static str, fn(&T));
type CaseMut<T> = (&'static str, fn(&mut T));

const ALL: [&str; 3] = ["mail", "web", "files"];

/// Three volumes with a guest on each, opened by master office.
fn office() -> (FakeHost, Config) {
    let (host, mut config) = (FakeHost::new(), config(&ALL));
    host.master("office", "office opens");
    for name in ALL {
        host.volume(name, &format!("{name} opens"))
            .enroll(name, "office")
            .domain(&format!("{name}-guest"), &[name], false);
        by_master(&mut config, name, "office");
    }
    (host, config)
}

fn asked(host: &FakeHost) -> Vec<String> {
    host.log().into_iter().filter(|call| call.starts_with("ask ")).collect()
}

#[test]
fn one_question_and_one_derivation_open_all_volumes() {
    let (host, config) = office();
    let run = Run::new(&host, &config);
    let report = run.up();
    report.assert_good();
    run.wait_unanswered(0);
    assert_eq!(asked(&host), ["ask master office"]);
    assert_eq!((host.count("probe master office"), host.count("open master office")), (1, 1));
    for name in ALL {
        assert_eq!(host.count(&format!("open {name}")), 1);
        assert_eq!(report.volume(name), &Outcome::Done("opened by master office".to_owned()));
    }
    host.look(|world| {
        let words = "Passphrase for master office (volumes mail, web, files), try 1 of 3:";
        assert_eq!(world.questions, [words]);
    });
    assert!(report.says("master office: opened"));
    host.assert_lawful();
}

#[test]
fn a_master_is_asked_for_and_opened_before_the_devices_of_its_volumes_are_there() {
    let (host, config) = office();
    let there = |is: bool| host.set(|world| ALL.iter().for_each(|name| world.volumes.get_mut(*name).unwrap().there = is));
    there(false);
    // What its header lies on may be mounted by the time that the devices are there.
    let header = host.look(|world| world.masters["office"].header.clone());
    for readable in [true, false] {
        if !readable {
            let missing = OpenError::Header("it is not mounted".to_owned());
            host.set(|world| world.masters.get_mut("office").unwrap().header = Err(missing));
        }
        let run = Run::new(&host, &config).pace(|pace| pace.device_grace = Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let up = scope.spawn(|| run.up());
            if readable {
                host.wait_for_call("open master office", 1);
            } else {
                // One has tried; it was read once before.
                host.wait_for_call("probe master office", 2);
                host.set(|world| world.masters.get_mut("office").unwrap().header = header.clone());
            }
            assert!(ALL.iter().all(|name| !host.is_open(name)));
            there(true);
            let report = up.join().unwrap();
            report.assert_good();
            assert_eq!(report.warnings(), [] as [&str; 0]);
        });
        host.assert_lawful();
        Run::new(&host, &config).down().assert_good();
        there(false);
    }
    assert_eq!(asked(&host), ["ask master office"; 2]);
    assert_eq!(host.count("open master office"), 2);
}

#[test]
fn the_question_for_a_master_goes_when_none_of_its_volumes_came() {
    let (host, mut config) = office();
    host.silent("master office");
    for name in ALL {
        edit(&mut config, name).device_timeout = Duration::from_millis(30);
        host.set(|world| world.volumes.get_mut(name).unwrap().there = false);
    }
    let report = Run::new(&host, &config).up();
    for name in ALL {
        assert!(failure(report.volume(name)).contains("did not appear within 30ms"));
    }
}

#[test]
fn the_plan_says_by_which_way() {
    let (host, config) = office();
    let facts = Run::new(&host, &config).facts();
    let graph = graph::of(&config, &facts).unwrap();
    let plan = plan::up(&config, &facts, &graph, &Names::default()).unwrap();
    let step = plan.step(&Layer::Volume("mail".into())).unwrap();
    assert_eq!(step.reason, "/dev/vg0/mail is locked; by master office, or else passphrase");
}

#[test]
fn a_derived_key_takes_the_memory_of_its_own_keyslot_alone() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return;
    }
    let (host, config) = office();
    // Room for one derivation from a passphrase, and not for two.
    host.set(|world| world.memory = (1 << 30) + (300 << 20));
    host.hold("open mail").hold("open web");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_until("two at once", |world| world.most_derivations == 2);
        host.release("open mail").release("open web");
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_wrong_passphrase_is_a_try_of_the_master() {
    let (host, config) = office();
    host.answers("master office", &[Answer::Says("wrong")]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(asked(&host), ["ask master office"; 2]);
    assert!(report.says("wrong passphrase for master office, try 1 of 3"));
    host.look(|world| assert!(world.questions[1].ends_with(", try 2 of 3, the last one was wrong:")));
}

#[test]
fn a_master_that_is_given_up_leaves_each_volume_its_own_question_in_their_order() {
    for _ in 0..20 {
        let (host, mut config) = office();
        config.masters[0].tries = 2;
        host.answers("master office", &["a", "b"].map(Answer::Says));
        let report = Run::new(&host, &config).up();
        report.assert_good();
        assert_eq!(
            asked(&host),
            ["ask master office", "ask master office", "ask mail", "ask web", "ask files"]
        );
        let words = "master office: given up after 2 wrong passphrases";
        assert_eq!(report.warnings(), [words; 3]);
        host.assert_lawful();
    }
}

#[test]
fn a_master_that_cannot_be_read_or_asked_for_is_said_and_the_next_way_is_taken() {
    let missing = "master office: no usable LUKS header: /etc/virt-unlock/masters/office.luks: No such file or directory";
    let cases: [Case<FakeHost>; 4] = [
        (missing, |host| {
            host.set(|world| world.masters.clear());
        }),
        ("master office: the question was cancelled", |host| {
            host.answers("master office", &[Answer::Declines]);
        }),
        (
            "master office: failed: not enough memory to derive the key: its keyslot takes 2064 MiB, and 2048 MiB are free",
            |host| {
                host.set(|world| {
                    world.memory = 2 << 30;
                    let header = world.masters.get_mut("office").unwrap().header.as_mut().unwrap();
                    header.keyslots[0].memory_kib = 2 << 20;
                });
            },
        ),
        ("master office: failed: the device is gone: EIO", |host| {
            let fault = Fault::Open(OpenError::DeviceGone("EIO".to_owned()));
            host.fault("open master office", fault);
        }),
    ];
    for (words, breaks) in cases {
        let (host, config) = office();
        breaks(&host);
        let run = Run::new(&host, &config);
        let report = run.up();
        report.assert_good();
        run.wait_unanswered(0);
        assert_eq!(report.warnings(), [words; 3]);
        assert!(host.count("ask master office") <= 1);
        for name in ALL {
            assert_eq!(host.count(&format!("ask {name}")), 1, "{words}");
        }
        host.assert_lawful();
    }
}

#[test]
fn without_another_way_the_volume_says_why_it_is_closed() {
    let (host, mut config) = office();
    for name in ALL {
        edit(&mut config, name).unlock.truncate(1);
    }
    host.set(|world| world.masters.clear());
    let run = Run::new(&host, &config);
    let report = run.up();
    run.wait_unanswered(0);
    assert_eq!(
        failure(report.volume("mail")),
        "master office: no usable LUKS header: /etc/virt-unlock/masters/office.luks: No such file or directory; \
         `virt-unlock up mail` tries again"
    );
}

#[test]
fn a_volume_that_is_not_enrolled_or_not_any_more_is_asked_for_at_once_and_the_others_are_opened() {
    let cases: [CaseMut<Header>; 4] = [
        (
            "master office: not enrolled: `virt-unlock master enroll office web`",
            |header| {
                header.tokens.clear();
            },
        ),
        (
            "master office: not enrolled any more, the keyslot of token 0 is gone: `virt-unlock master enroll office web`",
            |header| {
                header.keyslots.pop();
            },
        ),
        (
            "master office: not enrolled, or token 0 is damaged: `virt-unlock master enroll office web`",
            |header| {
                header.tokens.clear();
                header.strange_tokens.push("token 0 is damaged".to_owned());
            },
        ),
        (
            "master office: the volume is LUKS1, which has no tokens: `cryptsetup convert --type luks2` makes it LUKS2, then \
             `virt-unlock master enroll office web`",
            |header| header.version = 1,
        ),
    ];
    for (words, breaks) in cases {
        let (host, config) = office();
        host.set(|world| breaks(world.volumes.get_mut("web").unwrap().header.as_mut().unwrap()));
        let report = Run::new(&host, &config).up();
        report.assert_good();
        assert_eq!(report.warnings(), [words]);
        let mut asked = asked(&host);
        asked.sort();
        assert_eq!(asked, ["ask master office", "ask web"]);
        assert_eq!(host.count("open web"), 1);
        host.assert_lawful();
    }
}

#[test]
fn a_keyslot_with_another_key_is_said_and_the_volume_asked_for() {
    let (host, config) = office();
    host.set(|world| {
        world.volumes.get_mut("web").unwrap().derived.insert(1, b"another".to_vec());
    });
    let run = Run::new(&host, &config);
    let report = run.up();
    report.assert_good();
    run.wait_unanswered(0);
    assert_eq!(
        report.warnings(),
        [
            "master office: its key does not open keyslot 1, which the volume's token names: `virt-unlock master enroll office web`"
        ]
    );
    assert_eq!(asked(&host), ["ask master office", "ask web"]);
    host.assert_lawful();
}

#[test]
fn a_master_has_the_ways_of_a_volume() {
    let (host, mut config) = office();
    config.masters[0].unlock = vec![Unlock::KeyFile(KeyFile::new("/key"))];
    for name in ALL {
        edit(&mut config, name).unlock.truncate(1);
    }
    host.set(|world| {
        world.files.insert("/key".into(), b"office opens".to_vec());
    });
    let run = Run::new(&host, &config);
    let report = run.up();
    report.assert_good();
    // Nobody is ever to be asked, so nobody is kept waiting.
    run.wait_unanswered(0);
    assert!(report.says("master office: opened by key file /key"));
    assert_eq!((asked(&host).len(), host.count("open master office")), (0, 1));

    // One that does not fit leads to the question.
    Run::new(&host, &config).down().assert_good();
    config.masters[0].unlock.push(Unlock::Passphrase);
    host.set(|world| {
        world.files.clear();
    });
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(
        report.warnings(),
        ["key file /key: the key file cannot be read: No such file or directory"]
    );
    assert_eq!(asked(&host), ["ask master office"]);
    host.assert_lawful();
}

#[test]
fn the_passphrase_of_the_root_disk_is_tried_on_the_master_first() {
    let (host, config) = office();
    host.set(|world| world.cached = vec![Secret::copy_of(b"office opens")]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("master office: opened by the passphrase of the root disk"));
    assert_eq!((asked(&host).len(), host.count("open master office")), (0, 1));
}

#[test]
fn the_question_for_a_master_stands_where_the_first_of_its_volumes_does() {
    for _ in 0..20 {
        let (host, mut config) = office();
        for name in ["first", "between", "last"] {
            host.volume(name, name);
        }
        let more = crate::fake_host::run::config(&["first", "between", "last"]).volumes;
        let mut more = more.into_iter();
        config.volumes.insert(0, more.next().unwrap());
        config.volumes.insert(2, more.next().unwrap());
        config.volumes.extend(more);
        Run::new(&host, &config).up().assert_good();
        assert_eq!(asked(&host), ["ask first", "ask master office", "ask between", "ask last"]);
        host.assert_lawful();
    }
}

#[test]
fn a_master_s_volumes_hold_no_logins_once_it_is_open() {
    let (host, config) = office();
    for name in ALL {
        host.hold(&format!("open {name}"));
    }
    host.silent("master office");
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_for_call("ask master office", 1);
        run.wait_unanswered(3);
        host.answers("master office", &[Answer::Says("office opens")]);
        run.wait_unanswered(0);
        assert!(ALL.iter().all(|name| !host.is_open(name)));
        for name in ALL {
            host.release(&format!("open {name}"));
        }
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_volume_whose_keyslot_does_not_fit_holds_them_again() {
    let (host, config) = office();
    host.set(|world| {
        world.volumes.get_mut("web").unwrap().derived.insert(1, b"another".to_vec());
    });
    host.silent("web");
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_for_call("ask web", 1);
        run.wait_unanswered(1);
        host.answers("web", &[Answer::Says("web opens")]);
        up.join().unwrap().assert_good();
    });
    run.wait_unanswered(0);
}

#[test]
fn a_volume_that_comes_late_is_opened_without_a_question() {
    let (host, config) = office();
    host.set(|world| world.volumes.get_mut("mail").unwrap().there = false);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_until("the others", |world| world.domains["files-guest"].state.is_active());
        host.wait_until("the others", |world| world.domains["web-guest"].state.is_active());
        host.set(|world| world.volumes.get_mut("mail").unwrap().there = true);
        up.join().unwrap().assert_good();
    });
    assert_eq!(asked(&host), ["ask master office"]);
    assert_eq!(host.count("open master office"), 1);
    host.assert_lawful();
}

#[test]
fn a_volume_that_comes_later_than_the_key_is_kept_asks_again() {
    let (host, config) = office();
    host.set(|world| world.volumes.get_mut("mail").unwrap().there = false);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| {
            Run::new(&host, &config)
                .pace(|pace| pace.keep_passphrase = Duration::ZERO)
                .up()
        });
        host.wait_until("the others", |world| world.domains["files-guest"].state.is_active());
        host.wait_until("the others", |world| world.domains["web-guest"].state.is_active());
        let before = host.count("ask master office");
        host.set(|world| world.volumes.get_mut("mail").unwrap().there = true);
        up.join().unwrap().assert_good();
        assert_eq!(host.count("ask master office"), before + 1);
    });
    host.look(|world| {
        let words = "Passphrase for master office (volume mail), try 1 of 3:";
        assert_eq!(world.questions.last().unwrap(), words);
    });
    host.assert_lawful();
}

#[test]
fn the_question_goes_on_when_somebody_opens_the_volume_that_asks() {
    let (host, config) = office();
    host.silent("master office");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_for_call("ask master office", 1);
        host.set(|world| world.map("mail", true));
        host.wait_for_call("ask master office", 2);
        host.answers("master office", &[Answer::Says("office opens")]);
        let report = up.join().unwrap();
        report.assert_good();
        assert_eq!(
            report.volume("mail"),
            &Outcome::Already("somebody else has opened it".to_owned())
        );
    });
    host.look(|world| {
        let words = "Passphrase for master office (volumes web, files), try 1 of 3:";
        assert_eq!(world.questions.last().unwrap(), words);
    });
    host.assert_lawful();
}

#[test]
fn while_a_master_is_derived_the_next_question_is_open_and_other_guests_start() {
    let (host, mut config) = office();
    for name in ["own", "other"] {
        host.volume(name, name).domain(&format!("{name}-guest"), &[name], false);
    }
    config
        .volumes
        .extend(crate::fake_host::run::config(&["own", "other"]).volumes);
    host.hold("open master office").silent("other");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_for_call("open master office", 1);
        host.wait_until("a guest of another volume", |world| {
            world.domains["own-guest"].state.is_active()
        });
        host.wait_for_call("ask other", 1);
        assert!(ALL.iter().all(|name| !host.is_open(name)));
        host.release("open master office");
        // And the master's guests do not wait for the answer.
        for name in ALL {
            host.wait_until("a guest of the master's", |world| {
                world.domains[&format!("{name}-guest")].state.is_active()
            });
        }
        assert!(!host.is_open("other"));
        host.answers("other", &[Answer::Says("other")]);
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_defect_or_a_hang_at_the_master_stays_with_the_volume_that_met_it() {
    for call in ["probe master office", "ask master office", "open master office"] {
        let (host, config) = office();
        host.fault(call, Fault::Panic);
        let run = Run::new(&host, &config);
        let report = run.up();
        let good = ALL.iter().filter(|name| report.volume(name).is_good()).count();
        assert_eq!(good, 2, "{call}: {report:#?}");
        run.wait_unanswered(0);

        let (host, config) = office();
        host.fault(call, Fault::Hang);
        let run = Run::new(&host, &config);
        std::thread::scope(|scope| {
            let up = scope.spawn(|| run.up());
            host.wait_for_call(call, 1);
            run.cancel.raise();
            assert_eq!(up.join().unwrap().volume("mail"), &Outcome::Cancelled, "{call}");
        });
        host.assert_lawful();
    }
}

#[test]
fn two_masters_are_two_questions_and_one_volume_may_have_both() {
    let (host, mut config) = office();
    host.master("backup", "backup opens").enroll("web", "backup");
    by_master(&mut config, "web", "backup");
    let by_office = Unlock::Master {
        name: "office".to_owned(),
    };
    edit(&mut config, "web").unlock.insert(0, by_office);
    host.answers("master office", &[Answer::Declines]);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(report.volume("web"), &Outcome::Done("opened by master backup".to_owned()));
    let mut asked = asked(&host);
    asked.sort();
    assert_eq!(asked, ["ask files", "ask mail", "ask master backup", "ask master office"]);
    host.assert_lawful();
}
