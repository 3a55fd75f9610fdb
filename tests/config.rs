//! The configuration file: what is read from it, and what each mistake gets: the place and the words.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use virt_unlock::config::{
    self, Config, DeviceSpec, DomainConfig, KeyFile, Master, Mount, OnStopTimeout, Problems, Ready, SecretConfig, Start, Stop,
    Unlock, Volume,
};

#[path = "config/files.rs"]
mod files;
#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/robust.rs"]
mod robust;

fn parse(text: &str) -> Result<Config, Problems> {
    config::parse(&[(PathBuf::from("config.toml"), text.to_owned())])
}

/// What is read from a sound text.
fn read(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn an_empty_file_is_a_configuration_of_defaults() {
    assert_eq!(read(""), Config::default());
    assert_eq!(read("# nothing\r\n\r\n"), Config::default());
}

fn tcp(host: &str, port: u16) -> Ready {
    let host = host.to_owned();
    Ready::Tcp { host, port }
}

#[test]
#[allow(clippy::too_many_lines, reason = "every key once, and what becomes of it")]
fn every_key_is_read() {
    let config = read(
        r#"
        [host]
        libvirt-uri = "qemu+ssh://root@other/system"
        hold-login = "0"
        stop-timeout = 30
        stop-deadline = "1h 30min"

        [volume.mail]
        device = "UUID=0f5e2a4c-9b1d-4e6f-8a7b-3c2d1e0f9a8b"
        header = "/srv/vm/mail.header"
        unlock = [
            { key-file = "/srv/vm/mail.key", key-file-offset = 0x10, key-file-size = 64 },
            { key-file = "/mail.key", key-file-device = "UUID=1A2B-3C4D", key-file-timeout = "2min" },
            "token",
            "passphrase",
        ]
        passphrase-group = "guests"
        tries = 0
        after = ["vm"]
        device-timeout = "500ms"
        read-only = true
        discard = true
        same-cpu-crypt = true
        submit-from-crypt-cpus = true
        no-read-workqueue = true
        no-write-workqueue = true
        private = false

        [volume.vm]
        device = "/dev/vg0/vm"
        initramfs = true
        mount = { where = "/srv/vm/", type = "ext4", options = "noatime,discard" }
        pools = ["vm", "iso"]

        [volume.spare]
        device = "/dev/vg0/spare"
        noauto = true

        [domain."Mail server"]
        start = true
        after = ["web"]
        volumes = ["mail"]
        ready = { tcp = "[fe80::1%br0]:25" }
        ready-timeout = "1min"
        stop = "shutdown"
        stop-timeout = "10min"
        on-stop-timeout = "wait"

        [domain.web]
        start = false
        ready = "agent"
        stop = "save"
        [domain.db]
        ready = { delay = "20s" }
        "#,
    );

    let host = &config.host;
    assert_eq!(host.libvirt_uri, "qemu+ssh://root@other/system");
    assert_eq!(
        [host.hold_login, host.stop_timeout, host.stop_deadline].map(|span| span.as_secs()),
        [0, 30, 5400]
    );

    let mut mail = Volume::new("mail", DeviceSpec::Uuid("0f5e2a4c-9b1d-4e6f-8a7b-3c2d1e0f9a8b".into()));
    mail.header = Some("/srv/vm/mail.header".into());
    let key_file = KeyFile {
        offset: 16,
        size: Some(64),
        ..KeyFile::new("/srv/vm/mail.key")
    };
    let on_stick = KeyFile {
        device: Some(DeviceSpec::Uuid("1A2B-3C4D".into())),
        timeout: Duration::from_secs(120),
        ..KeyFile::new("/mail.key")
    };
    mail.unlock = vec![
        Unlock::KeyFile(key_file),
        Unlock::KeyFile(on_stick),
        Unlock::Token,
        Unlock::Passphrase,
    ];
    mail.passphrase_group = Some("guests".into());
    mail.tries = 0;
    mail.after = vec!["vm".into()];
    mail.device_timeout = Duration::from_millis(500);
    mail.flags.read_only = true;
    mail.flags.discard = true;
    mail.flags.same_cpu_crypt = true;
    mail.flags.submit_from_crypt_cpus = true;
    mail.flags.no_read_workqueue = true;
    mail.flags.no_write_workqueue = true;
    mail.flags.private = false;

    let mut vm = Volume::new("vm", DeviceSpec::Path("/dev/vg0/vm".into()));
    vm.mount = Some(Mount {
        at: "/srv/vm".into(),
        fstype: Some("ext4".into()),
        options: Some("noatime,discard".into()),
    });
    vm.flags.private = false;
    vm.pools = vec!["vm".into(), "iso".into()];
    vm.initramfs = true;
    let mut spare = Volume::new("spare", DeviceSpec::Path("/dev/vg0/spare".into()));
    spare.noauto = true;
    assert_eq!(config.volumes, [mail, vm, spare]);

    let mut server = DomainConfig::new("Mail server");
    server.start = Start::Always;
    server.after = vec!["web".into()];
    server.volumes = Some(vec!["mail".into()]);
    server.ready = tcp("fe80::1%br0", 25);
    server.ready_timeout = Duration::from_secs(60);
    server.stop_timeout = Some(Duration::from_secs(600));
    server.on_stop_timeout = OnStopTimeout::Wait;
    let mut web = DomainConfig::new("web");
    web.start = Start::Never;
    web.ready = Ready::Agent;
    web.stop = Stop::Save;
    let mut db = DomainConfig::new("db");
    db.ready = Ready::Delay(Duration::from_secs(20));
    assert_eq!(config.domains, [server, web, db]);
}

#[test]
fn every_key_of_a_master_is_read() {
    let config = read(
        r#"
        [volume.mail]
        device = "/dev/vg0/mail"
        unlock = [{ master = "office" }, "passphrase"]

        [master.office]
        header = "/etc/virt-unlock/masters/office.luks"
        unlock = [{ key-file = "/root/office.key" }]
        tries = 0
        "#,
    );
    let by_office = Unlock::Master { name: "office".into() };
    assert_eq!(config.volumes[0].unlock, [by_office, Unlock::Passphrase]);
    let mut office = Master::new("office", "/etc/virt-unlock/masters/office.luks".into());
    office.unlock = vec![Unlock::KeyFile(KeyFile::new("/root/office.key"))];
    office.tries = 0;
    assert_eq!(config.masters, [office]);
}

#[test]
fn what_is_not_written_has_the_defaults_of_the_contract() {
    let config =
        read("[volume.raw]\ndevice = \"LABEL=raw\"\n[volume.fs]\ndevice = \"PARTLABEL=fs\"\nmount = \"/srv/fs\"\n[domain.d]\n");
    assert_eq!(config.volumes[0], Volume::new("raw", DeviceSpec::Label("raw".into())));
    assert!(config.volumes[0].flags.private);
    assert!(!config.volumes[1].flags.private, "systemd must see what it mounts");
    assert_eq!(config.domains, [DomainConfig::new("d")]);
}

#[test]
fn tables_come_in_the_order_of_the_file_and_can_be_written_in_any_form_of_toml() {
    let config = read(
        "volume.z.device = '/dev/z'\nvolume.a = { device = '/dev/a', mount.where = '/srv/a' }\nvolume.m.device = '/dev/m'\n",
    );
    let names: Vec<&str> = config.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m"]);
    assert_eq!(
        config.volumes[1].mount.as_ref().map(|mount| mount.at.as_path()),
        Some(Path::new("/srv/a"))
    );
}

#[test]
fn a_volume_and_a_domain_may_share_a_name_and_a_domain_may_come_after_one_without_a_table() {
    let config = read("[volume.mail]\ndevice = '/dev/m'\n[domain.mail]\nafter = ['somebody']\nvolumes = []\n");
    assert_eq!(config.domains[0].after, ["somebody"]);
    assert_eq!(config.domains[0].volumes.as_deref(), Some(&[][..]));
}

#[test]
fn a_mount_below_another_is_fine_with_after_direct_or_not() {
    read(
        "[volume.a]\ndevice = '/dev/a'\nmount = '/srv'\n[volume.b]\ndevice = '/dev/b'\nafter = ['a']\n\
         [volume.c]\ndevice = '/dev/c'\nafter = ['b']\nmount = '/srv/c'\nheader = '/srv/header'\n\
         [volume.d]\ndevice = '/dev/d'\nmount = '/srv-d'\n",
    );
}

/// What the example says when nothing in it is commented out.
fn uncommented(example: &str) -> String {
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
        _ => line,
    });
    lines.collect::<Vec<&str>>().join("\n")
}

#[test]
fn the_example_is_a_configuration_of_both_layouts() {
    let config = read(&fs::read_to_string(path("config.example.toml")).unwrap());
    let mounted: Vec<bool> = config.volumes.iter().map(|volume| volume.mount.is_some()).collect();
    assert_eq!(mounted, [false, true]);
    assert_eq!(config.domains.len(), 1);
}

#[test]
fn the_examples_keys_are_all_there_and_its_commented_ones_say_the_defaults() {
    let example = fs::read_to_string(path("config.example.toml")).unwrap();
    let text = uncommented(&example);
    let mut config = read(&text);

    // Those with no default have an example in its place.
    let mail = &mut config.volumes[0];
    assert_eq!(mail.header.take(), Some("/root/headers/mail.img".into()));
    assert_eq!(mail.passphrase_group.take(), Some("guests".into()));
    assert_eq!(std::mem::take(&mut config.volumes[1].pools), ["vm"]);
    let office = Master::new("office", "/etc/virt-unlock/masters/office.luks".into());
    assert_eq!(std::mem::take(&mut config.masters), [office]);
    let mut sealed = SecretConfig::new("5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50");
    sealed.passphrase_group = Some("guests".into());
    assert_eq!(std::mem::take(&mut config.secrets), [sealed]);
    let web = &mut config.domains[0];
    assert_eq!(std::mem::take(&mut web.after), ["mail"]);
    assert_eq!(web.volumes.take(), Some(vec!["vm".to_owned()]));
    assert_eq!(web.stop_timeout.take(), Some(config.host.stop_timeout));
    assert_eq!(config, read(&example));

    for key in config::keys() {
        let is_shown = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} ="));
        assert!(text.lines().any(is_shown), "the example does not show `{key}`");
    }
}

/// What only the initramfs leaves out is what it cannot do there.
#[test]
fn the_initramfs_gets_its_volumes_alone() {
    let whole = read(
        r#"
        [host]
        hold-login = "1min 30s"
        libvirt-uri = "qemu:///other"

        [volume.raw]
        device = "UUID=0f5e2a4c-9b1d-4e6f-8a7b-3c2d1e0f9a8b"
        header = "/root/raw \"1\".header"
        unlock = [{ key-file = "/root/raw.key", key-file-offset = 16, key-file-size = 64 }, "passphrase"]
        passphrase-group = "all"
        tries = 7
        discard = true
        device-timeout = "500ms"
        initramfs = true

        [volume.vm]
        device = "/dev/vg0/vm"
        after = ["raw"]
        mount = "/srv/vm"
        pools = ["vm"]
        passphrase-group = "all"
        initramfs = true

        [volume.mail]
        device = "/dev/vg0/mail"
        unlock = [{ master = "office" }, "passphrase"]
        initramfs = true

        [volume.later]
        device = "/dev/vg0/later"
        unlock = [{ key-file = "/root/later.key" }, { master = "other" }]

        [master.office]
        header = "/etc/virt-unlock/masters/office.luks"
        unlock = [
            { key-file = "/root/office.key" },
            { key-file = "/office", key-file-device = "LABEL=KEYS", key-file-timeout = "5s" },
        ]
        tries = 5

        [master.other]
        header = "/etc/virt-unlock/masters/other.luks"

        [domain.web]
        start = true
        "#,
    );
    let reduced = read(&config::for_initramfs(&whole).unwrap());

    let mut wanted = Config {
        volumes: whole.volumes[..3].to_vec(),
        masters: whole.masters[..1].to_vec(),
        ..Config::default()
    };
    wanted.host.hold_login = whole.host.hold_login;
    wanted.volumes[1].mount = None;
    wanted.volumes[1].pools.clear();
    assert_eq!(reduced, wanted);
    assert!(!reduced.volumes[1].flags.private, "systemd must see it to mount it later");

    let files = config::files_for_initramfs(&whole);
    let wanted = [
        "/etc/virt-unlock/masters/office.luks",
        "/root/office.key",
        "/root/raw \"1\".header",
        "/root/raw.key",
    ];
    assert_eq!(files, wanted.map(PathBuf::from));
    assert_eq!(config::key_devices_for_initramfs(&whole), [DeviceSpec::Label("KEYS".into())]);
}

#[test]
fn an_initramfs_without_volumes_gets_nothing() {
    assert_eq!(config::for_initramfs(&read("[volume.a]\ndevice = \"/dev/a\"\n")), None);
}
