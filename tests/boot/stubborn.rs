//! Things in the way: a guest that does not stop, a shell in the mounted folder, a mapping of somebody else's, a device that
//! comes late, files in the mount point, libvirt that is away.

use virt_unlock::report::ids;

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, daemon, installed},
};

const CONFIG: &str = r#"
[host]
stop-deadline = "60s"

[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ key-file = "/etc/key" }]

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
unlock = [{ key-file = "/etc/key" }, "passphrase"]

[volume.stub]
device = "UUID=@STUB@"
unlock = [{ key-file = "/etc/key" }]

[volume.late]
device = "/dev/disk/by-id/virtio-late"
device-timeout = "2min"
unlock = [{ key-file = "/etc/key" }]

[domain.mailserver]
start = true

[domain.stubborn]
start = true
stop-timeout = "12s"
"#;

#[test]
fn what_is_in_the_way_is_named_and_the_rest_goes_on() {
    let mut host = installed("stubborn", CONFIG)
        // libvirt's own autostart would take whatever is called mail for its disk.
        .prepare("rm /etc/libvirt/qemu/autostart/mailserver.xml")
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .boot();
    host.console().expect("host login:", secs(120));
    a_wrong_configuration_is_in_the_journal_of_its_unit(&host);
    host.until("test -b /dev/vg0/stub", secs(60));
    host.run("sed -i \"s/@STUB@/$(cryptsetup luksUUID /dev/vg0/stub)/\" /etc/virt-unlock/config.toml");

    // A mapping of that name that is not this volume: named, not touched, everything else goes on. A device that is not there
    // yet: said at once.
    host.run("dmsetup create mail --table '0 2048 zero'");
    host.run("mkdir -p /srv/vm && touch /srv/vm/forgotten");
    host.terminal()
        .type_line("virt-unlock up >/root/up.log 2>&1; echo status $? >>/root/up.log");
    host.until("grep -q 'volume mail: failed: .*mail' /root/up.log", secs(30));
    host.until("grep -q 'volume late: .*is not there' /root/up.log", secs(30));
    host.until(
        "grep -q 'mount vm: warning: 1 file or folder in /srv/vm' /root/up.log",
        secs(30),
    );
    for guest in ["webserver", "stubborn"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(90));
    }
    assert_eq!(host.run("virsh domstate mailserver").trim(), "shut off");
    let status = host.run("virt-unlock status --json || true");
    assert!(status.contains(r#""state": "waiting""#), "{status}");

    // The device appears: opened.
    host.add_drive("late", 32);
    let make = format!(
        "udevadm settle; printf '{PASSPHRASE}' | cryptsetup luksFormat -q --type luks2 --pbkdf-memory 8192 --pbkdf-force-iterations 4 --pbkdf-parallel 1 --key-file - "
    );
    host.until("grep -q '^status 1' /root/up.log", secs(60));
    host.run(&format!("{make} /dev/disk/by-id/virtio-late"));
    host.remove_drive("late");
    host.until("test ! -e /dev/disk/by-id/virtio-late", secs(30));
    host.terminal()
        .type_line("virt-unlock up late >/root/late.log 2>&1; echo status $? >>/root/late.log");
    host.until("grep -q 'volume late: .*is not there' /root/late.log", secs(30));
    host.add_drive_again("late");
    host.until("grep -q '^status 0' /root/late.log", secs(60));
    host.run("test -b /dev/mapper/late");

    // The foreign mapping goes; a second `up` does only what was missing.
    host.run("dmsetup remove mail");
    let again = host.run("virt-unlock up 2>&1");
    assert!(
        again.contains("volume mail: opened") && again.contains("guest mailserver: started"),
        "{again}"
    );
    assert!(!again.contains("webserver") && !again.contains("volume vm"), "{again}");
    assert_eq!(host.run("virt-unlock status | head -n 1").trim(), "up");
    // All is up, so the units are active: the shutdown would bring it down.
    host.until("systemctl is-active virt-unlock virt-unlock-guests", secs(30));

    down_with_a_shell_in_the_mount(&host);

    // No libvirt at all: volumes open and mount, and it says what is missing.
    let daemon = daemon(&host);
    host.run(&format!(
        "systemctl stop {daemon}.socket {daemon}-ro.socket {daemon}-admin.socket {daemon}.service"
    ));
    let blind = host.shell_within("virt-unlock up 2>&1", secs(90));
    assert_eq!(blind.status, 1, "{blind}");
    assert!(blind.text.contains("libvirt does not answer"), "{blind}");
    host.run("findmnt /srv/vm && test -b /dev/mapper/mail");
    host.run(&format!("systemctl start {daemon}.socket"));
    host.run("virt-unlock down");
    host.power_off();

    let disks = host.examine();
    // It was asked before its plug was pulled.
    assert!(disks.marker("stubborn", "off") >= 1);
    assert_eq!(disks.marker("webserver", "up"), disks.marker("webserver", "off"));
    assert!(disks.filesystem_clean());
}

/// The deaf guest is destroyed and it is said; the volume with the shell stays open and the shell is named; the rest is closed.
fn down_with_a_shell_in_the_mount(host: &Host) {
    host.terminal().type_line("cd /srv/vm");
    host.until(
        "pgrep -x bash | xargs -I{} readlink /proc/{}/cwd | grep -qx /srv/vm",
        secs(30),
    );
    let down = host.shell_within("virt-unlock down 2>&1", secs(120));
    assert_eq!(down.status, 1, "{down}");
    // How long it was is measured: a busy machine looks a second later.
    assert!(
        down.text.contains("guest stubborn: destroyed: it did not shut down within 1"),
        "{down}"
    );
    assert!(
        down.text.contains("bash (process") && down.text.contains("/srv/vm as its working directory"),
        "{down}"
    );
    for volume in ["mail", "stub", "late"] {
        assert!(down.text.contains(&format!("volume {volume}: closed")), "{down}");
    }
    assert_eq!(host.run("dmsetup ls --target crypt | cut -f1"), "vm\n");
    host.run("findmnt /srv/vm");
    host.terminal().type_line("cd /");
    host.until(
        "! pgrep -x bash | xargs -I{} readlink /proc/{}/cwd | grep -qx /srv/vm",
        secs(30),
    );
    assert!(host.run("virt-unlock down 2>&1").contains("volume vm: closed"));
}

/// Also when the program has ended before journald could look up who wrote the entry.
fn a_wrong_configuration_is_in_the_journal_of_its_unit(host: &Host) {
    for unit in ["virt-unlock", "virt-unlock-guests"] {
        assert_ne!(host.shell_within(&format!("systemctl start {unit}"), secs(60)).status, 0);
        let told = host.run(&format!(
            "journalctl --sync; journalctl -b -o cat -u {unit} MESSAGE_ID={}",
            ids::CONFIG_WRONG
        ));
        assert!(
            told.starts_with("error: `device` is no UUID: `UUID=@STUB@`"),
            "{unit}: {told}"
        );
    }
    host.run("systemctl reset-failed virt-unlock virt-unlock-guests");
}
