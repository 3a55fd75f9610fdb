//! A host as somebody would try it who is not root there, or who has got something of his own into a name, an image or a path.

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, enabled},
};

const CONFIG: &str = r#"
[host]
hold-login = "0"
stop-timeout = "20s"

[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
unlock = [{ key-file = "/etc/key" }]

[volume.spare]
device = "/dev/vg0/spare"
noauto = true
"#;

/// The passphrase of the volume spare.
const SPARE: &str = "battery staple";

/// Answers a question by systemd's protocol (<https://systemd.io/PASSWORD_AGENTS/>): `answer SOCKET TEXT`.
const ANSWER: &str = r#"#!/usr/bin/perl
use strict;
use Socket;
my ($at, $text) = @ARGV;
socket(my $own, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!\n";
send($own, "+$text\0", 0, pack_sockaddr_un($at)) or die "send: $!\n";
"#;

/// A program as an ordinary user runs it.
const AS_NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups --";

/// A guest whose name clears the screen (the one-character form of `ESC [`, which XML lets pass), turns what follows around, and looks
/// like a prompt. It has nothing to boot from, so it does not hear its power button.
const HOSTILE: &str = r"<domain type='qemu'>
  <name>evil&#x9b;2J&#x202e;Password: $(id) \e[2J</name>
  <uuid>77777777-7777-4777-8777-777777777777</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/mapper/spare'/>
      <target dev='hda' bus='ide'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
";
const HOSTILE_UUID: &str = "77777777-7777-4777-8777-777777777777";
/// What nothing that is shown may have: of the name, and of the label.
const RAW: [char; 3] = ['\u{9b}', '\u{202e}', '\u{7}'];

/// The question that is open for the volume mail, as the file that asks it.
const QUESTION: &str = "grep -l 'volume mail' /run/systemd/ask-password/ask.* | grep -v false";
/// The open mappings of dm-crypt.
const OPEN: &str = "dmsetup ls --target crypt | grep -v 'No devices' | cut -f1 | sort | paste -sd,";

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn who_is_not_root_gets_nothing_and_nothing_is_done_that_is_not_configured() {
    let mut host = enabled("attack", CONFIG)
        .prepare("rm -f /etc/libvirt/qemu/autostart/plain.xml")
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .program("/usr/local/bin/answer", ANSWER)
        .file("/root/hostile.xml", HOSTILE)
        .boot();
    host.until(QUESTION, secs(90));
    host.until("systemctl is-active multi-user.target", secs(120));
    host.until("grep -q 'GUEST webserver UP' /var/log/guests/webserver.log", secs(120));

    an_ordinary_user_sees_no_more_than_virsh_shows_him(&host);
    a_false_answer_is_none(&host);
    a_false_question_is_not_ours(&host);
    the_right_answer_is_one(&host);
    an_ordinary_user_sees_no_more_than_virsh_shows_him(&host);

    a_name_and_a_label_move_no_cursor(&host);
    an_image_that_points_outside_leads_nowhere(&host);

    down(&host);
    a_mapping_that_was_there_first_is_not_ours(&host);
    a_mount_point_that_leads_elsewhere_is_not_used(&host);

    // Nothing of all this has left anything behind.
    host.run("virt-unlock up webserver");
    host.until("virsh domstate webserver | grep -q running", secs(60));
    host.power_off();
    let disks = host.examine();
    assert_eq!(disks.marker("webserver", "up"), disks.marker("webserver", "off"));
    assert_eq!(disks.marker("mailserver", "up"), disks.marker("mailserver", "off"));
    assert!(disks.filesystem_clean());
}

/// A name that `virsh list` does not show him is nowhere in `status`, and not in what is kept below /run and /var.
fn an_ordinary_user_sees_no_more_than_virsh_shows_him(host: &Host) {
    let shown = host.run(&format!(
        "{AS_NOBODY} virsh -c qemu:///system list --all --name 2>/dev/null || true"
    ));
    let status = host.run(&format!("{AS_NOBODY} virt-unlock status --json || true"));
    let for_people = host.run(&format!("{AS_NOBODY} virt-unlock status 2>&1 || true"));
    assert!(status.contains(r#""name": "vm""#), "the configuration may be read: {status}");
    for guest in host.run("virsh list --all --name").split_whitespace() {
        if !shown.lines().any(|name| name == guest) {
            assert!(
                !status.contains(guest) && !for_people.contains(guest),
                "{guest}: {status}\n{for_people}"
            );
        }
    }
    for kept in [
        "/run/virt-unlock/volumes.json",
        "/run/virt-unlock/running.toml",
        "/var/lib/virt-unlock/guests.json",
    ] {
        host.run(&format!("test -s {kept}"));
        assert_ne!(host.shell(&format!("{AS_NOBODY} cat {kept}")).status, 0, "{kept}");
    }
    for order in ["up", "down", "down --now"] {
        let refused = host.shell(&format!("{AS_NOBODY} virt-unlock {order} 2>&1"));
        assert!(
            refused.status == 3 && refused.text.contains("needs root"),
            "{order}: {refused}"
        );
    }
}

/// He can reach nobody who asks; and if he could, it would not be heard: what comes is not root's. That nothing was heard is seen by
/// the tries, for a wrong answer costs one.
fn a_false_answer_is_none(host: &Host) {
    let socket = socket(host);
    let refused = host.shell(&format!("{AS_NOBODY} answer {socket} 'wrong of nobody' 2>&1"));
    assert!(refused.status != 0 && refused.text.contains("Permission denied"), "{refused}");
    host.run(&format!("chmod 666 {socket}"));
    host.run(&format!("{AS_NOBODY} answer {socket} 'wrong of nobody'"));
    // The contrary: what root sends is heard, and it is the first that was. The one before it would have been heard before it.
    host.run(&format!("answer {socket} 'wrong of root'"));
    host.until(
        &format!("test -s \"$({QUESTION})\" && grep -q 'try [2-9] of 3' $({QUESTION})"),
        secs(60),
    );
    let message = host.run(&format!("sed -n 's/^Message=//p' $({QUESTION})"));
    assert!(message.contains("try 2 of 3"), "{message}");
    assert_eq!(host.run(OPEN), "vm\n");
}

/// He cannot put one; and one that lies there all the same, of another owner and with our words, is nobody's whom we hear.
fn a_false_question_is_not_ours(host: &Host) {
    let folder = "/run/systemd/ask-password";
    let refused = host.shell(&format!("{AS_NOBODY} touch {folder}/ask.false 2>&1"));
    assert!(refused.status != 0 && refused.text.contains("Permission denied"), "{refused}");
    let ours = host.run(QUESTION);
    host.run(&format!(
        "{{ sed 's|^Socket=.*|Socket={folder}/sck.false|' $({QUESTION}); }} >/run/ask.false; \
         chown 65534:65534 /run/ask.false; mv /run/ask.false {folder}/ask.false"
    ));
    assert_eq!(host.run(QUESTION), ours, "our own stays as it is");
    let status = host.run("virt-unlock status --json || true");
    assert!(status.contains("a question for it is open"), "{status}");
    // Before anything is typed anywhere: systemd's own agents believe what lies in that folder, which is root's.
    host.run(&format!("rm {folder}/ask.false"));
}

fn the_right_answer_is_one(host: &Host) {
    host.run(&format!("answer {} '{PASSPHRASE}'", socket(host)));
    host.until("test -b /dev/mapper/mail", secs(60));
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(120));
    host.until("virt-unlock status", secs(60));
    let told = host.run("journalctl --sync; journalctl -b -o cat -u virt-unlock --no-pager");
    assert!(told.contains("try 2 of 3") && !told.contains("try 3 of 3"), "{told}");
}

/// A guest's name and a volume's label, wherever they are shown: at a terminal, at the console, in the journal, for programs.
fn a_name_and_a_label_move_no_cursor(host: &Host) {
    host.run("cryptsetup config /dev/vg0/mail --label \"$(printf 'evil\\033[2J\\302\\233\\342\\200\\256\\007')\"");
    host.run("udevadm trigger --settle /dev/vg0/mail /dev/vg0/spare");
    host.run(&format!("virsh define /root/hostile.xml && virsh autostart {HOSTILE_UUID}"));
    host.run("virsh list --all | grep -q evil");

    host.terminal().type_line("virt-unlock up spare; echo ended $?");
    host.terminal().expect("Passphrase for volume spare (guest evil", secs(60));
    host.terminal().type_line(SPARE);
    host.terminal().expect("ended ", secs(90));
    let runs = format!("virsh domstate {HOSTILE_UUID} | grep -q running");
    host.until(
        &format!("{runs} || journalctl -b -u virt-unlock-guests | grep -q 'guest evil.*failed'"),
        secs(90),
    );
    let runs = host.shell(&runs).status == 0;
    for verb in [
        "status",
        "status --json",
        "plan",
        "plan --json",
        "plan --dot",
        "plan --down --json",
        "check -v",
        "discover",
    ] {
        let said = host.shell_within(&format!("virt-unlock {verb} 2>&1 | cat"), secs(60));
        assert!(said.text.contains("evil") || verb == "check -v", "{verb}: {said}");
        assert_plain(verb, &said.text);
    }
    host.terminal().type_line("virt-unlock down spare; echo ended $?");
    if runs {
        host.terminal().expect("guest evil", secs(60));
    }
    host.terminal().expect("ended 0", secs(120));
    assert_eq!(host.run(OPEN), "mail,vm\n");

    let told = host.run(
        "journalctl --sync; journalctl -b -a -o cat --output-fields=MESSAGE,VIRT_UNLOCK_LAYER,VIRT_UNLOCK_DOMAIN \
         -u virt-unlock -u virt-unlock-guests --no-pager",
    );
    assert!(told.contains("evil"), "{told}");
    assert_plain("the journal", &told);
    for line in [host.console(), host.terminal()] {
        let text = line.text();
        // What draws the screen there has escape sequences of its own, and a bell is a shell's.
        assert!(!text.contains(&RAW[..2]), "{text:?}");
    }
    host.run(&format!("virsh undefine {HOSTILE_UUID}"));
}

#[track_caller]
fn assert_plain(what: &str, text: &str) {
    let raw = text.contains(RAW) || text.contains('\x1b');
    assert!(!raw, "{what}: {text:?}");
}

/// Images that name a file of the host's, a volume that is not theirs and is closed, and a pipe that nobody ever writes to.
fn an_image_that_points_outside_leads_nowhere(host: &Host) {
    let before = host.run("sha256sum /etc/shadow; findmnt -rno TARGET,SOURCE | grep mapper | sort");
    host.run("mkfifo /srv/vm/pipe");
    for (number, backing) in ["/etc/shadow", "/dev/vg0/spare", "/dev/mapper/spare", "/srv/vm/pipe"]
        .iter()
        .enumerate()
    {
        host.run(&format!(
            "qemu-img create -q -u -f qcow2 -b {backing} -F qcow2 /srv/vm/spy{number}.qcow2 4M && \
             sed -e 's|<name>.*</name>|<name>spy{number}</name>|; s|7</uuid>|{number}</uuid>|; \
             s|type=.block. device|type=\"file\" device|; s|type=.raw.|type=\"qcow2\"|; \
             s|<source dev=.*/>|<source file=\"/srv/vm/spy{number}.qcow2\"/>|' /root/hostile.xml >/root/spy.xml && \
             virsh define /root/spy.xml"
        ));
    }
    // Nobody has said that they are to be started; who starts one has decided so.
    let up = host.shell_within("virt-unlock up 2>&1", secs(60));
    assert_eq!(up.status, 0, "{up}");
    assert_eq!(host.run(OPEN), "mail,vm\n");
    assert_eq!(
        host.run("sha256sum /etc/shadow; findmnt -rno TARGET,SOURCE | grep mapper | sort"),
        before
    );
    let plan = host.run("virt-unlock plan --down");
    assert!(!plan.contains("shadow") && !plan.contains("vg0-spare"), "{plan}");
    // A volume that is not named there is no more theirs than before: what is down for them is not closed for others.
    host.run("virt-unlock down spy0");
    assert_eq!(host.run(OPEN), "mail,vm\n");
    for number in 0..4 {
        host.run(&format!("virsh undefine spy{number}; rm /srv/vm/spy{number}.qcow2"));
    }
    host.run("rm /srv/vm/pipe");
}

/// Another volume has the name when ours is to be opened: it is neither mounted, nor given to a guest, nor closed.
fn a_mapping_that_was_there_first_is_not_ours(host: &Host) {
    host.run(&format!(
        "printf '{SPARE}' | cryptsetup open /dev/vg0/spare mail --key-file -"
    ));
    let spare = host.run("cryptsetup status mail | grep -E 'type:|device:'");
    host.run("dmsetup create vm --table '0 2048 zero'");
    let up = host.shell_within("virt-unlock up 2>&1", secs(90));
    assert_eq!(up.status, 1, "{up}");
    for words in [
        "volume mail: failed: /dev/mapper/mail is an open LUKS volume on ",
        "volume vm: failed: /dev/mapper/vm belongs to another device-mapper device",
    ] {
        assert!(up.text.contains(words), "{words}: {up}");
    }
    host.run("! findmnt /srv/vm");
    assert_eq!(host.run("virsh list --name").trim(), "");
    host.shell_within("virt-unlock down 2>&1", secs(90));
    host.shell_within("virt-unlock down --now 2>&1", secs(90));
    assert_eq!(host.run("cryptsetup status mail | grep -E 'type:|device:'"), spare);
    host.run("dmsetup info vm | grep -q ACTIVE");
    host.run("cryptsetup close mail && dmsetup remove vm");
}

/// The mount point leads to a folder of somebody's who has put a disk of his own there, and then to one of the host's own.
fn a_mount_point_that_leads_elsewhere_is_not_used(host: &Host) {
    host.run("rmdir /srv/vm");
    host.run(&format!(
        "{AS_NOBODY} sh -c 'mkdir /var/tmp/trap && qemu-img create -q -f qcow2 /var/tmp/trap/webserver.qcow2 4M'"
    ));
    for target in ["/var/tmp/trap", "/etc"] {
        host.run(&format!("ln -s {target} /srv/vm"));
        let up = host.shell_within("virt-unlock up vm 2>&1", secs(90));
        assert_eq!(up.status, 1, "{up}");
        assert!(
            up.text
                .contains("mount vm: failed: the mount point /srv/vm leads over the symbolic link /srv/vm"),
            "{up}"
        );
        host.run("! findmnt --source /dev/mapper/vm");
        // Whoever starts it by hand gets no other answer.
        assert_ne!(host.shell("virsh start webserver").status, 0);
        assert_eq!(host.run("virsh list --name").trim(), "");
        down(host);
        host.run("rm /srv/vm");
    }
    host.run("test -s /etc/passwd");
    host.run("mkdir /srv/vm");
}

fn down(host: &Host) {
    let down = host.shell_within("virt-unlock down 2>&1", secs(120));
    assert_eq!(down.status, 0, "{down}");
    assert_eq!(host.run(&format!("{OPEN} | grep -c . || true")), "0\n");
}

/// Where the question for the volume mail is answered.
fn socket(host: &Host) -> String {
    host.run(&format!("sed -n 's/^Socket=//p' $({QUESTION})")).trim().to_owned()
}
