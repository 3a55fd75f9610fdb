//! Questions that are not answered at once, not by the right person, or not at all.

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, enabled},
};

const CONFIG: &str = r#"
[host]
hold-login = "15s"

[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"

[volume.spare]
device = "/dev/vg0/spare"
"#;

/// Questions that are open now.
const QUESTIONS: &str = "grep -h ^Message= /run/systemd/ask-password/ask.*";

#[test]
fn a_question_stays_open_until_somebody_answers() {
    let mut host = enabled("answers", CONFIG).power_on();
    let asked = host.console().expect("Passphrase for volume mail", secs(90));

    // Nobody answers: logins come after hold-login, and only then.
    let login = host.console().expect("host login:", secs(90));
    let held = login.at.saturating_sub(asked.at);
    assert!(held > secs(12), "logins were held for {held:?} only");
    host.await_shell();
    host.until("systemctl is-active virt-unlock", secs(10));
    assert_eq!(host.run(QUESTIONS).lines().count(), 1);
    assert!(
        host.run("systemctl show -P StatusText virt-unlock")
            .contains("asked for: volume mail")
    );

    // The console's agent is gone by now. Any other can answer: a second terminal.
    host.terminal().type_line("systemd-tty-ask-password-agent");
    host.terminal().expect("Passphrase for volume mail", secs(30));
    host.terminal().type_line(PASSPHRASE);
    // That brings up exactly what waited for it.
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(60));
    assert_eq!(host.run("dmsetup ls --target crypt | cut -f1"), "mail\n");
    host.until(&format!("{QUESTIONS} | grep -q 'volume vm'"), secs(30));
    assert_eq!(host.run("virsh domstate webserver").trim(), "shut off");

    // `up` in a terminal takes the open question over: here, and only here.
    terminal_is_free(&host);
    host.terminal().type_line("virt-unlock up");
    host.terminal().expect("Passphrase for volume vm", secs(30));
    assert_eq!(host.run(QUESTIONS).lines().count(), 1);
    let holder = host.run("virt-unlock status || true; pgrep -fc 'virt-unlock up'");
    assert!(holder.contains("waiting"), "{holder}");
    host.terminal().type_line(PASSPHRASE);

    // Ctrl-C there: what was done is said, and the service asks again for what is still closed.
    host.terminal().expect("Passphrase for volume spare", secs(60));
    host.until("grep -q 'GUEST webserver UP' /var/log/guests/webserver.log", secs(90));
    host.terminal().type_keys("\x03");
    host.terminal().expect("volume vm: opened", secs(60));
    terminal_is_free(&host);
    host.until(&format!("{QUESTIONS} | grep -q 'volume spare'"), secs(30));
    assert_eq!(host.run(QUESTIONS).lines().count(), 1);

    // A person declines: that volume is given up, nothing else is touched, and it can be asked for again at any time.
    host.run("echo -n | /usr/lib/systemd/systemd-reply-password 0 $(sed -n s/^Socket=//p /run/systemd/ask-password/ask.*)");
    host.until("virt-unlock status | grep -q 'spare .*failed.*cancelled'", secs(30));
    assert_ne!(host.shell(QUESTIONS).status, 0, "no question is left");
    host.terminal().type_line("virt-unlock up spare; echo status $?");
    for attempt in 1..=3 {
        host.terminal().expect(&format!("volume spare, try {attempt} of 3"), secs(60));
        host.terminal().type_line(&format!("wrong {attempt}"));
    }
    host.terminal().expect("given up after 3 wrong passphrases", secs(60));
    host.terminal().expect("status 1", secs(30));

    host.power_off();
    assert!(host.examine().filesystem_clean());
}

/// Waits until the second terminal has its shell back.
fn terminal_is_free(host: &Host) {
    host.terminal().type_line("echo free-$((40+2))");
    host.terminal().expect("free-42", secs(60));
}
