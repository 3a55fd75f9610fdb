//! A unit of the administrator's that works on a volume's mount, ordered as virt-unlock.service(8) says.

use std::fs;
use std::path::Path;

use crate::{
    host::secs,
    product::{OPEN_VOLUMES, PASSPHRASE, enabled},
};

const CONFIG: &str = r#"
[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
unlock = [{ key-file = "/etc/key" }]
"#;

/// It stands in the mount, and takes longer to end than a busy volume is waited for.
const SERVICE: &str = "
[Service]
WorkingDirectory=/srv/vm
ExecStart=/bin/sleep infinity
ExecStop=/bin/sleep 13
";

/// The lines that the manual shows.
fn manual() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/virt-unlock.service.8");
    let page = fs::read_to_string(page).unwrap().replace("\\-", "-");
    let examples = page.split("\n.EX\n").filter_map(|rest| rest.split("\n.EE").next());
    let mut ours = examples.filter(|example| example.contains("srv-vm.mount"));
    ours.next()
        .unwrap_or_else(|| panic!("the manual has no such unit"))
        .to_owned()
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_unit_on_a_mount_comes_and_goes_with_it() {
    let mut host = enabled("beside", CONFIG)
        .prepare(&format!("printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key"))
        .file("/etc/systemd/system/beside.service", manual() + SERVICE)
        .enable("beside.service")
        .boot();
    let works = "systemctl -q is-active beside && \
                 test $(stat -c %d /proc/$(systemctl show -P MainPID beside)/cwd/) = $(stat -c %d /srv/vm/) && mountpoint -q /srv/vm";
    host.until(works, secs(120));

    // Stopped with the volumes, before they are unmounted.
    host.run("systemctl stop virt-unlock");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0");
    assert_eq!(host.shell("systemctl -q is-active beside").status, 3);
    host.run("systemctl start virt-unlock");
    host.until(works, secs(60));

    host.power_off();
    host.console().expect("virt-unlock: volume vm: closed", secs(5));
    host.console().assert_never("still in use");
    assert!(host.examine().filesystem_clean());
}
