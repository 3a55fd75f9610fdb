//! The Debian package on bare hosts: from `apt install` to the guests that run, through an upgrade, and away again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crate::{
    host::{Builder, Host, image_folder, secs},
    product::PASSPHRASE,
};

/// Emulated, an upgrade takes longer than a question is held on the console.
const HELD: &str = "[host]\nhold-login = \"15min\"\n";

/// apt on an emulated host.
const APT: Duration = secs(240);

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_bare_debian_13_is_installed_upgraded_and_cleared() {
    let mut host = bare("package", "trixie", &["mailserver", "webserver"]).boot();
    install(&host);
    set_up(&host, &["mailserver", "webserver"]);
    host.power_off();
    host.boot_again();

    host.console().expect("Passphrase for volume mail", secs(90));
    host.console().type_line(PASSPHRASE);
    host.console().expect("Passphrase for volume vm", secs(60));
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(90));

    // Upgraded while a guest runs and a question is open: both go on as they are, and the administrator's file is left alone.
    let before = host.run(&what_runs(&["mailserver"]));
    apt(&host, &format!("install ./{}", name(&upgrade())));
    assert!(host.run("dpkg-query -W virt-unlock").contains(&upgraded()));
    assert_eq!(host.run(&what_runs(&["mailserver"])), before);
    host.run("cmp /etc/virt-unlock/config.toml /root/config.toml");

    // The program that asks is gone from the disk; what it opens with is itself, all the same.
    host.console().type_line(PASSPHRASE);
    host.until("grep -q 'GUEST webserver UP' /var/log/guests/webserver.log", secs(90));
    host.until("virt-unlock status", secs(30));

    // Asked to go while guests run, it refuses, and they run on.
    let running = what_runs(&["mailserver", "webserver"]);
    let before = host.run(&running);
    let refused = host.shell_within(&format!("{APT_GET} remove virt-unlock"), APT);
    assert_ne!(refused.status, 0, "{refused}");
    assert!(
        refused
            .text
            .contains("systemctl stop virt-unlock-guests.service virt-unlock.service"),
        "{refused}"
    );
    assert_eq!(host.run(&running), before);
    host.run("dpkg -s virt-unlock | grep -q 'ok installed'");

    host.power_off();
    for words in ["volume mail: closed", "volume vm: closed"] {
        host.console().assert_order(&[words, "reboot: Power down"]);
    }
    let disks = host.examine();
    for guest in ["mailserver", "webserver"] {
        assert_eq!((disks.marker(guest, "up"), disks.marker(guest, "off")), (1, 1), "{guest}");
    }
    assert!(disks.filesystem_clean());

    // Away again: stopped first, and then without a word. The configuration stays until it is purged.
    host.boot_again();
    host.console().expect("Passphrase for volume mail", secs(90));
    let refused = host.shell_within("dpkg --remove virt-unlock", APT);
    assert_ne!(refused.status, 0, "a question is open: {refused}");
    let stopped = host.shell_within("systemctl --no-ask-password stop virt-unlock", secs(60));
    assert_eq!(stopped.status, 0, "{stopped}");
    apt(&host, "remove virt-unlock");
    assert_eq!(
        host.run(&left("/etc /usr")),
        "/etc/libvirt/hooks/qemu.d/virt-unlock\n/etc/virt-unlock\n/etc/virt-unlock/config.toml\n"
    );
    host.run("cmp /etc/virt-unlock/config.toml /root/config.toml");
    assert_eq!(host.run("systemctl show -P LoadState virt-unlock-guests").trim(), "not-found");
    host.run("dpkg --purge virt-unlock");
    assert_eq!(host.run(&left("/etc /usr /run /var/lib")), "");
    assert_eq!(
        host.run("find /etc/systemd /var/lib/systemd /var/lib/virt-unlock -name '*virt-unlock*' 2>/dev/null || true"),
        ""
    );
    host.power_off();
}

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_bare_debian_12_is_installed_and_unlocked() {
    let mut host = bare("package_debian_12", "bookworm", &["mailserver"]).boot();
    install(&host);
    set_up(&host, &["mailserver"]);
    host.power_off();
    host.boot_again();

    host.console().expect("Passphrase for volume mail", secs(90));
    host.console().type_line(PASSPHRASE);
    host.until("grep -q 'GUEST mailserver UP' /var/log/guests/mailserver.log", secs(90));
    host.until("virt-unlock status", secs(30));
    host.power_off();
    host.console().assert_order(&["volume mail: closed", "reboot: Power down"]);
    let disks = host.examine();
    assert_eq!((disks.marker("mailserver", "up"), disks.marker("mailserver", "off")), (1, 1));
}

#[test]
#[ignore = "make test-hosts runs it: dracut takes minutes on an emulated host"]
fn a_bare_debian_13_asks_in_the_initramfs() {
    asks_in_the_initramfs("package_dracut", "trixie");
}

#[test]
#[ignore = "make test-hosts runs it: dracut takes minutes on an emulated host"]
fn a_bare_debian_12_asks_in_the_initramfs() {
    asks_in_the_initramfs("package_dracut_debian_12", "bookworm");
}

/// The same with the dracut module: what `discover` wrote, one more key, and an initramfs made on the host.
fn asks_in_the_initramfs(test: &str, suite: &'static str) {
    let mut host = bare(test, suite, &["mailserver", "webserver"]).boot();
    install(&host);
    apt(&host, "install dracut-core zstd");
    set_up(&host, &["mailserver", "webserver"]);
    host.run("sed -i '/^\\[volume.\\(mail\\|vm\\)\\]/a initramfs = true' /etc/virt-unlock/config.toml; virt-unlock check");
    let made = image_folder().join(format!("{test}.initramfs"));
    host.dracut("--hostonly", &made);
    host.power_off();

    host.boot_by(&made);
    host.power_on_again();
    host.console().expect("Passphrase for volume mail", secs(90));
    host.console().type_line(PASSPHRASE);
    host.console().expect("Passphrase for volume vm", secs(60));
    host.console().type_line(PASSPHRASE);
    host.await_shell();
    for guest in ["mailserver", "webserver"] {
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(120));
    }
    host.until("virt-unlock status", secs(30));
    let there = host.run("journalctl -b -o cat --no-pager -u virt-unlock-initramfs");
    let here = host.run("journalctl -b -o cat --no-pager -u virt-unlock");
    for words in ["volume mail: opened", "volume vm: opened"] {
        assert!(there.contains(words) && !here.contains(words), "{there}\n----\n{here}");
    }
    host.power_off();
    for words in ["volume mail: closed", "volume vm: closed"] {
        host.console().assert_order(&[words, "reboot: Power down"]);
    }
    assert!(host.examine().filesystem_clean());
}

/// What of the program is below these folders; that systemd still keeps notes of a unit and dpkg of a package is their own affair.
fn left(folders: &str) -> String {
    let not_ours = "-path /etc/systemd -o -path /run/systemd -o -path /var/lib/systemd -o -path /var/lib/dpkg";
    format!("find {folders} \\( {not_ours} \\) -prune -o -path '*virt-unlock*' -print | sort")
}

const APT_GET: &str = "cd /root && DEBIAN_FRONTEND=noninteractive apt-get -q -y";

fn apt(host: &Host, command: &str) {
    let output = host.shell_within(&format!("{APT_GET} {command}"), APT);
    assert_eq!(output.status, 0, "apt-get {command}: {output}");
}

/// A bare host with both packages and the definitions of guests in root's folder.
fn bare(test: &str, suite: &'static str, guests: &[&str]) -> Builder {
    // A busy machine lets the kernel measure its emulated TSC wrong, and then every limit in the host is too short.
    let mut builder = Host::builder(test).bare(suite).kernel_argument("clocksource=acpi_pm");
    for deb in [package(), upgrade()] {
        let content = fs::read(&deb).unwrap_or_else(|error| panic!("{}: {error}", deb.display()));
        builder = builder.file(&format!("/root/{}", name(&deb)), content);
    }
    for guest in guests {
        builder = builder.file(&format!("/root/{guest}.xml"), definition(guest));
    }
    builder
}

/// As an administrator would: the package, and by it what it needs. Then it is there, and nothing has begun.
fn install(host: &Host) {
    assert_ne!(host.shell("virsh --version || lvm version || cryptsetup --version").status, 0);
    apt(host, &format!("install ./{} lvm2", name(&package())));
    let units = "systemctl is-enabled virt-unlock; systemctl is-active virt-unlock virt-unlock-guests; \
        systemctl show -P NeedDaemonReload virt-unlock; virsh list --all --name";
    assert_eq!(host.shell(units).text.trim(), "disabled\ninactive\ninactive\nno");
    // Its file of the configuration says nothing yet, and so does the program.
    let up = host.shell("virt-unlock up");
    assert!(up.status == 0 && up.text.contains("nothing is configured"), "{up}");
    assert!(
        host.run("dpkg-query -W -f '${Conffiles}' virt-unlock")
            .contains("/etc/virt-unlock/config.toml")
    );
}

/// Guests, configuration, and the unit that is to run at boot.
fn set_up(host: &Host, guests: &[&str]) {
    host.run("vgchange -qq -ay vg0; udevadm settle");
    for guest in guests {
        host.run(&format!("virsh define /root/{guest}.xml && virsh autostart {guest}"));
    }
    host.run("virt-unlock discover >/etc/virt-unlock/config.toml");
    host.run(&format!(
        "printf '%s' '{HELD}' >>/etc/virt-unlock/config.toml; cp /etc/virt-unlock/config.toml /root"
    ));
    let checked = host.shell("virt-unlock check");
    assert!(
        checked.text.contains("systemctl enable virt-unlock") && !checked.text.contains("error:"),
        "{checked}"
    );
    host.run("systemctl enable virt-unlock && virt-unlock check");
}

/// What an upgrade must not touch: guests, questions, and both units with their programs.
fn what_runs(guests: &[&str]) -> String {
    let pids: String = guests.iter().fold(String::new(), |all, guest| all + " " + guest);
    format!(
        "for guest in{pids}; do cat /run/libvirt/qemu/$guest.pid; done; ls /run/systemd/ask-password; \
         systemctl show -P ActiveState -P InvocationID -P MainPID -P NRestarts virt-unlock virt-unlock-guests"
    )
}

/// libvirt's XML of a guest on the data disk.
fn definition(guest: &str) -> String {
    let (uuid, kind, format, attribute, source) = match guest {
        "mailserver" => (1, "block", "raw", "dev", "/dev/mapper/mail"),
        _ => (2, "file", "qcow2", "file", "/srv/vm/webserver.qcow2"),
    };
    include_str!("../host/image/domain.xml")
        .replace("@NAME@", guest)
        .replace("@UUID@", &format!("{uuid:08}-1111-4111-8111-111111111111"))
        .replace("@TYPE@", kind)
        .replace("@FORMAT@", format)
        .replace("@ATTRIBUTE@", attribute)
        .replace("@SOURCE@", source)
}

fn name(deb: &Path) -> String {
    deb.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The package as `make deb` makes it.
fn package() -> PathBuf {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE
        .get_or_init(|| made("make", &["--silent", "--no-print-directory", "deb"]))
        .clone()
}

/// A later one, of the same programs.
fn upgrade() -> PathBuf {
    static UPGRADE: OnceLock<PathBuf> = OnceLock::new();
    UPGRADE
        .get_or_init(|| {
            package();
            made("packaging/build.sh", &["deb", &upgraded(), "target/packages/upgrade"])
        })
        .clone()
}

fn upgraded() -> String {
    format!("{}+upgrade", env!("CARGO_PKG_VERSION"))
}

/// The path that a command prints last.
fn made(program: &str, arguments: &[&str]) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(top)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    let printed = String::from_utf8_lossy(&output.stdout);
    PathBuf::from(printed.lines().last().unwrap_or_default())
}
