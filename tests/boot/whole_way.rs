//! The main job: ask, open, mount, start; and back: stop, unmount, close.

use virt_unlock::report::ids;

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, PLAIN_IS_UP, enabled},
};

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
pools = ["vm"]

[domain.mailserver]
start = true

[domain.webserver]
start = true
after = ["mailserver"]
"#;

#[test]
fn a_host_comes_up_and_goes_down() {
    // Without libvirt-guests, which would order the guests' own scopes at shutdown (trap 4): that has to be our units' doing.
    // Nor libvirt's own autostart, which on a slow host is still at it when a volume opens, and then is quicker than we.
    let without = "systemctl --quiet disable libvirt-guests.service
        rm /etc/libvirt/qemu/autostart/mailserver.xml /etc/libvirt/qemu/autostart/webserver.xml";
    let mut host = enabled("whole_way", CONFIG).prepare(without).power_on();

    // The first answer is wrong; the second question says so.
    let asked = host.console().expect("Passphrase for volume mail", secs(90));
    host.console().expect("try 1 of 3", secs(5));
    host.console().type_line("wrong horse");
    // While that one is derived, the next question is open already.
    host.console().expect("Passphrase for volume vm", secs(60));
    host.console().type_line(PASSPHRASE);
    host.console().expect("Passphrase for volume mail", secs(60));
    host.console().expect("try 2 of 3, the last one was wrong", secs(5));

    // The plain guest, on no volume of ours, is libvirt's own affair and does not wait for us.
    host.until(PLAIN_IS_UP, secs(60));
    assert_eq!(host.run("virsh domstate mailserver").trim(), "shut off");
    // Logins are held back while there are questions.
    assert!(!host.console().shows("host login:"));
    host.console().type_line(PASSPHRASE);

    let login = host.console().expect("host login:", secs(60));
    assert!(asked < login);
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(60));
    }
    // Order by `after`.
    host.until("virt-unlock status", secs(30));
    // libvirt says that a guest runs a moment before the call that started it comes back.
    host.until(
        "grep -qm1 '^guest webserver: started$' < <(journalctl -b -f -n all -o cat -t virt-unlock)",
        secs(30),
    );
    let started = host.run("journalctl -b -o cat -t virt-unlock | grep '^guest .*: started$'");
    assert_eq!(started, "guest mailserver: started\nguest webserver: started\n");

    // Trap 1: the guest's own LVM stays asleep on the host, also when udev looks again at everything.
    host.run("udevadm trigger --settle");
    let woken = host.run("dmsetup ls; ls /sys/block/$(basename $(readlink -f /dev/mapper/mail))/holders");
    assert!(
        !woken.contains("guestvg") && !woken.lines().any(|line| line.starts_with("dm-")),
        "{woken}"
    );
    // The mount is the volume's own filesystem, and the pool was read after it was there.
    host.run("findmnt --noheadings -o SOURCE /srv/vm | grep -qx /dev/mapper/vm");
    let pool =
        host.run("virsh vol-list vm; virsh pool-info vm; journalctl -b -u virt-unlock-guests -o short-monotonic --no-pager");
    assert!(pool.contains("webserver.qcow2"), "{pool}");

    // Both units are up, and say so in one line; a second `up` changes nothing.
    host.until("virt-unlock status", secs(30));
    let status = host
        .run("systemctl is-active virt-unlock virt-unlock-guests; systemctl show -P StatusText virt-unlock virt-unlock-guests");
    assert!(status.starts_with("active\nactive\n"), "{status}");
    assert!(
        status.contains("2 of 2 volumes") && status.contains("2 of 2 guests"),
        "{status}"
    );
    let before = host.run("virsh list --uuid; dmsetup info -c --noheadings -o name,uuid,open");
    assert!(host.run("virt-unlock up 2>&1").contains("nothing to do"));
    assert_eq!(
        host.run("virsh list --uuid; dmsetup info -c --noheadings -o name,uuid,open"),
        before
    );

    the_journal_tells_each_thing_once_and_explains_it(&host);
    the_timeline_has_both_ends_of_each_stretch(&host);

    host.power_off();
    let closed = ["volume mail: closed", "volume vm: closed"];
    for words in closed {
        host.console().assert_order(&[words, "reboot: Power down"]);
    }
    // mailserver takes longer than webserver to settle: vm is closed while it still goes down.
    host.console().assert_order(&["volume vm: closed", "volume mail: closed"]);

    let disks = host.examine();
    for guest in ["mailserver", "webserver"] {
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (1, 1), "{guest}");
    }
    assert_eq!(disks.marker("plain", "up"), 1);
    assert!(disks.filesystem_clean());
}

fn the_timeline_has_both_ends_of_each_stretch(host: &Host) {
    let drawn = host.run("virt-unlock timeline");
    for (layer, signs) in [
        ("volume mail", "?#"),
        ("volume vm", "?#"),
        ("mount vm", "m"),
        ("pool vm", "p"),
        ("guest mailserver", "="),
        ("guest webserver", "="),
    ] {
        let row = drawn.lines().find_map(|line| line.strip_prefix(layer));
        let has_all = |row: &str| signs.chars().all(|sign| row.contains(sign));
        assert!(row.is_some_and(has_all), "{layer}:\n{drawn}");
    }
    // A wrong passphrase and the right one for mail, the right one for vm.
    assert!(drawn.contains("3 keys derived"), "{drawn}");
    let picture = host.run("virt-unlock timeline --svg");
    assert!(picture.contains("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
}

fn the_journal_tells_each_thing_once_and_explains_it(host: &Host) {
    host.run("journalctl --sync --update-catalog");
    let told = host.run(&format!(
        "journalctl -b -x -o short -u virt-unlock MESSAGE_ID={} VIRT_UNLOCK_VOLUME=mail",
        ids::VOLUME_OPEN
    ));
    assert!(
        told.contains("virt-unlock[") && told.contains("Subject: Encrypted volume mail is open\n"),
        "{told}"
    );
    assert!(!told.contains('@') && !told.contains("volume vm"), "{told}");
    let all = host.run("journalctl -b -o cat -t virt-unlock; echo; journalctl -b -o cat -u virt-unlock -u virt-unlock-guests");
    let (by_name, by_unit) = all.split_once("\n\n").unwrap();
    for line in [
        "volume mail: wrong passphrase, try 1 of 3",
        "volume mail: opened",
        "volume vm: opened",
        "mount vm: mounted at /srv/vm",
        "guest mailserver: started",
        "guest webserver: started",
    ] {
        for entries in [by_name, by_unit] {
            assert_eq!(
                entries.lines().filter(|entry| *entry == line).count(),
                1,
                "{line}:\n{entries}"
            );
        }
    }
}
