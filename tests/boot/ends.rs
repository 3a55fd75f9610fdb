//! Other ends than a power-off: both units restarted while guests run, the host taken to its rescue shell and back, rebooted, handed
//! over to a next kernel, and its plug pulled. After each boot `status` says how the last one ended.

use virt_unlock::report::ids;

use crate::{
    host::{Host, secs},
    product::{OPEN_VOLUMES, PASSPHRASE, enabled},
};

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"
unlock = [{ key-file = "/etc/key" }]

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
unlock = [{ key-file = "/etc/key" }]
"#;

const GUESTS: [&str; 2] = ["mailserver", "webserver"];

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn restarted_isolated_rebooted_handed_over_and_cut_off() {
    let mut host = enabled("ends", CONFIG)
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .boot();
    await_up(&host, 1);
    assert!(!host.run("virt-unlock status").contains("last shutdown"));

    // Both at once: neither takes the other's place in systemd's plan, and the guests are asked and come again.
    let restarted = host.shell_within("systemctl restart virt-unlock virt-unlock-guests", secs(120));
    assert_eq!(restarted.status, 0, "{restarted}\n{}", journal(&host));
    await_up(&host, 2);
    assert_off(&host, 1);

    // The rescue shell stops all that it does not need. A guest that somebody has paused is asked all the same.
    host.run("virsh suspend mailserver");
    host.run("systemctl --no-block isolate rescue.target");
    host.until(
        "systemctl is-active rescue.target && test \"$(systemctl is-active virt-unlock virt-unlock-guests | sort -u)\" = inactive",
        secs(120),
    );
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0", "{}", journal(&host));
    assert_off(&host, 2);
    let told = host.run(&format!(
        "journalctl --sync; journalctl -b -o cat MESSAGE_ID={} | tail -n 2 | sort",
        ids::WAY_DOWN
    ));
    assert_eq!(told, "way down: 2 guests shut down\nway down: 2 volumes closed\n");
    host.run("systemctl --no-block default");
    await_up(&host, 3);

    host.run("systemctl --no-block reboot");
    host.console().expect("reboot: Restarting system", secs(120));
    host.boot_again();
    await_up(&host, 4);
    let status = host.run("virt-unlock status");
    assert!(
        status.contains("\nlast shutdown: 20") && status.contains(" UTC: 2 guests shut down, 2 volumes closed\n"),
        "{status}"
    );
    // Whose guests they are is nobody's affair.
    let others = host.run("setpriv --reuid=65534 --clear-groups virt-unlock status 2>&1 || true");
    assert!(!others.contains("last shutdown"), "{others}");

    // No firmware between the two kernels, and nothing else ends differently.
    host.run("kexec --load /boot/vmlinuz --initrd=/boot/initrd --reuse-cmdline");
    host.run("systemctl --no-block kexec");
    host.await_next_kernel(secs(300));
    await_up(&host, 5);
    let status = host.run("virt-unlock status");
    assert!(status.contains(" UTC: 2 guests shut down, 2 volumes closed\n"), "{status}");

    // What the guests have counted so far is not what is lost.
    host.run("sync");
    host.kill();
    host.boot_again();
    await_up(&host, 6);
    let status = host.run("virt-unlock status");
    assert!(status.contains("\nlast shutdown: not completed"), "{status}");
    host.power_off();

    let disks = host.examine();
    for guest in GUESTS {
        // Cut off once, with the host.
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (6, 5), "{guest}");
    }
    assert!(disks.filesystem_clean());
}

fn await_up(host: &Host, times: usize) {
    for guest in GUESTS {
        host.until(
            &format!("test $(grep -c 'GUEST {guest} UP' /var/log/guests/{guest}.log) = {times}"),
            secs(120),
        );
    }
    host.until("virt-unlock status", secs(60));
    host.until("systemctl is-active virt-unlock virt-unlock-guests", secs(60));
}

fn assert_off(host: &Host, times: usize) {
    for guest in GUESTS {
        let off = host.run(&format!("grep -c 'GUEST {guest} OFF' /var/log/guests/{guest}.log || true"));
        assert_eq!(off.trim(), times.to_string(), "{guest}\n{}", journal(host));
    }
}

fn journal(host: &Host) -> String {
    host.run("journalctl -b -o short-monotonic --no-pager | tail -n 60")
}
