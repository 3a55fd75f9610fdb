//! The units' sandbox: as narrow as it can be, and wide enough.

use crate::{
    host::secs,
    product::{OPEN_VOLUMES, PASSPHRASE, installed},
};

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/new/vm"
"#;

/// Tenths of what `systemd-analyze security` gives a unit at most.
const EXPOSURE: u32 = 40;

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn the_units_have_the_powers_that_they_need_and_few_more() {
    let mut host = installed("sandbox", CONFIG).boot();
    host.until("systemctl is-active multi-user.target", secs(90));
    for unit in ["virt-unlock.service", "virt-unlock-guests.service"] {
        host.run(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE} {unit}"));
    }

    // As the question for the root disk leaves it in root's keyring, to which a service's own keyrings do not lead.
    host.terminal()
        .type_line("systemd-ask-password --keyname=cryptsetup --no-output ROOT DISK");
    host.terminal().expect("ROOT DISK", secs(30));
    host.terminal().type_line(PASSPHRASE);
    host.until("grep -q 'cryptsetup' /proc/keys", secs(30));
    let started = host.shell_within("systemctl --no-ask-password start virt-unlock", secs(90));
    assert_eq!(started.status, 0, "{started}");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "2");

    // What is made is made as the rest of the host expects it: QEMU, another user, goes through these.
    assert_eq!(
        host.run("stat -c %a /srv/new /run/virt-unlock /var/lib/virt-unlock"),
        "755\n755\n755\n"
    );

    // Somebody else's process is named.
    host.run("systemd-run --quiet --collect --unit=guest-of-nobody --uid=nobody --working-directory=/srv/new/vm sleep 1000");
    let stopped = host.shell_within("systemctl --no-ask-password stop virt-unlock", secs(90));
    let said = host.run("journalctl -b -u virt-unlock -o cat --no-pager");
    assert!(said.contains("sleep"), "{stopped}\n{said}");
    host.run("systemctl stop guest-of-nobody");
    host.run("systemctl --no-ask-password start virt-unlock-guests && virt-unlock down");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0");
    // Nothing was refused that was needed.
    let refused = host.run("journalctl -b -u virt-unlock -u virt-unlock-guests -o cat --no-pager");
    assert!(!refused.contains("not permitted"), "{refused}");
    host.kill();
}
