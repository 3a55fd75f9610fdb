//! Whole texts for whole hosts. `GOLDEN=write cargo test --test discover` writes them anew; read what changed.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod generated;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use virt_unlock::config::{self, Config};
use virt_unlock::discover::{Found, configuration};
use virt_unlock::facts::survey::{BlockDevice, CryptMapping, CrypttabLine, FstabLine, LuksDevice, MountedAt, Place, Survey};
use virt_unlock::facts::{DevNum, DomainFacts, DomainState, LibvirtFacts, PoolState, SecretFacts, SecretId, SecretUse, Source};
use virt_unlock::text;

fn number(minor: u64) -> DevNum {
    DevNum { major: 253, minor }
}

fn uuid(minor: u64) -> String {
    format!("6f1d3c2e-90a4-4b7e-8a55-{minor:012x}")
}

/// `/dev/vg0/NAME`
fn logical(minor: u64, name: &str) -> LuksDevice {
    LuksDevice {
        device: BlockDevice {
            number: number(minor),
            path: format!("/dev/vg0/{name}").into(),
            logical_volume: Some(name.into()),
        },
        version: Some("2".into()),
        uuid: Some(uuid(minor)),
        label: None,
        inside: None,
    }
}

/// `/dev/NAME`
fn disk(minor: u64, name: &str) -> LuksDevice {
    LuksDevice {
        device: BlockDevice {
            number: number(minor),
            path: format!("/dev/{name}").into(),
            logical_volume: None,
        },
        ..logical(minor, name)
    }
}

fn open(minor: u64, name: &str, luks: &LuksDevice) -> CryptMapping {
    CryptMapping {
        name: name.into(),
        number: number(minor),
        uuid: luks.uuid.as_ref().map(|uuid| uuid.replace('-', "")),
        bases: vec![luks.device.clone()],
        on_top: Vec::new(),
    }
}

fn crypttab(text: &str, survey: &Survey) -> Vec<CrypttabLine> {
    let mut lines = Vec::new();
    for (place, text) in text.lines().enumerate() {
        let mut fields = text.split(' ').map(str::to_owned);
        let mut line = CrypttabLine {
            line: place + 1,
            name: fields.next().unwrap(),
            device: fields.next().unwrap(),
            key: fields.next().filter(|key| key != "none"),
            options: fields.next().unwrap_or_default().split(',').map(str::to_owned).collect(),
            ..CrypttabLine::default()
        };
        line.options.retain(|option| !option.is_empty());
        let luks = survey.luks.iter().find(|luks| {
            let by_uuid = luks.uuid.as_ref().is_some_and(|uuid| line.device == format!("UUID={uuid}"));
            by_uuid || luks.device.path == Path::new(&line.device)
        });
        line.number = luks.map(|luks| luks.device.number);
        lines.push(line);
    }
    lines
}

fn fstab(line: usize, device: &str, at: &str, fstype: &str, options: &str) -> FstabLine {
    FstabLine {
        line,
        device: device.into(),
        at: at.into(),
        fstype: fstype.into(),
        options: options.split(',').map(str::to_owned).collect(),
        number: None,
    }
}

fn mounted(minor: u64, at: &str) -> MountedAt {
    MountedAt {
        at: at.into(),
        number: number(minor),
        options: None,
    }
}

fn guest(name: &str, autostart: bool, sources: &[&str]) -> DomainFacts {
    let source = |path: &&str| Source {
        path: path.into(),
        resolved: path.into(),
        number: None,
        pool: None,
    };
    DomainFacts {
        name: name.into(),
        uuid: format!("uuid of {name}"),
        state: DomainState::ShutOff,
        autostart,
        sources: sources.iter().map(source).collect(),
        ..DomainFacts::default()
    }
}

fn libvirt(domains: Vec<DomainFacts>, pools: &[(&str, &str)]) -> LibvirtFacts {
    LibvirtFacts {
        domains,
        pools: pools
            .iter()
            .map(|(name, _)| ((*name).to_owned(), PoolState::Inactive))
            .collect(),
        pool_folders: pools
            .iter()
            .map(|(name, at)| ((*name).to_owned(), PathBuf::from(at)))
            .collect(),
        ..LibvirtFacts::default()
    }
}

/// Places where nothing is, on the root filesystem.
fn nothing_at(places: &[&str]) -> BTreeMap<PathBuf, Place> {
    let bare = Place {
        exists: false,
        mount: Some("/".into()),
    };
    places.iter().map(|place| (PathBuf::from(place), bare.clone())).collect()
}

fn found<'a>(survey: &'a Survey, libvirt: &'a LibvirtFacts) -> Found<'a> {
    Found {
        survey,
        libvirt: Ok(libvirt),
        libvirt_uri: None,
        remarks: &[],
    }
}

fn parsed(text: &str) -> Config {
    config::parse(&[("discover".into(), text.to_owned())]).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// Compares with the text in `tests/NAME.toml`.
#[track_caller]
fn is_golden(name: &str, text: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/discover/{name}.toml"));
    if std::env::var_os("GOLDEN").is_some_and(|word| word == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{} is another text; now it is\n{text}", path.display());
    parsed(text)
}

/// The test host as it is when nothing is open: names and folders are told by the guests.
#[test]
fn closed_volumes_are_named_by_what_the_guests_expect() {
    let survey = Survey {
        luks: vec![logical(0, "mail"), logical(1, "vm"), logical(2, "spare"), logical(3, "stub")],
        places: nothing_at(&["/srv/vm/web.qcow2", "/srv/vm/overlay.qcow2"]),
        ..Survey::default()
    };
    let libvirt = libvirt(
        vec![
            guest("mailserver", true, &["/dev/mapper/mail"]),
            guest("webserver", true, &["/srv/vm/web.qcow2"]),
            guest("chained", false, &["/srv/vm/overlay.qcow2"]),
            guest("stubborn", false, &["/dev/mapper/stub"]),
            guest("plain", true, &["/dev/vg0/plain"]),
            guest("lost", false, &["/dev/mapper/elsewhere"]),
        ],
        &[("vm", "/srv/vm"), ("default", "/var/lib/libvirt/images")],
    );
    let config = is_golden("closed", &configuration(&found(&survey, &libvirt)));
    let names: Vec<_> = config.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["mail", "vm", "stub"]);
    assert_eq!(config.volumes[1].pools, ["vm"]);
}

#[test]
fn open_raw_volumes_keep_their_names_and_the_hosts_own_are_left() {
    let (mail, data, root, inner) = (disk(0, "sda2"), disk(1, "md0"), disk(2, "sda3"), disk(3, "dm-9"));
    let inner = LuksDevice {
        inside: Some("mail_crypt".into()),
        ..inner
    };
    let awake = BlockDevice {
        number: number(12),
        path: "/dev/guestvg/root".into(),
        logical_volume: Some("root".into()),
    };
    let host_lvm = BlockDevice {
        path: "/dev/hostvg/root".into(),
        number: number(13),
        logical_volume: Some("root".into()),
    };
    let mut mappings = vec![
        open(10, "mail_crypt", &mail),
        open(11, "luks-data", &data),
        open(14, "sda3_crypt", &root),
    ];
    mappings[0].on_top = vec![awake];
    mappings[2].on_top = vec![host_lvm];
    mappings.push(CryptMapping {
        name: "swap".into(),
        number: number(15),
        uuid: None,
        bases: vec![disk(4, "sda4").device],
        on_top: Vec::new(),
    });
    let survey = Survey {
        luks: vec![mail, data, root, inner],
        mappings,
        mounts: vec![mounted(13, "/"), mounted(11, "/srv/data")],
        ..Survey::default()
    };
    let mut web = guest("web", true, &["/srv/data/web.qcow2", "/dev/sdz"]);
    web.sources[0].resolved = "/srv/data/web.qcow2".into();
    let libvirt = libvirt(vec![guest("mailserver", true, &["/dev/mapper/mail_crypt"]), web], &[]);
    let config = is_golden("open", &configuration(&found(&survey, &libvirt)));
    assert_eq!(config.volumes.len(), 2);
    assert!(config.volumes[0].flags.private && !config.volumes[1].flags.private);
}

#[test]
fn a_host_that_works_by_crypttab_is_told_what_moves() {
    let luks = vec![
        logical(0, "mail"),
        logical(1, "vm"),
        disk(2, "sda3"),
        disk(3, "sdb"),
        disk(5, "sdc"),
    ];
    let mut survey = Survey {
        mappings: vec![open(10, "vm", &luks[1]), open(11, "sda3_crypt", &luks[2])],
        luks,
        mounts: vec![mounted(11, "/"), mounted(10, "/srv/vm")],
        fstab: vec![
            fstab(2, "/dev/mapper/sda3_crypt", "/", "ext4", "errors=remount-ro"),
            fstab(
                3,
                "/dev/mapper/vm",
                "/srv/vm",
                "ext4",
                "noatime,nofail,x-systemd.device-timeout=5",
            ),
            fstab(4, "/dev/mapper/backup", "/srv/backup", "ext4", "defaults,noauto"),
            fstab(5, "tmpfs", "/tmp", "tmpfs", "defaults"),
        ],
        ..Survey::default()
    };
    survey.crypttab = crypttab(
        &format!(
            "sda3_crypt UUID={} none luks,discard,x-initrd.attach\n\
             mail /dev/vg0/mail none luks,discard,tries=5,tpm2-device=auto,timeout=30,initramfs\n\
             vm UUID={} /etc/keys/vm luks,keyfile-size=64,keyfile-offset=512,no-read-workqueue,nofail,noauto,cipher=x\n\
             backup UUID={} /etc/keys/b luks,read-only\n\
             swap /dev/sdy /dev/urandom swap\n\
             token UUID={} none luks,keyscript=/lib/decrypt\n\
             usb /dev/disk/by-id/usb-1 /usb.key:LABEL=KEYS header=/srv/vm/usb.img,keyfile-timeout=10",
            uuid(2),
            uuid(1),
            uuid(3),
            uuid(5)
        ),
        &survey,
    );
    let libvirt = libvirt(
        vec![
            guest("mailserver", true, &["/dev/mapper/mail"]),
            guest("webserver", true, &["/srv/vm/web.qcow2"]),
            guest("usbguest", false, &["/dev/mapper/usb"]),
        ],
        &[("images", "/srv/vm/images")],
    );
    let remarks = ["libvirt-guests suspends".to_owned()];
    let found = Found {
        libvirt_uri: Some("qemu+unix:///system?socket=/run/l"),
        remarks: &remarks,
        ..found(&survey, &libvirt)
    };
    let config = is_golden("crypttab", &configuration(&found));
    let [mail, vm, usb] = config.volumes.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!((mail.tries, mail.flags.discard), (5, true));
    let mount = vm.mount.as_ref().unwrap();
    assert_eq!(
        (mount.fstype.as_deref(), mount.options.as_deref()),
        (Some("ext4"), Some("noatime"))
    );
    assert_eq!(vm.pools, ["images"]);
    assert_eq!(
        (usb.header.as_deref(), usb.after.as_slice()),
        (Some(Path::new("/srv/vm/usb.img")), &["vm".to_owned()][..])
    );
}

#[test]
fn where_nothing_is_found_it_says_how_to_go_on() {
    let (survey, libvirt) = (Survey::default(), LibvirtFacts::default());
    let config = is_golden("nothing", &configuration(&found(&survey, &libvirt)));
    assert!(config.volumes.is_empty());
}

#[test]
fn without_libvirt_the_rest_is_written() {
    let survey = Survey {
        luks: vec![logical(0, "mail")],
        ..Survey::default()
    };
    let found = Found {
        survey: &survey,
        libvirt: Err("libvirt does not answer: no socket"),
        libvirt_uri: None,
        remarks: &[],
    };
    let text = configuration(&found);
    assert!(
        text.contains("# doubt: libvirt's guests and pools are missing here: libvirt does not answer: no socket."),
        "{text}"
    );
    assert_eq!(parsed(&text).volumes[0].name, "mail");
}

/// Names that would end a comment or a string, turn the direction of the line, or be somebody else's.
#[test]
fn hostile_names_do_no_harm() {
    let odd = "a\"]\n[host]\nx = \"\u{202e}\x1b[2J";
    let mut first = logical(0, "odd");
    first.device.logical_volume = Some(odd.into());
    first.device.path = format!("/dev/vg0/{odd}").into();
    first.label = Some(odd.into());
    let mut second = disk(1, "sdb");
    second.label = Some("it's \"quoted\" \\".into());
    second.uuid = Some("\"\nno uuid".into());
    let third = disk(2, "sdc");
    let mut mapping = open(10, "luks-odd", &third);
    mapping.on_top = vec![BlockDevice {
        path: odd.into(),
        ..third.device.clone()
    }];
    let survey = Survey {
        luks: vec![first, second, third],
        mappings: vec![mapping],
        mounts: vec![mounted(10, "/srv/\u{1b}]0;x\u{7}\"\n")],
        crypttab: vec![CrypttabLine {
            line: 1,
            name: odd.into(),
            device: odd.into(),
            options: vec![odd.into(), format!("header=/{odd}")],
            ..CrypttabLine::default()
        }],
        ..Survey::default()
    };
    let libvirt = libvirt(
        vec![guest(odd, true, &["/dev/mapper/luks-odd", odd, "/dev/mapper/a b"])],
        &[(odd, "/srv")],
    );
    let text = configuration(&found(&survey, &libvirt));
    assert!(text.chars().all(|c| c == '\n' || !text::moves(c)), "{text:?}");
    is_golden("hostile", &text);
}

#[test]
fn one_header_on_two_devices_and_one_name_for_two_are_doubts() {
    let mut copy = disk(1, "sdb");
    copy.uuid = Some(uuid(0));
    let original = disk(0, "sda");
    let mut other = logical(3, "web");
    other.device.path = "/dev/vg1/web".into();
    let survey = Survey {
        mappings: vec![open(10, "mail", &original)],
        luks: vec![copy, original, logical(2, "web"), other],
        ..Survey::default()
    };
    let libvirt = libvirt(
        vec![
            guest("mailserver", true, &["/dev/mapper/mail"]),
            guest("webserver", true, &["/dev/mapper/web"]),
        ],
        &[],
    );
    let config = is_golden("duplicates", &configuration(&found(&survey, &libvirt)));
    let [mail] = config.volumes.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!(mail.device.to_string(), "/dev/sda");
}

/// A volume with the keys of another one moves with it, though no guest lies on it.
#[test]
fn what_another_volume_needs_is_written_too() {
    let luks = vec![logical(0, "mail"), logical(1, "keys")];
    let mut survey = Survey {
        mappings: vec![open(10, "keys", &luks[1])],
        mounts: vec![mounted(10, "/srv/keys")],
        luks,
        ..Survey::default()
    };
    survey.crypttab = crypttab("mail /dev/vg0/mail /srv/keys/mail luks", &survey);
    let libvirt = libvirt(vec![guest("mailserver", true, &["/dev/mapper/mail"])], &[]);
    let config = parsed(&configuration(&found(&survey, &libvirt)));
    let names: Vec<_> = config
        .volumes
        .iter()
        .map(|volume| (volume.name.as_str(), volume.after.as_slice()))
        .collect();
    assert_eq!(names, [("mail", &["keys".to_owned()][..]), ("keys", &[])]);
}

/// An entry of fstab may name the filesystem inside a closed volume by a UUID that nobody sees.
#[test]
fn a_missed_folder_of_fstab_has_the_options_of_its_line() {
    let survey = Survey {
        luks: vec![logical(0, "vm")],
        fstab: vec![fstab(7, "UUID=5d1f", "/srv/vm", "xfs", "nodev,nofail")],
        places: nothing_at(&["/srv/vm/images/web.qcow2"]),
        ..Survey::default()
    };
    let libvirt = libvirt(vec![guest("web", true, &["/srv/vm/images/web.qcow2"])], &[]);
    let text = configuration(&found(&survey, &libvirt));
    assert!(
        text.contains("mount = { where = \"/srv/vm\", type = \"xfs\", options = \"nodev\" }"),
        "{text}"
    );
    assert!(
        text.contains("/etc/fstab line 7, /srv/vm: moves to mount in [volume.vm]"),
        "{text}"
    );
}

#[test]
fn secrets_that_guests_need_get_their_tables() {
    let survey = Survey::default();
    let mut libvirt = libvirt(vec![guest("web", true, &[]), guest("wiki", false, &[])], &[]);
    let used = |id: SecretId| SecretUse {
        id,
        image: None,
        format: None,
    };
    let (shared, kept) = (SecretId::of(&uuid(1)), SecretId::of("/srv/kept"));
    let odd = [SecretId::Usage("a\nb".into()), SecretId::Usage(uuid(2))];
    libvirt.domains[0].secrets = [shared.clone(), kept].into_iter().chain(odd).map(used).collect();
    libvirt.domains[1].secrets = vec![used(shared.clone())];
    libvirt.secrets = vec![SecretFacts {
        uuid: uuid(3),
        usage: Some("/srv/kept".into()),
        ephemeral: false,
    }];
    let text = configuration(&found(&survey, &libvirt));
    let config = parsed(&text);
    let names: Vec<&str> = config.secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, [uuid(1).as_str(), "/srv/kept"], "{text}");
    assert!(text.contains("Guests: web (autostart), wiki (no autostart)."), "{text}");
    assert!(text.contains("# doubt: libvirt keeps it on this host's disk"), "{text}");
}
