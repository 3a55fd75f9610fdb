//! Volumes that are asked for in the initramfs, as dracut makes it on the host itself.

use std::{
    fs,
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
};

use crate::{
    host::{Host, image_folder, secs},
    product::{OPEN_VOLUMES, PASSPHRASE, enabled, installed, stage},
    ways::{MASTER, make_master},
};

const CONFIG: &str = r#"
# An emulated host may take half a minute until its logical volumes are there.
[host]
hold-login = "45s"

[volume.mail]
device = "/dev/vg0/mail"
initramfs = true

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
initramfs = true

[volume.stub]
device = "/dev/vg0/stub"

[domain.stubborn]
start = false
"#;

const BY_OTHER_WAYS: &str = r#"
[host]
hold-login = "45s"

[master.office]
header = "/etc/virt-unlock/masters/office.luks"

[volume.mail]
device = "/dev/vg0/mail"
initramfs = true
unlock = [{ key-file = "/keys/mail", key-file-device = "LABEL=KEYS", key-file-timeout = "1min" }, "passphrase"]

[volume.vm]
device = "/dev/vg0/vm"
mount = "/srv/vm"
initramfs = true
unlock = [{ master = "office" }, "passphrase"]
"#;
const PROGRAM: &str = "/usr/libexec/virt-unlock/virt-unlock-volumes";
/// Who asks and opens, and whether that was in the initramfs: what the journal has, by the unit.
const IN_INITRAMFS: &str = "journalctl -b -o cat --no-pager -u virt-unlock-initramfs";

/// One passphrase for everything: the root disk's, which the volumes have too.
#[test]
#[ignore = "make test-hosts runs it: dracut takes minutes on an emulated host"]
fn one_passphrase_opens_the_root_disk_and_all_volumes() {
    let mut host = enabled("initramfs_root", CONFIG).off();
    let uuid = host.encrypt_root(PASSPHRASE);
    host.boot_from("/dev/mapper/root", &[format!("rd.luks.name={uuid}=root")]);
    boot_by_dracut(&mut host);
    host.power_on_again();
    host.console().expect("passphrase for disk", secs(90));
    host.console().type_line(PASSPHRASE);
    host.await_shell();
    host.until("virt-unlock status", secs(90));

    // Nobody was asked a second time, neither there nor here.
    assert!(!host.console().shows("Passphrase for volume"));
    let said = host.run(IN_INITRAMFS);
    for volume in ["mail", "vm"] {
        let words = format!("volume {volume}: opened by the passphrase of the root disk");
        assert!(said.contains(&words), "{said}");
    }
    let later = host.run("journalctl -b -o cat --no-pager -u virt-unlock");
    assert!(
        !later.contains("volume mail: opened") && !later.contains("volume vm: opened"),
        "{later}"
    );
    assert!(
        later.contains("volume stub: opened by the passphrase of the root disk"),
        "{later}"
    );
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(60));
    }
    // What udev was told in the initramfs it still knows: the guest's own LVM sleeps on.
    host.run("udevadm trigger --settle");
    let woken = host.run("dmsetup ls; ls /sys/block/$(basename $(readlink -f /dev/mapper/mail))/holders");
    assert!(!woken.contains("guestvg"), "{woken}");

    host.power_off();
    for volume in ["mail", "vm", "stub"] {
        host.console()
            .assert_order(&[&format!("volume {volume}: closed"), "reboot: Power down"]);
    }
    let disks = host.examine();
    for guest in ["mailserver", "webserver"] {
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (1, 1), "{guest}");
    }
    assert!(disks.filesystem_clean());
}

/// Without an encrypted root disk; nobody answers in time, and then the configuration is broken.
#[test]
#[ignore = "make test-hosts runs it: dracut takes minutes on an emulated host"]
fn the_boot_goes_on_without_an_answer_and_with_a_broken_configuration() {
    let mut host = enabled("initramfs_late", CONFIG).off();
    boot_by_dracut(&mut host);
    host.power_on_again();
    host.console().expect("Passphrase for volume mail", secs(90));
    // Nobody answers: the running system asks again.
    host.console().expect("Passphrase for volume mail", secs(90));
    host.await_shell();
    let said = host.run(IN_INITRAMFS);
    assert!(said.contains("within 45s; the boot goes on"), "{said}");
    assert_eq!(host.run(OPEN_VOLUMES).trim(), "0");
    host.console().type_line(PASSPHRASE);
    host.console().expect("Passphrase for volume vm", secs(60));
    host.console().type_line(PASSPHRASE);
    host.until("grep -q 'GUEST webserver UP' /var/log/guests/webserver.log", secs(60));
    assert_eq!(host.run("systemctl --failed --plain --no-legend").trim(), "");
    host.kill();

    // Bad TOML, and volumes that are not there.
    host.overlay_initramfs(&[("etc/virt-unlock/config.toml", b"[volume.mail]\ndevcie = 1\n")]);
    host.boot_again();
    host.console().expect("Passphrase for volume mail", secs(90));
    let said = host.run(IN_INITRAMFS);
    assert!(said.contains("unknown key `devcie`"), "{said}");
    host.console().type_line(PASSPHRASE);
    host.until("test -e /dev/mapper/mail", secs(60));
    host.kill();

    let missing = "[host]\nhold-login = \"5s\"\n[volume.mail]\ndevice = \"/dev/nothing\"\ninitramfs = true\n";
    host.overlay_initramfs(&[("etc/virt-unlock/config.toml", missing.as_bytes())]);
    host.boot_again();
    host.console().expect("Passphrase for volume mail", secs(90));
}

/// The module brings the master's header, and what reads a stick; the stick comes when it is waited for.
#[test]
#[ignore = "make test-hosts runs it: dracut takes minutes on an emulated host"]
fn a_master_and_a_key_on_a_stick_open_volumes_there_too() {
    let mut host = installed("initramfs_ways", BY_OTHER_WAYS).boot();
    host.console().expect("host login:", secs(120));
    host.until("test -b /dev/vg0/vm", secs(60));
    make_master(&host);
    host.add_drive("stick", 32);
    host.until("test -b /dev/disk/by-id/virtio-stick", secs(30));
    host.run(&format!(
        "mkfs.vfat -n KEYS /dev/disk/by-id/virtio-stick && udevadm settle && mount LABEL=KEYS /mnt && mkdir /mnt/keys && \
         printf '{PASSPHRASE}' >/mnt/keys/mail && umount /mnt"
    ));
    let made = image_folder().join("initramfs-ways");
    host.dracut("--hostonly", &made);
    host.run("systemctl --quiet enable virt-unlock.service");
    host.power_off();

    host.boot_by(&made);
    host.power_on_again();
    host.console().expect("Passphrase for master office", secs(90));
    host.console().type_line(MASTER);
    host.add_drive_again("stick");
    host.await_shell();
    host.until("virt-unlock status", secs(90));
    let said = host.run(IN_INITRAMFS);
    for words in [
        "volume vm: opened by master office",
        "volume mail: opened by key file /keys/mail on LABEL=KEYS",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!host.console().shows("Passphrase for volume"));
    host.power_off();
    assert!(host.examine().filesystem_clean());
}

/// Under 2 MB more than without it, compressed.
#[test]
fn the_module_is_small() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/initramfs-size.sh");
    let output = std::process::Command::new(script).arg(stage()).arg(image_folder()).output();
    let output = output.unwrap_or_else(|error| panic!("initramfs-size.sh: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = said.split_whitespace().collect();
    let [without, with] = words[..] else {
        panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let size = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let more = size(with) - size(without);
    println!("the module adds {more} bytes to an initramfs of {without}");
    assert!((100_000..2_000_000).contains(&more), "{more} bytes more");
}

/// Boots by what dracut made, with today's program in it.
fn boot_by_dracut(host: &mut Host) {
    let program = fs::read(stage().join(PROGRAM.trim_start_matches('/')));
    let program = program.unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
    host.boot_by(&made_by_dracut());
    host.overlay_initramfs(&[(PROGRAM.trim_start_matches('/'), &program)]);
}

/// The initramfs of this configuration, made on a booted host as its administrator does. It is kept beside the image of the
/// host, by all that it is made from but for the program: dracut takes minutes there.
fn made_by_dracut() -> PathBuf {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = MAKING.lock();
    let mut key = DefaultHasher::new();
    key.write(CONFIG.as_bytes());
    for file in ["module-setup.sh", "virt-unlock-initramfs.service", "virt-unlock-lvm.service"] {
        let path = stage().join("usr/lib/dracut/modules.d/70virt-unlock").join(file);
        key.write(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    let made = image_folder().join(format!("initramfs-{:016x}", key.finish()));
    if !made.exists() {
        let mut host = installed("initramfs_made", CONFIG).boot();
        host.until("test -e /dev/vg0/vm", secs(60));
        // The root disk is not encrypted yet, so dracut would leave its support for that out.
        host.dracut("--hostonly --add crypt", &made);
        host.power_off();
    }
    made
}
