//! Guests that others wait for, the wait for a volume that somebody opens by hand, and guests that are saved.

use std::process::Command;

use crate::{
    host::{Daemons, Host, Variant, image_folder, secs},
    product::{PASSPHRASE, enabled},
};

/// What a guest with the small Linux has besides.
struct Linux {
    name: &'static str,
    /// Words for its `tests/host/linux/init`.
    words: &'static str,
    /// In its XML.
    device: &'static str,
}

const DB: Linux = Linux {
    name: "db",
    words: "agent after=5",
    device: "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
};
const WEB: Linux = Linux {
    name: "web",
    words: "address=192.168.199.2/24 listen=25 after=5",
    device: "<interface type='network'><source network='lan'/><model type='virtio'/></interface>",
};

/// A network that needs no other program.
const LAN: &str = "<network><name>lan</name><uuid>77777777-7777-4777-8777-777777777777</uuid><forward mode='open'/>\
    <bridge name='virbr9' stp='off' delay='0'/><dns enable='no'/><ip address='192.168.199.1' prefix='24'/></network>";

impl Linux {
    fn xml(&self) -> String {
        let Self { name, words, device } = self;
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>\
            <os><type arch='x86_64' machine='pc'>hvm</type><kernel>/usr/lib/guest/vmlinuz</kernel>\
            <initrd>/usr/lib/guest/initrd</initrd><cmdline>console=ttyS0 mitigations=off {words}</cmdline></os>\
            <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
            <controller type='usb' model='none'/>{device}<memballoon model='none'/>\
            <serial type='file'><source path='/var/log/guests/{name}.log' append='on'/></serial></devices></domain>"
        )
    }
}

/// What the journal of the guests' unit has.
fn journal(host: &Host) -> String {
    host.run("journalctl -b -o cat -u virt-unlock-guests --no-pager")
}

/// Opens volume mail by hand.
fn open_mail(host: &Host) {
    host.until("test -e /dev/vg0/mail", secs(120));
    host.run(&format!(
        "printf %s '{PASSPHRASE}' | cryptsetup open --key-file - /dev/vg0/mail mail"
    ));
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_guest_waits_for_an_agent_and_for_a_port() {
    const CONFIG: &str = r#"
[host]
hold-login = "0"

[volume.mail]
device = "/dev/vg0/mail"

[domain.db]
start = true
volumes = ["mail"]
ready = "agent"
ready-timeout = "10min"

[domain.web]
start = true
volumes = ["mail"]
after = ["db"]
ready = { tcp = "192.168.199.2:25" }
ready-timeout = "10min"

[domain.mailserver]
after = ["web"]
"#;
    // That host has no daemon for networks.
    if Variant::chosen().daemons == Daemons::Modular {
        println!("skipped: needs libvirt's networks");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("tests/host/linux.sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([folder.path(), &image_folder().join("vmlinuz")])
        .status();
    assert!(made.as_ref().is_ok_and(std::process::ExitStatus::success), "{made:?}");
    let host = enabled("ready", CONFIG)
        .tree(folder.path())
        .file("/root/db.xml", DB.xml())
        .file("/root/web.xml", WEB.xml())
        .file("/root/lan.xml", LAN)
        .power_on();
    host.await_shell();
    // Debian's package of its default network makes this folder; libvirt keeps notes on every network there.
    host.run("make-linux-guest; mkdir -p /var/lib/libvirt/dnsmasq");
    host.until("virsh list", secs(120));
    host.run("virsh define /root/db.xml; virsh define /root/web.xml; virsh net-define /root/lan.xml; virsh net-autostart lan");
    // Its way goes by what libvirt has when it begins.
    host.run("systemctl --no-ask-password restart virt-unlock-guests");
    assert_eq!(
        host.run("virsh net-info lan | grep Active").split_whitespace().last(),
        Some("no")
    );

    open_mail(&host);
    // Who waits says for whom and for what; so does `status`.
    let waiting = "waiting for guest db, until its guest agent answers (for 10min at most)";
    host.until(&format!("virt-unlock status | grep -q 'guest  *web .*{waiting}'"), secs(120));
    let status = host.run("virt-unlock status || true");
    assert!(status.starts_with("waiting\n"), "{status}");
    assert!(
        status.contains("mailserver  shut off  on mail; waiting for guest web\n"),
        "{status}"
    );
    assert_eq!(host.run("virsh domstate web").trim(), "shut off");
    host.until(
        "virt-unlock status | grep -q 'guest  *mailserver .*waiting for guest web, until port 25 of 192.168.199.2 answers'",
        secs(600),
    );
    assert_eq!(host.run("virsh domstate mailserver").trim(), "shut off");
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(600));
    host.until("virt-unlock status", secs(60));

    let journal = journal(&host);
    let at = |words: &str| journal.find(words).unwrap_or_else(|| panic!("no {words:?} in {journal}"));
    let order = [
        "guest db: runs; waiting until its guest agent answers",
        "guest db: started; ready after",
        "guest web: libvirt's network lan, which it is on, was not active: started",
        "guest web: runs; waiting until port 25 of 192.168.199.2 answers",
        "guest web: started; ready after",
        "guest mailserver: started",
    ];
    assert!(order.map(at).is_sorted(), "{journal}");
    assert!(!journal.contains("is not ready"), "{journal}");
    host.run("grep -q 'LINUX READY' /var/log/guests/db.log && grep -q 'LINUX READY' /var/log/guests/web.log");
}

/// Somebody opens the volume an hour after the boot; here it is a minute and a half.
#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn the_unit_of_the_guests_waits_for_next_to_nothing() {
    const CONFIG: &str = "[host]\nhold-login = \"0\"\n[volume.mail]\ndevice = \"/dev/vg0/mail\"\n\
        [volume.vm]\ndevice = \"/dev/vg0/vm\"\nmount = \"/srv/vm\"\n[domain.mailserver]\nstop = \"save\"\n";
    let host = enabled("waits", CONFIG).power_on();
    host.await_shell();
    host.until("systemctl is-active virt-unlock-guests", secs(120));
    host.until("grep -q 'Message=.*volume mail' /run/systemd/ask-password/ask.*", secs(120));
    host.until("systemctl is-active multi-user.target", secs(120));

    // Whoever starts the guest by hand is told what is missing.
    for (guest, volume) in [
        ("mailserver", "mail, which it lies on, is locked"),
        ("webserver", "vm, which it lies on, is locked and not mounted"),
    ] {
        let refused = host.shell(&format!("virsh start {guest}")).to_string();
        let words =
            format!("guest {guest} is not started, for volume {volume}; `virt-unlock up {guest}` sees to that and starts it");
        assert!(refused.contains(&words), "{refused}");
        assert!(refused.starts_with("exit status 1"), "{refused}");
    }
    let check = host.shell("virt-unlock check").to_string();
    let wanted =
        "error: [domain.mailserver]: stop = \"save\", but /var/lib/libvirt/qemu/save lies on /dev/vda, which is not encrypted";
    assert!(check.contains(wanted), "{check}");

    // Events of the boot are over, and the first looks without any.
    host.run("udevadm settle; sleep 30");
    let spent = || -> u32 {
        let times = host.run("pid=$(systemctl show -P MainPID virt-unlock-guests); cut -d' ' -f14,15 /proc/$pid/stat");
        times.split_whitespace().map(|time| time.parse::<u32>().unwrap()).sum()
    };
    let before = spent();
    host.run("sleep 60");
    // Hundredths of a second, on an emulated processor that is slower than a real one by twenty times and more.
    let hundredths = spent() - before;
    println!("the unit of the guests waits a minute with {hundredths} hundredths of a second");
    assert!(hundredths < 30, "{hundredths}");
    let memory = host.run(
        "pid=$(systemctl show -P MainPID virt-unlock-guests); awk '/^VmRSS|^RssAnon|^RssFile/ { print $1 $2 }' /proc/$pid/status",
    );
    println!("the unit of the guests waits with {memory} (KiB)");
    let rss = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    assert!(rss.parse::<u32>().unwrap() < 12 * 1024, "{memory}");

    host.run(&format!(
        "printf %s '{PASSPHRASE}' | cryptsetup open --key-file - /dev/vg0/mail mail"
    ));
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(60));

    // What is not encrypted gets nothing of a guest's memory.
    let down = host.shell_within("virt-unlock down mailserver", secs(120)).to_string();
    assert!(
        down.contains("warning: is not saved: /var/lib/libvirt/qemu/save lies on /dev/vda"),
        "{down}"
    );
    assert!(down.contains("guest mailserver: shut down after"), "{down}");
    assert_eq!(host.run("ls /var/lib/libvirt/qemu/save"), "");
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_guest_is_saved_to_an_encrypted_volume_and_restored() {
    const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ key-file = "/etc/key" }]

[volume.vm]
device = "/dev/vg0/vm"
unlock = [{ key-file = "/etc/key" }]
mount = "/var/lib/libvirt/qemu/save"

[domain.mailserver]
stop = "save"
"#;
    let mut host = enabled("saved", CONFIG)
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .boot();
    host.until("virt-unlock status", secs(180));
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(60));
    let check = host.shell("virt-unlock check").to_string();
    assert!(!check.contains("stop = \"save\""), "{check}");
    host.power_off();
    host.console().assert_never("Failed unmounting var-lib-libvirt");

    host.boot_again();
    host.until(
        "journalctl -b -o cat -u virt-unlock-guests | grep -q 'guest mailserver: restored from its managed save'",
        secs(300),
    );
    host.until("virt-unlock status", secs(60));
    // It went on, and did not begin anew.
    assert_eq!(
        host.run("grep -c 'GUEST mailserver UP' /var/log/guests/mailserver.log")
            .trim(),
        "1"
    );
    let earlier = host.run("journalctl -b -1 -o cat -u virt-unlock-guests --no-pager");
    assert!(
        earlier.contains("guest mailserver: saved; its next start goes on from there"),
        "{earlier}"
    );
}
