//! What libvirt's hook answers, with a made-up definition on standard input.

use std::fs::File;
use std::path::Path;

use crate::program::{Place, Ran, WHOLE, needs_root};

fn ask(place: &Place, disk: &str) -> Ran {
    let text = format!("<domain type='kvm'><name>web</name><devices><disk type='file'>{disk}</disk></devices></domain>");
    std::fs::write(place.path("domain.xml"), text).unwrap();
    let definition = File::open(place.path("domain.xml")).unwrap();
    place.finish(place.command(WHOLE, "hook").stdin(definition))
}

#[test]
fn a_guest_on_a_locked_volume_is_refused_in_one_sentence() {
    needs_root!();
    let place = Place::new(
        "[volume.v-u-t]\ndevice = '/dev/no'\n[volume.files]\ndevice = '/dev/not'\nmount = '/srv/v-u-t'\npools = ['p']\n",
    );
    let ran = ask(&place, "<source dev='/dev/mapper/v-u-t'/>");
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert_eq!(
        ran.err,
        "virt-unlock: guest web is not started, for volume v-u-t, which it lies on, is locked; `virt-unlock up web` sees to that and starts it\n"
    );
    for disk in [
        "<source file='/srv/v-u-t/web.qcow2'/>",
        "<source pool='p' volume='web.qcow2'/>",
    ] {
        let ran = ask(&place, disk);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(
            ran.err.contains("volume files, which it lies on, is locked and not mounted"),
            "{ran:?}"
        );
    }
}

#[test]
fn what_is_not_ours_or_not_known_is_let_through() {
    needs_root!();
    let place = Place::new("[volume.v-u-t]\ndevice = '/dev/no'\n");
    for disk in [
        "<source file='/var/lib/libvirt/images/web.qcow2'/>",
        "<source dev='/dev/mapper/other'/>",
        "<",
    ] {
        let ran = ask(&place, disk);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{disk}");
    }
    let broken = Place::new("[volume.v-u-t]\n");
    let ran = ask(&broken, "<source dev='/dev/mapper/v-u-t'/>");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn the_script_asks_before_a_start_and_at_no_other_time() {
    let script = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units/libvirt-hook.sh")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (asked, program) = (folder.path().join("asked"), folder.path().join("program"));
    std::fs::write(&program, format!("#!/bin/sh\necho \"$@\" >>{}\nexit 1\n", asked.display())).unwrap();
    let run = |operation: &[&str]| {
        let text = script.replace("/usr/bin/virt-unlock", &program.display().to_string());
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &text, "qemu", "web"]).args(operation);
        command.status().unwrap().code()
    };
    // Left behind by a package that was removed.
    assert_eq!(run(&["prepare", "begin", "-"]), Some(0));
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for operation in [["start", "begin", "-"], ["release", "end", "-"], ["reconnect", "begin", "-"]] {
        assert_eq!(run(&operation), Some(0), "{operation:?}");
    }
    assert!(!asked.exists());
    assert_eq!(run(&["prepare", "begin", "-"]), Some(1));
    assert_eq!(std::fs::read_to_string(asked).unwrap(), "hook\n");
}
