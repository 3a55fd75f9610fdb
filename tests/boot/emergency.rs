//! `down --now`: guests are not asked, what is free is closed, and what somebody keeps open loses its key, with a configuration that
//! somebody has just broken too. Nothing here reads a file of the volume while its key is gone: that would hang until it is back.

use crate::{
    host::{Host, secs},
    product::{OPEN_VOLUMES, PASSPHRASE, installed},
};

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ key-file = "/etc/key" }]

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
unlock = [{ key-file = "/etc/key" }]

[domain.mailserver]
start = true
stop-timeout = "1h"
on-stop-timeout = "wait"

[domain.webserver]
start = true
"#;

const GUESTS: [&str; 2] = ["mailserver", "webserver"];

/// What the kernel has in the place of the key of the volume vm.
const KEY: &str = "dmsetup table --showkeys vm | cut -d ' ' -f 5";

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn in_an_emergency_nothing_is_left_that_could_be_read() {
    let mut host = installed("emergency", CONFIG)
        // libvirt's own autostart would take whatever is called mail for its disk.
        .prepare("rm /etc/libvirt/qemu/autostart/mailserver.xml /etc/libvirt/qemu/autostart/webserver.xml")
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .boot();
    host.until("systemctl is-active multi-user.target", secs(120));
    bring_up(&host, 1);

    host.run("echo untouched >/srv/vm/content; sync -f /srv/vm");
    // It holds its folder and an open file, and reads and writes nothing.
    host.run("systemd-run --quiet --collect --unit=holder --working-directory=/srv/vm sh -c 'exec sleep 100000 <content'");
    host.until(
        "pgrep -x sleep | xargs -I{} readlink /proc/{}/cwd | grep -qx /srv/vm",
        secs(30),
    );
    let key = host.run(KEY);
    assert!(is_a_key(key.trim()), "the contrary: before, it is there: {key}");

    let said = down_now(&host, 1);
    for guest in GUESTS {
        assert!(said.contains(&format!("guest {guest}: destroyed: at once")), "{said}");
    }
    assert!(said.contains("volume mail: closed"), "{said}");
    assert!(
        said.contains("sleep (process") && said.contains("/srv/vm/content as its file"),
        "{said}"
    );
    assert!(
        said.contains("volume vm: warning: is not closed, but its key is gone from the kernel: what uses it hangs")
            && said.contains("`cryptsetup luksResume vm`"),
        "{said}"
    );

    // What the kernel says, not we.
    assert_eq!(host.run("virsh list --name").trim(), "plain", "which uses no volume");
    assert_eq!(host.run("dmsetup ls --target crypt | cut -f1"), "vm\n");
    let suspended = "cat /sys/class/block/$(basename $(readlink /dev/mapper/vm))/dm/suspended";
    assert_eq!(host.run(suspended), "1\n");
    let gone = host.run(KEY);
    assert!(!is_a_key(gone.trim()) && gone.trim() != key.trim(), "{gone}");
    assert_ne!(host.shell("grep -E 'logon .*cryptsetup:' /proc/keys").status, 0);

    // Who looks does not hang, and is told what it is.
    let status = host.shell_within("virt-unlock status", secs(60));
    assert!(
        status.status == 1 && status.text.contains("is suspended: all that uses it hangs"),
        "{status}"
    );
    // It is no more closed when it is asked for again.
    let said = down_now(&host, 1);
    assert!(
        said.contains("is suspended") && said.contains("cryptsetup luksResume vm"),
        "{said}"
    );

    // With its passphrase it goes on where it was, and then it closes as on any other day.
    host.run("cryptsetup luksResume vm --key-file /etc/key");
    assert_eq!(host.run(suspended), "0\n");
    assert!(is_a_key(host.run(KEY).trim()));
    assert_eq!(host.run("cat /srv/vm/content"), "untouched\n");
    host.run("systemctl is-active holder");
    host.run("systemctl stop holder");
    let down = host.run("virt-unlock down 2>&1");
    assert!(down.contains("volume vm: closed"), "{down}");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0");

    with_a_broken_configuration(&host);
    host.power_off();

    let disks = host.examine();
    for guest in GUESTS {
        // Nobody was asked, though the table of one says that it is always waited for.
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (2, 0), "{guest}");
    }
    assert!(disks.filesystem_clean());
}

/// A slip of the pen keeps nothing open.
fn with_a_broken_configuration(host: &Host) {
    bring_up(host, 2);
    host.run("cp /etc/virt-unlock/config.toml /root/right.toml");
    host.run("sed -i 's/^mount = /muont = /' /etc/virt-unlock/config.toml");
    // Who has time corrects it first.
    let refused = host.shell_within("virt-unlock down 2>&1", secs(60));
    assert!(refused.status == 2 && refused.text.contains("`muont`"), "{refused}");
    let said = down_now(host, 0);
    assert!(
        said.contains("`muont`") && said.contains("going down by the one that was in force on the way up"),
        "{said}"
    );
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0");
    assert_eq!(host.run("virsh list --name").trim(), "plain");
    host.run("cp /root/right.toml /etc/virt-unlock/config.toml");
}

fn bring_up(host: &Host, times: usize) {
    let up = host.shell_within("virt-unlock up 2>&1", secs(120));
    assert_eq!(up.status, 0, "{up}");
    for guest in GUESTS {
        host.until(
            &format!("test $(grep -c 'GUEST {guest} UP' /var/log/guests/{guest}.log) = {times}"),
            secs(90),
        );
    }
}

/// Runs it and returns what it said. How long it took is said here; the limit is that of an emulated host on a busy machine.
fn down_now(host: &Host, status: i32) -> String {
    let timed = "begin=$(date +%s%3N); virt-unlock down --now 2>&1 | cat; status=${PIPESTATUS[0]}; \
                 echo took $(($(date +%s%3N) - begin)) ms; exit $status";
    let down = host.shell_within(timed, secs(60));
    assert_eq!(down.status, status, "{down}");
    let took = down.text.lines().find(|line| line.starts_with("took "));
    println!("down --now {}", took.unwrap_or_default());
    down.text
}

/// In hexadecimal digits, or by its name in the kernel's keyring. A key that is gone is all zeros, or nothing.
fn is_a_key(field: &str) -> bool {
    !field.is_empty() && field != "-" && field.chars().any(|digit| digit != '0')
}
