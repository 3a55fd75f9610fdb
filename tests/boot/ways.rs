//! Ways to a key that need nobody, on real hosts: each opens its volume, and where it cannot, it says so and somebody is asked.

use virt_unlock::{secret::Secret, unlock::derived::derive};

use crate::{
    host::{Host, secs},
    product::{OPEN_VOLUMES, PASSPHRASE, installed},
};

const BY_CREDENTIAL_AND_STICK: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ credential = "mail" }, "passphrase"]

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ key-file = "/keys/vm", key-file-device = "LABEL=KEYS", key-file-timeout = "2min" }, "passphrase"]
mount = "/srv/vm"

[volume.stub]
device = "/dev/vg0/stub"
unlock = [{ key-file = "/keys/stub", key-file-device = "UUID=0000-0000", key-file-timeout = "3s" }, "passphrase"]

[domain.stubborn]
start = false
"#;

/// As virt-unlock.toml(5) shows it.
const DROP_IN: &str = "[Unit]
After=tpm2.target

[Service]
LoadCredentialEncrypted=mail:/etc/virt-unlock/mail.cred
SetCredential=mail:-
";

/// The journal of this boot, of the half that opens volumes.
const SAID: &str = "journalctl --sync; journalctl -b -o cat -t virt-unlock";

/// Starts the service in the second terminal, which is asked there.
fn start(host: &Host) {
    host.terminal().type_line("systemctl start virt-unlock; echo ended $?");
}

fn said(host: &Host, words: &str) {
    host.until(&format!("{{ {SAID}; }} | grep -qF '{words}'"), secs(60));
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_credential_and_a_key_on_a_stick_open_volumes() {
    let mut host = installed("ways_files", BY_CREDENTIAL_AND_STICK)
        .file("/etc/systemd/system/virt-unlock.service.d/mail.conf", DROP_IN)
        .boot();
    host.console().expect("host login:", secs(120));
    host.until("test -b /dev/vg0/stub", secs(60));
    // The manual's commands.
    host.run(&format!(
        "umask 077; printf '{PASSPHRASE}' >/root/mail.key && \
         systemd-creds encrypt --name=mail /root/mail.key /etc/virt-unlock/mail.cred && rm /root/mail.key"
    ));
    host.add_drive("stick", 32);
    host.until("test -b /dev/disk/by-id/virtio-stick", secs(30));
    host.run(&format!(
        "mkfs.vfat -n KEYS /dev/disk/by-id/virtio-stick && mount /dev/disk/by-id/virtio-stick /mnt && mkdir /mnt/keys && \
         printf '{PASSPHRASE}' >/mnt/keys/vm && umount /mnt"
    ));
    host.remove_drive("stick");
    host.until("test ! -e /dev/disk/by-label/KEYS", secs(30));

    // The credential opens one, the stick that is missing is said, and its volume asked for, while another stick is waited for.
    start(&host);
    said(&host, "volume mail: opened by credential mail");
    host.until(
        "virt-unlock status | grep -q 'the device LABEL=KEYS of its key file is not there; waiting up to 2min for it'",
        secs(30),
    );
    host.terminal().expect("Passphrase for volume stub", secs(60));
    said(
        &host,
        "volume stub: warning: key file /keys/stub on UUID=0000-0000: the device is not there, after waiting 3s for it",
    );
    host.terminal().type_line(PASSPHRASE);
    host.until("test -b /dev/mapper/stub", secs(60));
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "2");

    // It comes: opened at once, and nothing is left of the mount.
    host.add_drive_again("stick");
    host.terminal().expect("ended 0", secs(60));
    host.until("findmnt /srv/vm", secs(60));
    host.run("! grep vfat /proc/*/mountinfo");
    said(&host, "volume vm: opened by key file /keys/vm on LABEL=KEYS");
    host.until("grep -q 'GUEST webserver UP' /var/log/guests/webserver.log", secs(90));
    // Nobody has it: it can be had for oneself.
    host.run("mkfs.vfat -n OTHER /dev/disk/by-id/virtio-stick >/dev/null && udevadm settle");

    // Where the stick has no such file, nor the host the credential, somebody is asked. Mounted elsewhere, it is read all the same.
    host.run("systemctl stop virt-unlock virt-unlock-guests; mv /etc/virt-unlock/mail.cred /root");
    host.run("fatlabel /dev/disk/by-id/virtio-stick KEYS && udevadm trigger --settle && mount LABEL=KEYS /mnt");
    start(&host);
    host.terminal().expect("Passphrase for volume mail", secs(60));
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect("Passphrase for volume vm", secs(60));
    said(&host, "volume mail: warning: credential mail: its file was not there");
    said(
        &host,
        "volume vm: warning: key file /keys/vm on LABEL=KEYS: the key file cannot be read: No such file or directory",
    );
    host.run("findmnt /mnt");
    // A key with a line end is not that key, and that is said.
    host.run(&format!("mkdir /mnt/keys && echo '{PASSPHRASE}' >/mnt/keys/vm"));
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect("Passphrase for volume stub", secs(60));
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect("ended 0", secs(60));
    host.run("systemctl stop virt-unlock virt-unlock-guests");
    start(&host);
    said(&host, "it ends with a line end, which is part of the key");
    host.terminal().expect("Passphrase for volume mail", secs(60));
    host.power_off();
    assert!(host.examine().filesystem_clean());
}

const BY_TANG: &str = r#"
[master.office]
header = "/etc/virt-unlock/masters/office.luks"

[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ master = "office" }, "passphrase"]
mount = "/srv/vm"
"#;

pub const MASTER: &str = "a passphrase for everything";

/// Makes the master of these tests, for the volume vm.
pub fn make_master(host: &Host) {
    host.terminal()
        .type_line("virt-unlock master create office && virt-unlock master enroll office vm; echo made $?");
    for (question, answer) in [
        ("New passphrase for master office", MASTER),
        ("The same passphrase for master office again", MASTER),
        ("Passphrase for master office", MASTER),
        ("Passphrase for volume vm", PASSPHRASE),
    ] {
        host.terminal().expect(question, secs(120));
        host.terminal().type_line(answer);
    }
    host.terminal().expect("made 0", secs(120));
}

#[test]
#[ignore = "make test-hosts runs it: two starts, and what clevis does in its shell scripts, take three minutes"]
fn clevis_answers_for_a_volume_and_a_master_and_where_it_cannot_a_person_does() {
    let mut host = installed("ways_tang", BY_TANG).boot();
    host.console().expect("host login:", secs(120));
    host.until("test -b /dev/vg0/vm", secs(60));
    host.run("/usr/libexec/tangd-keygen /var/lib/tang && chown -R _tang:_tang /var/lib/tang && systemctl --quiet enable --now tangd.socket");
    make_master(&host);
    let masters = "/etc/virt-unlock/masters/office.luks";
    for (key, place) in [(PASSPHRASE, "/dev/vg0/mail"), (MASTER, masters)] {
        let bind = format!("printf '{key}' | clevis luks bind -y -k - -d {place} tang '{{\"url\":\"http://127.0.0.1\"}}'");
        let bound = host.shell_within(&bind, secs(120));
        assert_eq!(bound.status, 0, "{place}: {bound}");
    }
    host.run("systemctl --quiet enable clevis-luks-askpass.path virt-unlock");
    host.power_off();

    // Nobody types anything.
    host.boot_again();
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(180));
    }
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "2");
    said(&host, "volume vm: opened by master office");
    // The header was a block device for as long as the question was open.
    assert_eq!(host.run("losetup --list --noheadings"), "");
    let agent = host.run("journalctl -b -o cat -u clevis-luks-askpass");
    for place in ["/dev/vg0/mail", "/dev/loop"] {
        assert!(agent.contains(&format!("Unlocked {place}")), "{agent}");
    }

    // The server is away: whoever is there is asked, and need not wait until the agent has given up.
    host.run("systemctl stop tangd.socket; systemctl stop virt-unlock virt-unlock-guests");
    start(&host);
    for (question, answer) in [
        ("Passphrase for volume mail", PASSPHRASE),
        ("Passphrase for master office", MASTER),
    ] {
        host.terminal().expect(question, secs(60));
        host.run("systemctl is-active clevis-luks-askpass.service");
        host.terminal().type_line(answer);
    }
    host.terminal().expect("ended 0", secs(120));
    host.until(&format!("test $({OPEN_VOLUMES}) = 2"), secs(120));
    host.power_off();
    assert!(host.examine().filesystem_clean());
}

const SCANNED: &str = r#"
[master.office]
header = "/etc/virt-unlock/masters/office.luks"

[volume.mail]
device = "/dev/vg0/mail"
passphrase-group = "guests"

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ master = "office" }, "passphrase"]
mount = "/srv/vm"

[volume.late]
device = "/dev/disk/by-id/virtio-late"
device-timeout = "10min"
passphrase-group = "guests"

[volume.never]
device = "/dev/vg0/never"
device-timeout = "1h"
"#;

/// Looks for strings, given as hexadecimal digits, in the memory of all processes of ours, in every process's arguments and
/// environment, and in all files of the journal, below /run and of swap. Says where each is.
const SCAN: &str = r#"#!/usr/bin/perl
use strict; use warnings; no warnings 'portable';
my %wanted = map { my ($name, $hex) = split /=/; $name => pack("H*", $hex) } @ARGV;
my $found = sub { my ($where, $bytes) = @_; for (sort keys %wanted) { print "$_ in $where\n" if index($$bytes, $wanted{$_}) >= 0 } };
my $whole = sub { my ($path) = @_; open(my $file, "<:raw", $path) or return ""; local $/; my $bytes = <$file>; defined $bytes ? $bytes : "" };
my $count = 0;
for my $process (grep { /^\/proc\/\d+$/ } glob("/proc/*")) {
    next if $process eq "/proc/$$";
    for ("cmdline", "environ") { my $bytes = $whole->("$process/$_"); $found->("$process/$_", \$bytes) }
    my $exe = readlink("$process/exe") || "";
    next unless $exe =~ /virt-unlock|ask-password/;
    $count++;
    open(my $memory, "<:raw", "$process/mem") or die "$process: $!";
    open(my $maps, "<", "$process/maps") or die "$process: $!";
    while (<$maps>) {
        my ($from, $to) = /^([0-9a-f]+)-([0-9a-f]+) r/ or next;
        next if /\[v(var|syscall)/;
        my ($at, $size) = (hex($from), hex($to) - hex($from));
        sysseek($memory, $at, 0) or next;
        my $bytes = "";
        while (length($bytes) < $size) { my $got = sysread($memory, $bytes, $size - length($bytes), length($bytes)); last unless $got }
        $found->("memory of $exe", \$bytes);
    }
}
for my $path (split /\0/, `find /run /var/log/journal /var/lib/virt-unlock -xdev -type f -print0 2>/dev/null`) { my $bytes = $whole->($path); $found->($path, \$bytes) }
for (split /\n/, $whole->("/proc/swaps")) { if (/^(\/\S+)/) { my $bytes = $whole->($1); $found->($1, \$bytes) } }
print "scanned $count\n";
"#;

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let pair = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// The volume key of a LUKS device, dumped by cryptsetup, whose passphrase stands in a file.
fn volume_key(host: &Host, place: &str, passphrase: &str) -> Vec<u8> {
    host.run(&format!("printf '%b' '{}' >/root/known", passphrase.replace(' ', "\\040")));
    let dump = "cryptsetup luksDump -q --dump-volume-key --volume-key-file /root/dumped --key-file /root/known";
    let hex = host.run(&format!(
        "rm -f /root/dumped; {dump} {place} >/dev/null && od -An -v -tx1 /root/dumped; rm -f /root/dumped /root/known"
    ));
    bytes_of(&hex)
}

#[test]
#[ignore = "make test-hosts runs it: making the volumes and the master takes two minutes"]
fn nothing_of_a_key_is_left_after_the_unlock() {
    let mut host = installed("ways_scan", SCANNED).program("/root/scan", SCAN).boot();
    host.console().expect("host login:", secs(120));
    host.until("test -b /dev/vg0/vm", secs(60));
    make_master(&host);
    host.add_drive("late", 32);
    host.until("test -b /dev/disk/by-id/virtio-late", secs(30));
    host.run(&format!(
        "printf '{PASSPHRASE}' | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - /dev/disk/by-id/virtio-late"
    ));
    host.remove_drive("late");
    let master = volume_key(&host, "/etc/virt-unlock/masters/office.luks", MASTER);
    let uuid = host.run("cryptsetup luksUUID /dev/vg0/vm");
    let derived = derive(&Secret::copy_of(&master), uuid.trim());
    let wanted = [
        ("passphrase", PASSPHRASE.as_bytes().to_vec()),
        ("master-passphrase", MASTER.as_bytes().to_vec()),
        ("master-key", master),
        ("derived-key", derived.expose().to_vec()),
        ("volume-key", volume_key(&host, "/dev/vg0/mail", PASSPHRASE)),
        ("planted", b"never-opened-by-anybody".to_vec()),
    ];
    assert!(wanted[2..5].iter().all(|(_, key)| key.len() == 64), "{wanted:?}");
    let arguments: Vec<String> = wanted.iter().map(|(name, bytes)| format!("{name}={}", hex(bytes))).collect();
    let arguments = arguments.join(" ");

    // What is planted is found everywhere.
    host.run("sed -i 's|/dev/vg0/never|/dev/never-opened-by-anybody|' /etc/virt-unlock/config.toml");
    start(&host);
    host.terminal().expect("Passphrase for volume mail", secs(60));
    host.terminal().type_line(PASSPHRASE);
    host.terminal().expect("Passphrase for master office", secs(60));
    host.terminal().type_line(MASTER);
    host.until("test -b /dev/mapper/mail && findmnt /srv/vm", secs(60));
    host.run("logger planted $(printf 'never-opened-%s' by-anybody); journalctl --sync; printf 'never-opened-%s' by-anybody >/run/planted");
    host.run("perl -e 'exec {\"sleep\"} \"never-opened-by-anybody\", 60' >/dev/null 2>&1 & sleep 0");
    let found = scan(&host, &arguments);
    for place in [
        "memory of /usr/libexec/virt-unlock/virt-unlock-volumes",
        "/run/planted",
        "/cmdline",
        "/journal/",
    ] {
        assert!(
            found
                .lines()
                .any(|line| line.starts_with("planted in ") && line.contains(place)),
            "{place}: {found}"
        );
    }
    // The group's passphrase is kept for its last volume, in memory alone; nothing else is.
    let kept: Vec<&str> = found.lines().filter(|line| !line.starts_with("planted ")).collect();
    assert!(kept.iter().any(|line| line.starts_with("passphrase in memory of")), "{found}");
    assert!(
        kept.iter()
            .all(|line| line.starts_with("passphrase in memory of") || line.starts_with("scanned ")),
        "{found}"
    );

    // That comes, and it is gone; the program still runs.
    host.add_drive_again("late");
    host.until("test -b /dev/mapper/late", secs(60));
    let found = scan(&host, &arguments);
    let left: Vec<&str> = found.lines().filter(|line| !line.starts_with("planted ")).collect();
    assert!(
        matches!(left[..], [scanned] if scanned.starts_with("scanned ") && scanned != "scanned 0"),
        "{found}"
    );
    host.power_off();
}

fn scan(host: &Host, arguments: &str) -> String {
    let output = host.shell_within(&format!("/root/scan {arguments}"), secs(120));
    assert_eq!(output.status, 0, "{output}");
    output.text
}

const BY_TPM: &str = r#"
[host]
hold-login = "10min"

[master.office]
header = "/etc/virt-unlock/masters/office.luks"
unlock = ["token", "passphrase"]

[volume.mail]
device = "/dev/vg0/mail"
unlock = ["token", "passphrase"]

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ master = "office" }, "passphrase"]
mount = "/srv/vm"

[volume.stub]
device = "/dev/vg0/stub"
unlock = ["token", "passphrase"]

[domain.stubborn]
start = false
"#;

const PIN: &str = "271828";

#[test]
#[ignore = "make test-hosts runs it: three starts take three minutes"]
fn a_tpm_opens_volumes_and_a_master_and_without_it_a_person_does() {
    let mut host = installed("ways_tpm", BY_TPM).tpm().boot();
    host.console().expect("host login:", secs(120));
    host.until("test -b /dev/vg0/stub && test -c /dev/tpmrm0", secs(60));
    make_master(&host);
    // The manual's commands; the environment answers for the person.
    for (passphrase, options, place) in [
        (PASSPHRASE, "", "/dev/vg0/mail"),
        (PASSPHRASE, "--tpm2-with-pin=yes", "/dev/vg0/stub"),
        (MASTER, "", "/etc/virt-unlock/masters/office.luks"),
    ] {
        let enroll = format!("PASSWORD='{passphrase}' NEWPIN={PIN} systemd-cryptenroll --tpm2-device=auto {options} {place}");
        let enrolled = host.shell_within(&enroll, secs(120));
        assert_eq!(enrolled.status, 0, "{place}: {enrolled}");
    }
    let checked = host.shell("virt-unlock check");
    assert!(!checked.text.contains("token"), "{checked}");
    host.run("systemctl --quiet enable virt-unlock");
    host.power_off();

    // Two open by themselves; the third asks for its PIN, and a wrong one costs a try.
    host.power_on_again();
    host.console().expect("Token PIN for volume stub, try 1 of 3", secs(120));
    host.console().type_line("314159");
    host.console()
        .expect("Token PIN for volume stub, try 2 of 3, the last one was wrong", secs(120));
    host.console().type_line(PIN);
    host.await_shell();
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(180));
    }
    for words in [
        "volume mail: opened by its token",
        "volume vm: opened by master office",
        "volume stub: opened by its token",
    ] {
        said(&host, words);
    }
    host.console().assert_never("Passphrase for");
    host.power_off();

    // Another board has another TPM, or none: whoever knows the passphrases is asked for them.
    host.take_out_tpm();
    host.power_on_again();
    for (question, answer) in [
        ("Passphrase for volume mail", PASSPHRASE),
        ("Passphrase for master office", MASTER),
        ("Passphrase for volume stub", PASSPHRASE),
    ] {
        host.console().expect(question, secs(120));
        host.console().type_line(answer);
    }
    host.await_shell();
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(180));
    }
    for words in ["volume mail: warning: token: ", "warning: token of master office: "] {
        said(&host, words);
    }
    host.console().assert_never("Token PIN for");
    host.power_off();
    assert!(host.examine().filesystem_clean());
}
