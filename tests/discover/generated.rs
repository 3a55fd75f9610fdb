//! Whatever there is on a host, the text is a configuration, and has nothing in it that could move a cursor.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Few enough that things meet, with odd ones among them.
fn word() -> impl Strategy<Value = String> {
    let few = select(vec![
        "mail", "vm", "web", "luks-x", "a b", "\"", "\\", "\n[x]", "control", "größe", "",
    ]);
    prop_oneof![8 => few.prop_map(str::to_owned), 1 => any::<String>()]
}

fn place() -> impl Strategy<Value = PathBuf> {
    let few = select(vec![
        "/srv",
        "/srv/vm",
        "/srv/vm/images",
        "/",
        "/home",
        "/srv/../x",
        "/dev/mapper/mail",
        "/dev/vg0/vm",
    ]);
    prop_oneof![
        6 => few.prop_map(PathBuf::from),
        2 => word().prop_map(|word| PathBuf::from(format!("/srv/{word}"))),
        2 => word().prop_map(|word| PathBuf::from(format!("/dev/mapper/{word}"))),
        1 => word().prop_map(PathBuf::from),
        1 => vec(any::<u8>(), 0..6).prop_map(|bytes| {
            use std::os::unix::ffi::OsStringExt;
            PathBuf::from(std::ffi::OsString::from_vec(bytes))
        }),
    ]
}

fn minor() -> impl Strategy<Value = u64> {
    0..6_u64
}

fn device() -> impl Strategy<Value = BlockDevice> {
    (minor(), place(), proptest::option::of(word())).prop_map(|(minor, path, logical_volume)| BlockDevice {
        number: number(minor),
        path,
        logical_volume,
    })
}

fn header() -> impl Strategy<Value = LuksDevice> {
    let uuid = prop_oneof![3 => minor().prop_map(|minor| Some(uuid(minor))), 1 => proptest::option::of(word())];
    let inside = prop_oneof![9 => Just(None), 1 => word().prop_map(Some)];
    (device(), uuid, proptest::option::of(word()), inside).prop_map(|(device, uuid, label, inside)| LuksDevice {
        device,
        version: None,
        uuid,
        label,
        inside,
    })
}

fn mapping() -> impl Strategy<Value = CryptMapping> {
    let uuid = prop_oneof![3 => minor().prop_map(|minor| Some(uuid(minor).replace('-', ""))), 1 => Just(None)];
    (word(), minor(), uuid, vec(device(), 0..2), vec(device(), 0..2)).prop_map(|(name, minor, uuid, bases, on_top)| {
        CryptMapping {
            name,
            number: number(10 + minor),
            uuid,
            bases,
            on_top,
        }
    })
}

fn option() -> impl Strategy<Value = String> {
    let known = select(vec![
        "luks",
        "discard",
        "tries=0",
        "tries=x",
        "header=/srv/vm/h",
        "keyfile-size=0",
        "keyfile-size=99999999999",
        "keyfile-offset=9",
        "keyfile-offset=18446744073709551615",
        "x-systemd.device-timeout=999999min",
        "swap",
        "plain",
        "noauto",
        "x-initrd.attach",
        "defaults",
        "noatime",
        "ro",
    ]);
    prop_oneof![5 => known.prop_map(str::to_owned), 1 => word(), 1 => word().prop_map(|word| format!("header=/{word}"))]
}

fn line() -> impl Strategy<Value = CrypttabLine> {
    let device = prop_oneof![
        place().prop_map(|path| path.display().to_string()),
        minor().prop_map(|minor| format!("UUID={}", uuid(minor))),
        word(),
    ];
    let key = proptest::option::of(place().prop_map(|path| path.display().to_string()));
    (
        word(),
        device,
        key,
        vec(option(), 0..4),
        proptest::option::of(minor()),
        proptest::option::of(place()),
    )
        .prop_map(|(name, device, key, options, minor, key_by_name)| CrypttabLine {
            line: 1,
            name,
            device,
            key,
            options,
            number: minor.map(number),
            key_by_name,
        })
}

fn mount_line() -> impl Strategy<Value = FstabLine> {
    let fstype = select(vec!["ext4", "auto", "swap", "a b"]).prop_map(str::to_owned);
    (place(), place(), fstype, vec(option(), 0..3), proptest::option::of(minor())).prop_map(
        |(device, at, fstype, options, minor)| FstabLine {
            line: 1,
            device: device.display().to_string(),
            at,
            fstype,
            options,
            number: minor.map(|minor| number(10 + minor)),
        },
    )
}

fn mounts() -> impl Strategy<Value = Vec<MountedAt>> {
    let one = (place(), minor(), proptest::option::of(option()));
    vec(
        one.prop_map(|(at, minor, options)| MountedAt {
            at,
            number: number(10 + minor),
            options,
        }),
        0..4,
    )
}

fn survey() -> impl Strategy<Value = Survey> {
    let tables = (vec(line(), 0..4), vec(mount_line(), 0..4));
    let there = vec((place(), any::<bool>(), proptest::option::of(place())), 0..4);
    (
        vec(header(), 0..5),
        vec(mapping(), 0..4),
        mounts(),
        tables,
        there,
        vec(word(), 0..3),
    )
        .prop_map(|(luks, mappings, mounts, (crypttab, fstab), there, other_names)| Survey {
            luks,
            mappings,
            mounts,
            crypttab,
            fstab,
            other_names: other_names.into_iter().collect(),
            swaps: BTreeSet::from([number(15)]),
            places: there
                .into_iter()
                .map(|(path, exists, mount)| (path, Place { exists, mount }))
                .collect(),
        })
}

fn libvirt() -> impl Strategy<Value = LibvirtFacts> {
    let source = (place(), place(), proptest::option::of(minor()), proptest::option::of(word())).prop_map(
        |(path, resolved, minor, pool)| Source {
            path,
            resolved,
            number: minor.map(|minor| number(10 + minor)),
            pool,
        },
    );
    let domain = (word(), any::<bool>(), vec(source, 0..3)).prop_map(|(name, autostart, sources)| DomainFacts {
        sources,
        ..guest(&name, autostart, &[])
    });
    (vec(domain, 0..4), vec((word(), place()), 0..3)).prop_map(|(domains, pools)| LibvirtFacts {
        domains,
        pool_folders: pools.into_iter().collect(),
        ..LibvirtFacts::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_found_the_text_is_a_configuration(
        survey in survey(),
        libvirt in proptest::option::of(libvirt()),
        uri in proptest::option::of(select(vec!["qemu:///session", "test:///x?y=\"z\\"])),
        remarks in vec(word(), 0..2),
    ) {
        let written = configuration(&Found {
            survey: &survey,
            libvirt: libvirt.as_ref().ok_or("\x1b[2Jno\nanswer"),
            libvirt_uri: uri,
            remarks: &remarks,
        });
        let read = config::parse(&[("discover".into(), written.clone())]);
        prop_assert!(read.is_ok(), "{}\n{written}", read.unwrap_err());
        prop_assert!(written.chars().all(|c| c == '\n' || !text::moves(c)), "{written:?}");
    }
}
