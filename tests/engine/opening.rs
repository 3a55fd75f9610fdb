//! Devices, headers, memory, mappings, mounts.

use std::time::Duration;

use virt_unlock::event::Outcome;
use virt_unlock::facts::{DevNum, MountState, PoolState};
use virt_unlock::graph::Layer;
use virt_unlock::host::{MountError, OpenError};

use crate::fake_host::run::{Run, config, edit, failure, mount};
use crate::fake_host::{FakeHost, Fault};

/// Two volumes, of which the second has a filesystem, with a guest on each.
fn two() -> (FakeHost, virt_unlock::config::Config) {
    let host = FakeHost::new();
    host.volume("raw", "r").domain("on-raw", &["raw"], false);
    host.volume("files", "f").domain("on-files", &["files"], true);
    let mut config = config(&["raw", "files"]);
    mount(&mut config, "files");
    (host, config)
}

#[test]
fn the_whole_way_up_and_back() {
    let (host, mut config) = two();
    edit(&mut config, "files").pools = vec!["images".to_owned()];
    host.set(|world| {
        world.pools.insert("images".to_owned(), PoolState::Inactive);
    });
    let before = host.shape();
    Run::new(&host, &config).up().assert_good();
    assert!(host.when_done("open files") < host.when_begun("mount files"));
    assert!(host.when_done("mount files") < host.when_begun("start pool images"));
    assert!(host.when_done("start pool images") < host.when_begun("start on-files"));

    // A host that is up has nothing left to do.
    let calls = host.log().len();
    Run::new(&host, &config).up().assert_good();
    assert_eq!(host.log().len(), calls, "{:?}", host.log());

    Run::new(&host, &config).down().assert_good();
    assert_eq!(host.shape(), before);
    assert!(host.when_begun("unmount /srv/files") < host.when_begun("close files"));
    host.assert_lawful();
}

#[test]
fn a_missing_device_is_said_and_keeps_nobody_else() {
    let (host, mut config) = two();
    edit(&mut config, "raw").device_timeout = Duration::from_millis(30);
    host.set(|world| world.volumes.get_mut("raw").unwrap().there = false);
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("raw")),
        "its device /dev/vg0/raw did not appear within 30ms; attach or activate it, then `virt-unlock up raw`"
    );
    assert!(report.says("its device /dev/vg0/raw is not there; waiting up to 30ms for it"));
    assert!(report.domain("on-files").is_good());
}

#[test]
fn a_device_that_appears_later_is_opened_then() {
    let (host, config) = two();
    host.set(|world| world.volumes.get_mut("raw").unwrap().there = false);
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_until("the other guest", |world| world.domains["on-files"].state.is_active());
        // It does not hold logins meanwhile.
        run.wait_unanswered(0);
        host.set(|world| world.volumes.get_mut("raw").unwrap().there = true);
        up.join().unwrap().assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_volume_opened_by_hand_while_its_device_is_awaited_is_taken_over() {
    let (host, config) = two();
    host.set(|world| world.volumes.get_mut("raw").unwrap().there = false);
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_until("the other guest", |world| world.domains["on-files"].state.is_active());
        host.set(|world| world.map("raw", true));
        assert_eq!(up.join().unwrap().volume("raw"), &Outcome::Already("open already".to_owned()));
    });
}

#[test]
fn a_question_goes_when_somebody_opens_the_volume_by_hand() {
    let (host, config) = two();
    host.silent("raw");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_for_call("ask raw", 1);
        host.set(|world| world.map("raw", true));
        let report = up.join().unwrap();
        assert_eq!(
            report.volume("raw"),
            &Outcome::Already("somebody else has opened it".to_owned())
        );
        report.assert_good();
    });
    host.assert_lawful();
}

#[test]
fn a_damaged_header_is_said_with_its_remedy_and_nobody_is_asked() {
    let (host, config) = two();
    host.set(|world| world.volumes.get_mut("raw").unwrap().header = Err(OpenError::Header("no LUKS magic".to_owned())));
    let report = Run::new(&host, &config).up();
    let words = failure(report.volume("raw"));
    assert!(
        words.starts_with("no usable LUKS header: no LUKS magic; `cryptsetup luksDump /dev/vg0/raw`"),
        "{words}"
    );
    assert_eq!(host.count("ask raw"), 0);
    assert!(report.domain("on-files").is_good());
}

#[test]
fn too_little_memory_is_not_a_wrong_passphrase() {
    let (host, config) = two();
    host.set(|world| {
        world.memory = 512 << 20;
        // The other one's keyslot is a small one.
        world.volumes.get_mut("files").unwrap().header.as_mut().unwrap().keyslots[0].memory_kib = 0;
    });
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("raw")),
        "not enough memory to derive the key: its keyslot takes 1040 MiB, and 512 MiB are free; free some, \
         then `virt-unlock up raw` (no try was used up)"
    );
    assert!(report.says("its keyslot takes 1040 MiB of memory, and 512 MiB are free; waiting up to 20ms for more"));
    assert_eq!((host.count("ask raw"), host.count("open raw")), (1, 0));
    assert!(report.domain("on-files").is_good());
    host.assert_lawful();
}

#[test]
fn derivations_run_one_after_the_other_when_memory_is_short() {
    let (host, config) = (FakeHost::new(), config(&["a", "b", "c", "d"]));
    for name in ["a", "b", "c", "d"] {
        host.volume(name, name);
    }
    host.set(|world| world.memory = (1 << 30) + (200 << 20));
    Run::new(&host, &config).up().assert_good();
    host.look(|world| assert_eq!(world.most_derivations, 1));
    host.assert_lawful();
}

#[test]
fn derivations_run_side_by_side_when_there_is_memory() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return;
    }
    let (host, config) = (FakeHost::new(), config(&["a", "b"]));
    host.volume("a", "a").volume("b", "b").hold("open a").hold("open b");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_until("two derivations", |world| world.most_derivations == 2);
        host.release("open a").release("open b");
        up.join().unwrap().assert_good();
    });
}

#[test]
fn a_foreign_mapping_is_an_error_with_words_and_is_left_alone() {
    let (host, config) = two();
    host.set(|world| world.map("raw", false));
    let report = Run::new(&host, &config).up();
    assert_eq!(failure(report.volume("raw")), "/dev/mapper/raw is not this volume");
    assert!(report.domain("on-raw").is_bad());
    assert!(report.domain("on-files").is_good());
    Run::new(&host, &config).down().assert_good();
    host.look(|world| assert!(world.mappings.contains_key("raw")));
    host.assert_lawful();
}

#[test]
fn a_name_taken_in_the_middle_is_taken_over_where_it_is_the_volume() {
    let (host, config) = two();
    host.hold("open raw").hold("open files");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_for_call("open raw", 1);
        host.wait_for_call("open files", 1);
        host.set(|world| {
            world.map("raw", true);
            world.map("files", false);
        });
        host.release("open raw").release("open files");
        let report = up.join().unwrap();
        assert_eq!(report.volume("raw"), &Outcome::Already("open already".to_owned()));
        assert_eq!(failure(report.volume("files")), "/dev/mapper/files exists already");
    });
}

#[test]
fn what_is_open_and_mounted_by_hand_is_taken_over() {
    let (host, config) = two();
    host.set(|world| {
        world.map("raw", true);
        world.map("files", true);
        world.mount("files");
    });
    Run::new(&host, &config).up().assert_good();
    let touched = ["ask", "probe", "open", "mount"];
    assert!(
        !host
            .log()
            .iter()
            .any(|call| touched.iter().any(|word| call.starts_with(word))),
        "{:?}",
        host.log()
    );
    Run::new(&host, &config).down().assert_good();
    assert!(!host.is_open("raw") && !host.is_open("files"));
}

#[test]
fn a_device_that_is_in_use_or_goes_away_is_no_try() {
    for error in [
        OpenError::Busy("Device or resource busy".to_owned()),
        OpenError::DeviceGone("ENXIO".to_owned()),
    ] {
        let (host, config) = two();
        host.fault("open raw", Fault::Open(error));
        let report = Run::new(&host, &config).up();
        failure(report.volume("raw"));
        assert_eq!(host.count("ask raw"), 1);
        assert!(report.domain("on-files").is_good());
    }
}

#[test]
fn a_filesystem_that_needs_repair_stops_only_its_own_guests() {
    let (host, config) = two();
    host.fault(
        "mount files",
        Fault::Mount(MountError::NeedsRepair("fsck.ext4 exit status 4".to_owned())),
    );
    let report = Run::new(&host, &config).up();
    assert!(failure(report.mount("files")).contains("needs a repair that a person must decide on"));
    assert_eq!(report.domain("on-files"), &Outcome::Skipped("mount files failed".to_owned()));
    assert!(report.domain("on-raw").is_good());
    host.assert_lawful();
}

#[test]
fn files_below_a_mount_point_are_a_warning() {
    let (host, config) = two();
    host.set(|world| {
        world.shadows.insert("/srv/files".into(), 2);
    });
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.warnings()[0].starts_with("2 files and folders in /srv/files lie on the disk below, unencrypted"));
}

#[test]
fn a_mount_that_only_says_that_it_worked_starts_nothing() {
    let (host, config) = two();
    host.set(|world| {
        world.mounts_that_lie.insert("/srv/files".into());
    });
    let report = Run::new(&host, &config).up();
    failure(report.mount("files"));
    assert_eq!(host.count("start on-files"), 0);
    host.assert_lawful();
}

#[test]
fn a_foreign_mount_is_never_unmounted() {
    let (host, config) = two();
    host.set(|world| {
        let foreign = MountState::Foreign("/dev/sdz1 is mounted at /srv/files".to_owned());
        world.mounts.insert("/srv/files".into(), (foreign, "else".to_owned()));
    });
    let report = Run::new(&host, &config).up();
    assert_eq!(failure(report.mount("files")), "/dev/sdz1 is mounted at /srv/files");
    assert_eq!(host.count("start on-files"), 0);
    Run::new(&host, &config).down().assert_good();
    assert!(matches!(host.mounted("/srv/files"), MountState::Foreign(_)));
    host.assert_lawful();
}

#[test]
fn a_defect_in_one_branch_stays_there() {
    for call in ["probe raw", "ask raw", "open raw", "domain on-raw", "start on-raw"] {
        let (host, mut config) = two();
        for name in ["raw", "files"] {
            edit(&mut config, name).passphrase_group = Some("one".to_owned());
        }
        host.fault(call, Fault::Panic);
        let run = Run::new(&host, &config);
        let report = run.up();
        assert!(report.domain("on-files").is_good(), "{call}: {report:#?}");
        assert!(report.domain("on-raw").is_bad(), "{call}");
        run.wait_unanswered(0);
    }
}

#[test]
fn a_call_that_hangs_is_ended_by_cancelling() {
    for call in ["probe raw", "ask raw", "open raw", "start on-raw", "mount files"] {
        let (host, config) = two();
        host.fault(call, Fault::Hang);
        let run = Run::new(&host, &config);
        std::thread::scope(|scope| {
            let up = scope.spawn(|| run.up());
            host.wait_for_call(call, 1);
            run.cancel.raise();
            let report = up.join().unwrap();
            assert!(
                report.summary.ended.iter().any(|(_, outcome)| *outcome == Outcome::Cancelled),
                "{call}"
            );
        });
        host.assert_lawful();
    }
}

#[test]
fn names_bring_what_they_need_and_nothing_else() {
    let (host, config) = two();
    let report = Run::new(&host, &config).names(&["on-files"]).up();
    report.assert_good();
    assert_eq!((host.is_open("files"), host.is_open("raw")), (true, false));
    assert!(matches!(report.of(&Layer::Volume("raw".into())), Outcome::Left(_)));
    Run::new(&host, &config).up().assert_good();
    Run::new(&host, &config).names(&["raw"]).down().assert_good();
    assert_eq!((host.is_open("files"), host.is_open("raw")), (true, false));
    assert!(host.state_of("on-files").is_active() && !host.state_of("on-raw").is_active());
    host.assert_lawful();
}

#[test]
fn a_device_number_is_a_spelling_of_the_volume() {
    let (host, config) = two();
    host.set(|world| {
        world.map("raw", true);
        world.mappings.get_mut("raw").unwrap().1 = DevNum { major: 253, minor: 77 };
    });
    Run::new(&host, &config).up().assert_good();
    assert!(host.state_of("on-raw").is_active());
}

#[test]
fn what_is_foreign_elsewhere_is_no_failure_of_what_was_asked_for() {
    let (host, config) = two();
    host.set(|world| world.map("raw", false));
    Run::new(&host, &config).names(&["on-files"]).up().assert_good();
}
