//! One guest or volume by its own unit, as a cluster manager starts and stops it, beside the two main units and without them.

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, enabled},
};

const CONFIG: &str = r#"
[host]
hold-login = "0"

[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
noauto = true

[volume.spare]
device = "/dev/vg0/spare"
noauto = true

[domain.chained]
volumes = ["vm", "spare"]
"#;

/// For which volumes a question is open.
const QUESTIONS: &str = "sed -n 's/^Message=.*volume \\([a-z]*\\).*/\\1/p' /run/systemd/ask-password/ask.* 2>/dev/null";

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn one_guest_comes_and_goes_by_its_own_unit() {
    let mut host = enabled("named", CONFIG).power_on();
    // At boot only what is not noauto is asked for, and nothing else is missed.
    host.await_shell();
    host.until(&format!("test \"$({QUESTIONS})\" = mail"), secs(90));
    host.until("systemctl is-active virt-unlock-guests", secs(90));
    let plan = host.run("virt-unlock plan");
    assert!(plan.contains("leave      volume vm"), "{plan}");

    // A wrong name touches nothing, not even the open question.
    let question = host.run("ls /run/systemd/ask-password/ask.*");
    assert_eq!(host.shell("systemctl --no-ask-password start virt-unlock@nobody").status, 1);
    let why = shown(&host, "nobody", "ExecMainStatus") + &shown(&host, "nobody", "StatusText");
    assert!(
        why.starts_with("2\n") && why.contains("no guest named \"nobody\"; known are:"),
        "{why}"
    );
    assert_eq!(host.run("ls /run/systemd/ask-password/ask.*"), question);

    a_start_that_fails_leaves_nothing_behind(&host);
    it_takes_the_question_of_the_service_and_gives_it_back(&host);
    a_person_takes_the_question_of_the_unit(&host);
    its_stop_leaves_the_others_alone(&host);
    a_volume_brings_its_guests_each_time_it_is_opened(&host);

    // The stop of the main unit takes down everything, and systemd knows that of the unit too.
    start(&host, "webserver", "vm");
    until_up(&host, 4);
    host.shell_within("systemctl stop virt-unlock", secs(120));
    host.until("systemctl is-active virt-unlock@webserver | grep -qx inactive", secs(60));
    assert_eq!(open(&host), "");

    // Alone it brings its guest down in good order at a power-off.
    start(&host, "webserver", "vm");
    until_up(&host, 5);
    let main = host.run("systemctl is-active virt-unlock virt-unlock-guests || true");
    assert_eq!(main, "inactive\ninactive\n");
    host.power_off();
    host.console().assert_never("Failed unmounting srv-vm.mount");

    let disks = host.examine();
    assert_eq!((disks.marker("webserver", "up"), disks.marker("webserver", "off")), (5, 5));
    assert_eq!((disks.marker("mailserver", "up"), disks.marker("mailserver", "off")), (1, 1));
    assert_eq!(disks.marker("chained", "up"), 0);
    assert!(disks.filesystem_clean());
}

/// Its first volume is opened, its second is not: the first is closed again, and nobody has used it meanwhile.
fn a_start_that_fails_leaves_nothing_behind(host: &Host) {
    host.terminal()
        .type_line("systemctl start virt-unlock@chained; echo started $?");
    host.terminal().expect("Passphrase for volume vm", secs(60));
    assert_eq!(host.run(QUESTIONS), "vm\n");
    host.terminal().type_line(PASSPHRASE);
    for attempt in 1..=3 {
        host.terminal().expect(&format!("volume spare, try {attempt} of 3"), secs(60));
        host.terminal().type_line(&format!("wrong {attempt}"));
    }
    host.terminal().expect("started 1", secs(60));
    let unit = ["ActiveState", "ExecMainStatus", "StatusText"]
        .map(|property| shown(host, "chained", property))
        .concat();
    assert!(
        unit.starts_with("failed\n1\n")
            && unit.contains("given up after 3 wrong passphrases")
            && unit.contains("is taken down again"),
        "{unit}"
    );
    assert_eq!(open(host), "");
    host.run("! findmnt /srv/vm");
    host.run("! grep -q 'GUEST webserver UP' /var/log/guests/webserver.log");
    // The service asks again, for its own volume.
    host.until(&format!("test \"$({QUESTIONS})\" = mail"), secs(30));
}

fn it_takes_the_question_of_the_service_and_gives_it_back(host: &Host) {
    start(host, "webserver", "vm");
    assert_eq!(open(host), "vm\n");
    host.run("findmnt --noheadings -o SOURCE /srv/vm | grep -qx /dev/mapper/vm");
    host.run("virsh domstate webserver | grep -q running");
    host.until(&format!("test \"$({QUESTIONS})\" = mail"), secs(30));
    let status = shown(host, "webserver", "StatusText");
    assert!(status.contains("1 of 1 guest"), "{status}");
}

/// `up` in a terminal goes before the unit, and the unit goes on afterwards; stopped with its question open, it is gone.
fn a_person_takes_the_question_of_the_unit(host: &Host) {
    host.run("systemctl --no-ask-password start --no-block virt-unlock@spare");
    host.until(&format!("test \"$({QUESTIONS})\" = spare"), secs(30));
    host.terminal().type_line("virt-unlock up mail; echo status $?");
    host.terminal().expect("Passphrase for volume mail", secs(60));
    assert_eq!(host.run(QUESTIONS), "mail\n");
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect("status 0", secs(60));
    host.until(&format!("test \"$({QUESTIONS})\" = spare"), secs(30));
    host.run("systemctl --no-ask-password stop virt-unlock@spare");
    assert_eq!(host.run("systemctl is-active virt-unlock@spare || true"), "inactive\n");
    assert_ne!(host.shell(&format!("{QUESTIONS} | grep .")).status, 0);
    host.until(
        "grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log && virt-unlock status",
        secs(90),
    );
}

fn its_stop_leaves_the_others_alone(host: &Host) {
    until_up(host, 1);
    let mail = host.run("virsh domid mailserver");
    let stopped = host.shell_within("systemctl stop virt-unlock@webserver", secs(90));
    assert_eq!(stopped.status, 0, "{stopped}");
    assert_eq!(open(host), "mail\n");
    host.run("grep -q 'GUEST webserver OFF' /var/log/guests/webserver.log");
    assert_eq!(host.run("virsh domid mailserver"), mail);
    // Nobody asks for it, starts it, or misses it.
    assert_eq!(host.run("virsh domstate webserver").trim(), "shut off");
    let status = host.run("virt-unlock status");
    assert!(status.contains("/srv/vm; noauto"), "{status}");
    assert_ne!(host.shell(&format!("{QUESTIONS} | grep .")).status, 0);
}

/// The volume alone is named; the guest that libvirt is to start comes with it, the second time as the first.
fn a_volume_brings_its_guests_each_time_it_is_opened(host: &Host) {
    for times in [2, 3] {
        start(host, "vm", "vm");
        until_up(host, times);
        let stopped = host.shell_within("systemctl stop virt-unlock@vm", secs(90));
        assert_eq!(stopped.status, 0, "{stopped}");
        assert_eq!(open(host), "mail\n");
    }
}

/// Starts the unit in a terminal, which asks for this volume.
fn start(host: &Host, name: &str, volume: &str) {
    host.terminal()
        .type_line(&format!("systemctl start virt-unlock@{name}; echo started $?"));
    host.terminal().expect(&format!("Passphrase for volume {volume}"), secs(60));
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect("started 0", secs(90));
    assert_eq!(host.run(&format!("systemctl is-active virt-unlock@{name}")), "active\n");
}

/// Waits until the guest webserver has come up so many times.
fn until_up(host: &Host, times: u32) {
    let count = "grep -c 'GUEST webserver UP' /var/log/guests/webserver.log";
    host.until(&format!("test $({count}) = {times}"), secs(90));
}

/// A property of the unit of this name.
fn shown(host: &Host, name: &str, property: &str) -> String {
    host.run(&format!("systemctl show -P {property} virt-unlock@{name}"))
}

/// The volumes that are open.
fn open(host: &Host) -> String {
    host.run("dmsetup ls --target crypt | grep -v 'No devices' | cut -f1")
}
