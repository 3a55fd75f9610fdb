//! What only one kind of host can show. `make test-hosts` runs this, and all other tests on each kind of host.

use crate::{
    host::{Host, Variant, secs},
    product::{PASSPHRASE, enabled},
};

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ key-file = "/etc/key" }]

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ key-file = "/etc/key" }]
mount = "/srv/vm"
pools = ["vm"]
"#;

/// virtqemud stays while guests run; virtstoraged ends when nobody has asked it anything for a while, pools or not.
const IDLE: &str = "! systemctl --quiet is-active virtstoraged.service";

fn modular(name: &str) -> Host {
    enabled(name, CONFIG)
        .on(Variant::MODULAR)
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .prepare("echo 'VIRTSTORAGED_ARGS=\"--timeout 5\"' >/etc/default/virtstoraged")
        .boot()
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn modular_daemons_that_have_gone_idle_do_not_hold_up_the_way_down() {
    let mut host = modular("modular");
    all_is_up_and_idle(&host);

    // A stop is ordered after the daemon; the daemon, asked by way of its socket, would wait for the end of that stop.
    let stopped = host.shell_within("systemctl stop virt-unlock", secs(90));
    assert_eq!(stopped.status, 0, "{stopped}");
    let journal = "journalctl -b -u virt-unlock -u virt-unlock-guests -o cat --no-pager";
    let said = host.run(journal);
    assert!(!said.contains("do not answer"), "{said}");
    assert!(said.contains("pool vm: stopped"), "{said}");
    assert_eq!(host.run("dmsetup ls --target crypt").trim(), "");

    // At a shutdown nothing is started any more.
    host.run("systemctl start virt-unlock");
    all_is_up_and_idle(&host);
    host.power_off();
    for words in ["volume mail: closed", "volume vm: closed"] {
        host.console().assert_order(&[words, "reboot: Power down"]);
    }
    let disks = host.examine();
    for guest in ["mailserver", "webserver"] {
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (2, 2), "{guest}");
    }
    assert!(disks.filesystem_clean());
}

#[test]
#[ignore = "make test-hosts runs it: the pools are waited for"]
fn a_storage_daemon_that_hangs_keeps_no_guest_running() {
    let mut host = modular("frozen");
    all_is_up_and_idle(&host);
    host.run("systemctl start virtstoraged && systemctl kill --signal=STOP virtstoraged");
    let down = host.shell_within("virt-unlock down 2>&1", secs(240));
    assert!(down.text.contains("libvirt's storage pools do not answer"), "{down}");
    for words in [
        "guest mailserver: shut down",
        "guest webserver: shut down",
        "volume mail: closed",
        "volume vm: closed",
    ] {
        assert!(down.text.contains(words), "no {words:?} in {down}");
    }
    host.run("systemctl kill --signal=CONT virtstoraged");
    host.power_off();
    assert!(host.examine().filesystem_clean());
}

fn all_is_up_and_idle(host: &Host) {
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("virsh domstate {guest} | grep -q running"), secs(90));
        host.until(
            &format!("tail -n 1 /var/log/guests/{guest}.log | grep -q 'GUEST {guest} UP'"),
            secs(60),
        );
    }
    host.until("virt-unlock status", secs(30));
    host.until(IDLE, secs(60));
}
