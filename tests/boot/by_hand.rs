//! The owner's way without our program. It proves the image and its guests, and shows what we are here to do better.

use crate::{
    host::{Host, secs},
    product::PLAIN_IS_UP,
};
use std::time::Instant;

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_host_is_brought_up_and_down_by_hand() {
    let begun = Instant::now();
    let step = |what: &str| println!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
    let mut host = Host::builder("by_hand").power_on();
    step("power on");
    host.await_shell();
    step("shell on ttyS1");
    let login = host.console().expect("host login: ", secs(120));
    step(&format!(
        "login prompt at {:.1} s of the host's own time",
        login.at.as_secs_f64()
    ));

    // libvirt's own autostart brings up the plain guest and fails with the two on closed volumes.
    host.until(PLAIN_IS_UP, secs(60));
    step("guest plain runs");
    assert_eq!(host.run("virsh domstate mailserver").trim(), "shut off");
    step("virsh");

    for volume in ["mail", "vm"] {
        host.run(&format!(
            "printf 'correct horse' | cryptsetup open --key-file - /dev/vg0/{volume} {volume}"
        ));
        step(&format!("{volume} open"));
    }
    // Trap 1: the guest's own volume group wakes up on the host, and then the volume cannot be closed.
    host.until("lvs --noheadings -o lv_active guestvg | grep -qw active", secs(30));
    step("guestvg has woken up on the host");
    assert_ne!(host.shell("cryptsetup close mail").status, 0);
    host.run("vgchange -an guestvg");

    host.run("mount /dev/mapper/vm /srv/vm");
    step("vm mounted");
    for guest in ["mailserver", "webserver"] {
        host.run(&format!("virsh start {guest}"));
        step(&format!("virsh start {guest}"));
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(30));
        step(&format!("GUEST {guest} UP"));
    }
    for guest in ["mailserver", "webserver"] {
        host.run(&format!("virsh shutdown {guest}"));
    }
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("virsh domstate {guest} | grep -q 'shut off'"), secs(60));
        step(&format!("{guest} is off"));
    }
    host.run("umount /srv/vm; vgchange -an guestvg; cryptsetup close vm && cryptsetup close mail");
    step("closed");
    host.power_off();
    step("power off");

    let disks = host.examine();
    step("disks examined");
    for guest in ["mailserver", "webserver"] {
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (1, 1), "{guest}");
    }
    assert_eq!(disks.marker("plain", "up"), 1);
    assert_eq!(disks.marker("chained", "up"), 0);
    assert!(disks.filesystem_clean());
}
