//! A master from its making to its end: one question opens all its volumes, and whoever is killed in the middle leaves nothing half done.

use crate::{
    host::{Host, secs},
    product::{OPEN_VOLUMES, PASSPHRASE, installed},
};

const CONFIG: &str = r#"
[master.office]
header = "/etc/virt-unlock/masters/office.luks"

[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ master = "office" }, "passphrase"]
passphrase-group = "guests"

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ master = "office" }, "passphrase"]
passphrase-group = "guests"
mount = "/srv/vm"

[volume.spare]
device = "/dev/vg0/spare"
noauto = true
"#;

/// The same without a question, for what is done again and again.
const BY_FILES: &str = r#"
[master.cheap]
header = "/root/cheap.luks"
unlock = [{ key-file = "/root/own" }]

[master.dear]
header = "/root/masters/dear.luks"
unlock = [{ key-file = "/root/own" }]

[volume.stub]
device = "/dev/vg0/stub"
unlock = [{ master = "cheap" }, { key-file = "/root/own" }]
"#;

/// What is killed at any time, after a little more of it each time, until it has lived through; then what must hold of what was left.
const KILLED: &str = r#"
killed() { # CHECK COMMAND...
    local check=$1 step=$2 hits=0; shift 2
    for part in $(seq 1 40); do
        "$@" >/root/said 2>&1 & pid=$!
        sleep "$(awk "BEGIN { print $part * $step }")"
        kill -KILL $pid 2>/dev/null
        wait $pid; status=$?
        eval "$check" || { echo "left behind after part $part: $status"; cat /root/said; return 1; }
        [ $status = 137 ] && hits=$((hits + 1))
        [ $status = 137 ] || return $((hits < 1))
    done
    echo "it never lived through"; return 1
}
state() { echo "$(cryptsetup luksDump /dev/vg0/stub | grep -c ': luks2$') $(cryptsetup luksDump /dev/vg0/stub | grep -c virt-unlock-master)"; }
opens() { state >>/root/states; cryptsetup open --test-passphrase --key-file /root/own /dev/vg0/stub; }
"#;

const MASTER: &str = "a passphrase for everything";
const QUESTION: &str = "Passphrase for master office";

/// Answers the questions at the second terminal, and waits until the command has ended there.
fn at_terminal(host: &Host, command: &str, answers: &[(&str, &str)], shown: &[&str], status: u32) {
    host.terminal().type_line(&format!("{command}; echo ended $?"));
    for (question, answer) in answers {
        host.terminal().expect(question, secs(120));
        host.terminal().type_line(answer);
    }
    for words in shown {
        host.terminal().expect(words, secs(180));
    }
    host.terminal().expect(&format!("ended {status}"), secs(180));
}

/// How many keyslots and tokens of ours a volume has.
fn marks(host: &Host, volume: &str) -> String {
    let dump = format!("cryptsetup luksDump /dev/vg0/{volume}");
    host.run(&format!(
        "echo $({dump} | grep -c ': luks2$') $({dump} | grep -c virt-unlock-master)"
    ))
    .trim()
    .to_owned()
}

#[test]
#[ignore = "make test-hosts runs it: two starts, and what is killed again and again, take five minutes"]
fn a_master_lives_and_dies() {
    let mut host = installed("masters", CONFIG).file("/root/by-files.toml", BY_FILES).power_on();
    host.console().expect("host login:", secs(120));
    host.await_shell();
    killed_at_any_time(&host);

    let create = "virt-unlock master create office";
    let new = "New passphrase for master office";
    let again = "The same passphrase for master office again";
    let answers = [
        (new, MASTER),
        (again, "a slip"),
        ("the last two were different", MASTER),
        (again, MASTER),
    ];
    at_terminal(&host, create, &answers, &["master office: made in"], 0);
    at_terminal(&host, create, &[], &["is there already, and is left as it is"], 1);
    assert_eq!(
        host.run("cd /etc/virt-unlock/masters && stat -c '%a' . office.luks && ls -A"),
        "700\n600\noffice.luks\n"
    );

    // One question serves both volumes of the group.
    let enroll = "virt-unlock master enroll office mail vm";
    let answers = [
        (QUESTION, "wrong"),
        ("try 2 of 3", MASTER),
        ("Passphrase for volume mail", PASSPHRASE),
    ];
    let shown = [
        "volume mail: enrolled with master office",
        "volume vm: enrolled with master office",
    ];
    at_terminal(&host, enroll, &answers, &shown, 0);
    assert_eq!((marks(&host, "mail").as_str(), marks(&host, "vm").as_str()), ("2 1", "2 1"));
    let shown = [
        "volume mail: master office opens it already",
        "volume spare is LUKS1, which has no tokens",
    ];
    at_terminal(
        &host,
        "virt-unlock master enroll office mail spare",
        &[(QUESTION, MASTER)],
        &shown,
        1,
    );
    let listed = host.run("virt-unlock master list");
    for volume in ["mail", "vm"] {
        assert!(listed.contains(&format!("volume {volume}  enrolled, keyslot 1")), "{listed}");
    }

    // One question for both at the next start, and each guest starts.
    host.run("systemctl --quiet enable virt-unlock.service");
    host.power_off();
    host.power_on_again();
    host.console().expect(QUESTION, secs(120));
    host.console().type_line(MASTER);
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(120));
    }
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "2");
    host.console().assert_never("Passphrase for volume");

    // Revoked while it is open, it stays open; after that it is asked for by its own passphrase, and the other is not.
    at_terminal(
        &host,
        "virt-unlock master revoke office mail",
        &[],
        &["keyslot 1 is wiped"],
        0,
    );
    assert_eq!((marks(&host, "mail").as_str(), marks(&host, "vm").as_str()), ("1 0", "2 1"));
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "2");
    host.run("virt-unlock down");
    host.terminal().type_line("virt-unlock up; echo ended $?");
    host.terminal().expect("Passphrase for volume mail", secs(60));
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect(QUESTION, secs(60));
    host.terminal().type_line(MASTER);
    host.terminal().expect("ended 0", secs(120));
    host.power_off();
    assert!(host.examine().filesystem_clean());
}

/// `kill -9` after ever more of each command: a master is made whole or not at all, a volume always opens as before, and one more run
/// completes.
fn killed_at_any_time(host: &Host) {
    let run = |script: &str| {
        let output = host.shell_within(&format!("{KILLED}{script}"), secs(400));
        assert_eq!(output.status, 0, "{script}: {output}");
        println!("{script}: {output}");
    };
    run(&format!("printf '{PASSPHRASE}' >/root/own; chmod 600 /root/own"));
    let ours = "virt-unlock --config /root/by-files.toml master";
    run(&format!(
        "killed 'test ! -e /root/masters/dear.luks || cryptsetup open --test-passphrase --key-file /root/own /root/masters/dear.luks' \
         0.7 {ours} create dear && test \"$(ls -A /root/masters)\" = dear.luks"
    ));
    run(
        "truncate -s 16M /root/cheap.luks && cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
         --key-file /root/own /root/cheap.luks",
    );
    for (command, marks) in [("enroll", "2 1"), ("revoke", "1 0")] {
        run(&format!(
            "killed opens 0.15 {ours} {command} cheap stub && {ours} {command} cheap stub && test \"$(state)\" = '{marks}'; \
             result=$?; sort /root/states | uniq -c; rm /root/states; exit $result"
        ));
    }
}
