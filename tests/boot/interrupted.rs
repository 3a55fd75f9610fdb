//! Stopped, killed and switched off in the middle: the next `up` or `down` completes, and no guest is cut off.

use crate::{
    host::{Host, Suite, secs},
    product::{PASSPHRASE, daemon, enabled},
};

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
"#;

/// How many questions are open, and for which volume.
const QUESTIONS: &str = "sed -n 's/^Message=.*volume \\([a-z]*\\).*/\\1/p' /run/systemd/ask-password/ask.* 2>/dev/null";

#[test]
fn an_interrupted_way_is_completed_by_the_next_one() {
    let mut host = enabled("interrupted", CONFIG).power_on();
    host.console().expect("Passphrase for volume mail", secs(90));
    host.await_shell();

    // Killed with a question open: it comes back, one question is open again, no other is left behind.
    host.run("systemctl kill --kill-whom=main --signal=KILL virt-unlock");
    host.until(
        &format!("test $(systemctl show -P NRestarts virt-unlock) = 1 && test \"$({QUESTIONS})\" = mail"),
        secs(30),
    );
    answer_after_the_crash(&host);
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(90));

    // Killed again: what is open stays open, the guest runs on, and only what is closed is asked for.
    host.until(&format!("test \"$({QUESTIONS})\" = vm"), secs(30));
    let guest = host.run("virsh domid mailserver; systemctl show -P ActiveEnterTimestamp virt-unlock-guests");
    host.run("systemctl kill --kill-whom=main --signal=KILL virt-unlock");
    host.until(
        &format!("test $(systemctl show -P NRestarts virt-unlock) = 2 && test \"$({QUESTIONS})\" = vm"),
        secs(30),
    );
    assert_eq!(
        host.run("virsh domid mailserver; systemctl show -P ActiveEnterTimestamp virt-unlock-guests"),
        guest
    );

    // The other half killed: no guest is touched, and it waits for its volume again.
    host.run("systemctl kill --kill-whom=main --signal=KILL virt-unlock-guests");
    host.until("test $(systemctl show -P NRestarts virt-unlock-guests) = 1", secs(30));
    assert_eq!(host.run("virsh domstate mailserver").trim(), "running");

    // Stopped while a question is open: the question goes, the guest is asked to stop, its volume is closed.
    host.shell_within("systemctl stop virt-unlock", secs(90));
    assert_eq!(host.run(&format!("{QUESTIONS}; dmsetup ls --target crypt")).trim(), "");
    host.run("grep -q 'GUEST mailserver OFF' /var/log/guests/mailserver.log");
    assert_eq!(
        host.run("systemctl is-active virt-unlock virt-unlock-guests || true"),
        "inactive\ninactive\n"
    );

    // Started in a terminal: it asks in that terminal.
    host.console().expect("host login:", secs(60));
    host.terminal().type_line("systemctl start virt-unlock; echo started $?");
    for volume in ["mail", "vm"] {
        host.terminal().expect(&format!("Passphrase for volume {volume}"), secs(60));
        host.terminal().type_line(PASSPHRASE);
    }
    host.terminal().expect("started 0", secs(60));
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("virsh domstate {guest} | grep -q running"), secs(60));
    }
    host.until("virt-unlock status", secs(60));

    // libvirt's daemon restarts in the middle of the way down: guests run on, and are asked all the same.
    let daemon = daemon(&host);
    host.run(&format!("systemctl stop --no-block virt-unlock; systemctl restart {daemon}"));
    host.until("systemctl is-active virt-unlock | grep -qE 'inactive|failed'", secs(120));
    let state = host.run("systemctl is-active virt-unlock; dmsetup ls --target crypt");
    assert_eq!(
        state.trim(),
        "inactive",
        "{}",
        host.run("journalctl -b -o short-monotonic --no-pager | tail -n 60")
    );
    assert_eq!(
        host.run("grep -c 'GUEST .* OFF' /var/log/guests/*server.log")
            .trim()
            .lines()
            .count(),
        2
    );

    // Power-off while a question is open.
    host.run("systemctl start --no-block virt-unlock");
    host.until(&format!("test \"$({QUESTIONS})\" = mail"), secs(30));
    open_mail_and_start_its_guest(&host);
    host.power_off();
    host.console().assert_order(&["volume mail: closed", "reboot: Power down"]);

    let disks = host.examine();
    assert_eq!((disks.marker("mailserver", "up"), disks.marker("mailserver", "off")), (3, 3));
    assert!(disks.filesystem_clean());
}

/// Logins still wait, and the question is at the console again. systemd 252 lets them begin at a crash, and then the console is theirs.
fn answer_after_the_crash(host: &Host) {
    let line = match host.variant().suite {
        Suite::Trixie => host.console(),
        Suite::Bookworm => {
            host.terminal().type_line("systemd-tty-ask-password-agent");
            host.terminal()
        }
    };
    line.expect("Passphrase for volume mail", secs(30));
    line.type_line(PASSPHRASE);
}

/// What somebody does by hand is taken over: the way down stops the guest and closes the volume.
fn open_mail_and_start_its_guest(host: &Host) {
    host.run(&format!(
        "printf '{PASSPHRASE}' | cryptsetup open --key-file - /dev/vg0/mail mail"
    ));
    host.until(
        "test $(grep -c 'GUEST mailserver UP' /var/log/guests/mailserver.log) = 3",
        secs(60),
    );
}
