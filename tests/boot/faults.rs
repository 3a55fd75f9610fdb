//! What a kernel alone can prove of the table of faults: a disk that is gone under an open volume, a full disk, no D-Bus, no libvirt,
//! no memory.
//! Whatever became of the way that met it, the next ones complete.

use crate::{
    host::{Builder, Host, secs},
    product::{OPEN_VOLUMES, PASSPHRASE, daemon, installed},
};

const CONFIG: &str = r#"
[host]
stop-timeout = "20s"
stop-deadline = "40s"

[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ key-file = "/etc/key" }]

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
unlock = [{ key-file = "/etc/key" }]

[domain.mailserver]
start = true

[domain.webserver]
start = true
"#;

const GUESTS: [&str; 2] = ["mailserver", "webserver"];

fn prepared(name: &str) -> Builder {
    installed(name, CONFIG)
        // libvirt's own autostart would take whatever is called mail for its disk.
        .prepare("rm /etc/libvirt/qemu/autostart/*.xml")
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn after_each_fault_the_next_ways_complete() {
    let mut host = prepared("faults").boot();
    host.until("systemctl is-active multi-user.target", secs(120));

    up(&host, 1);
    the_disk_is_gone_under_an_open_volume(&host);
    up(&host, 2);
    the_mount_is_full(&host);
    up(&host, 3);
    the_host_s_own_disk_is_full(&host);
    up(&host, 4);
    d_bus_is_gone(&host);
    up(&host, 5);
    libvirt_is_gone(&host);
    host.power_off();

    let disks = host.examine();
    assert_eq!((disks.marker("mailserver", "up"), disks.marker("mailserver", "off")), (5, 5));
    // Where its disk was gone it could write nothing.
    assert!(disks.marker("webserver", "up") >= 4);
    assert!(disks.marker("webserver", "off") >= 4);
    assert!(disks.filesystem_clean());
}

/// That is a step that failed; the unit goes on, the other volume has its guest, and the next way up completes it.
#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_derivation_that_the_kernel_ends_for_want_of_memory_ends_nothing_else() {
    let mut host = prepared("memory").boot();
    host.until("systemctl is-active multi-user.target", secs(120));
    host.run("systemctl --no-block start virt-unlock");
    // In the shell alone, which is quick enough: a worker with much memory (in pages, proc_pid_statm(5)) is one that derives.
    let derives = "for pid in $(<virt-unlock.service/cgroup.procs); do read -r _ pages _ </proc/$pid/statm; ((pages > 7000)) && echo $pid; done";
    let kill = format!(
        "cd /sys/fs/cgroup/system.slice; until [ \"$({derives})\" ]; do :; done 2>/dev/null; echo f >/proc/sysrq-trigger"
    );
    let killed = host.shell_within(&kill, secs(60));
    assert_eq!(killed.status, 0, "{killed}");
    host.until("journalctl -b -u virt-unlock -o cat | grep 'for want of memory'", secs(60));
    host.until(
        "virt-unlock status | grep -E '^guest +(mail|web)server +running' | wc -l | grep -x 1",
        secs(120),
    );
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "1");
    host.run("systemctl is-active virt-unlock virt-unlock-guests");
    up(&host, 1);
    host.power_off();

    let disks = host.examine();
    for guest in GUESTS {
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (1, 1), "{guest}");
    }
}

/// Its guest is asked and then destroyed where it hangs, the volume is unmounted and closed, the other one has nothing of it.
fn the_disk_is_gone_under_an_open_volume(host: &Host) {
    // What the guest has written so far is not what is lost.
    host.run("sync; dmsetup table vg0-vm >/root/vm.table");
    let size = host.run("blockdev --getsz /dev/vg0/vm");
    host.run(&format!(
        "dmsetup load vg0-vm --table '0 {} error' && dmsetup suspend --noflush --nolockfs vg0-vm && dmsetup resume vg0-vm",
        size.trim()
    ));
    let down = host.shell_within("virt-unlock down 2>&1", secs(120));
    assert!(down.text.contains("volume mail: closed"), "{down}");
    assert_eq!(down.status, 0, "{down}");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0");
    host.run("dmsetup suspend vg0-vm && dmsetup load vg0-vm /root/vm.table && dmsetup resume vg0-vm");
    host.run("udevadm trigger --settle /dev/vg0/vm");
    host.run("grep -q 'GUEST mailserver OFF' /var/log/guests/mailserver.log");
}

fn the_mount_is_full(host: &Host) {
    host.shell("dd if=/dev/zero of=/srv/vm/fill bs=64k; sync -f /srv/vm");
    assert_ne!(
        host.shell("dd if=/dev/zero of=/srv/vm/more bs=64k count=16 conv=fsync")
            .status,
        0
    );
    down(host);
    host.run("virt-unlock up vm && rm -f /srv/vm/fill /srv/vm/more && virt-unlock down");
}

/// On the way down nothing needs to be written; on the way up volumes open, and guests come when there is room again.
fn the_host_s_own_disk_is_full(host: &Host) {
    // Some of it goes for the filesystem's own notes on that.
    host.run("fallocate -l $(( $(stat -f -c %a /) * 95 / 100 * $(stat -f -c %S /) )) /var/fill");
    host.shell("dd if=/dev/zero of=/var/more bs=4k; sync -f /var");
    assert_ne!(
        host.shell("dd if=/dev/zero of=/var/most bs=64k count=16 conv=fsync").status,
        0
    );
    down(host);
    let full = host.shell_within("virt-unlock up vm 2>&1", secs(120));
    assert_eq!(full.status, 0, "{full}");
    host.run("findmnt /srv/vm");
    down(host);
    host.run("rm -f /var/fill /var/more /var/most");
}

fn d_bus_is_gone(host: &Host) {
    // Debian's unit does not end it when it is stopped.
    host.run("systemctl mask --runtime dbus.service && systemctl stop dbus.socket; pkill -KILL -x dbus-daemon || true");
    host.until("! pgrep -x dbus-daemon", secs(30));
    assert_ne!(host.shell("busctl --system list >/dev/null 2>&1").status, 0);
    down(host);
    host.run("systemctl unmask --runtime dbus.service && systemctl start dbus.socket dbus.service");
    // systemd itself comes back to the bus.
    host.until(
        "busctl --system call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Peer Ping",
        secs(60),
    );
    // libvirt keeps the connection of its start.
    host.run(&format!("systemctl restart {}.service", daemon(host)));
}

/// Guests can be neither asked nor cut off: they run on, their volumes stay open, and both are named.
fn libvirt_is_gone(host: &Host) {
    let daemon = daemon(host);
    host.run(&format!(
        "systemctl stop {daemon}.socket {daemon}-ro.socket {daemon}-admin.socket {daemon}.service"
    ));
    let running = "pgrep -c -f 'qemu-system.* guest=(mail|web)server'";
    assert_eq!(host.run(running), "2\n");
    let down = host.shell_within("virt-unlock down 2>&1", secs(180));
    assert_eq!(down.status, 1, "{down}");
    assert!(down.text.contains("libvirt does not answer"), "{down}");
    for (volume, guest) in [("mail", "mailserver"), ("vm", "webserver")] {
        assert!(
            down.text.contains(&format!("volume {volume}: ")) && down.text.contains(guest),
            "{down}"
        );
    }
    assert_eq!(host.run(running), "2\n");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "2");
    host.run(&format!("systemctl start {daemon}.socket"));
    self::down(host);
}

fn up(host: &Host, times: usize) {
    let up = host.shell_within("virt-unlock up 2>&1", secs(180));
    assert_eq!(up.status, 0, "{up}");
    for guest in GUESTS {
        host.until(
            &format!("test $(grep -c 'GUEST {guest} UP' /var/log/guests/{guest}.log) = {times}"),
            secs(90),
        );
    }
}

fn down(host: &Host) {
    let down = host.shell_within("virt-unlock down 2>&1", secs(120));
    assert_eq!(down.status, 0, "{down}");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0", "{down}");
}
