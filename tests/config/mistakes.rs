//! What each mistake gets: the place and the words.

use std::path::PathBuf;

use virt_unlock::config::parse;

/// `LINE:COLUMN: MESSAGE` of each problem in a file; with several files, `FILE:` before it.
fn complaints(files: &[&str]) -> Vec<String> {
    let named: Vec<(PathBuf, String)> = (1..)
        .zip(files)
        .map(|(number, text)| (format!("{number}").into(), (*text).to_owned()))
        .collect();
    let Err(problems) = parse(&named) else { return Vec::new() };
    let file = |path: &str| if files.len() > 1 { format!("{path}:") } else { String::new() };
    let lines = problems.iter().map(|found| {
        let file = file(found.file.to_str().unwrap());
        format!("{file}{}:{}: {}", found.line, found.column, found.message)
    });
    lines.collect()
}

/// Each text with its only complaint.
fn check(cases: &[(&str, &str)]) {
    for (text, complaint) in cases {
        assert_eq!(complaints(&[text]), [*complaint], "{text}");
    }
}

/// The same in `[volume.mail]`, where nothing else is wrong; lines count from the one after the device.
fn check_volume(cases: &[(&str, &str)]) {
    for (line, complaint) in cases {
        let text = format!("[volume.mail]\ndevice = '/dev/vg0/mail'\n{line}\n");
        assert_eq!(complaints(&[&text]), [*complaint], "{line}");
    }
}

#[test]
fn unknown_keys_and_tables() {
    check(&[
        ("[hots]\n", "1:2: unknown table `hots`; did you mean `host`?"),
        (
            "[volumes.mail]\ndevice = '/dev/a'\n",
            "1:2: unknown table `volumes`; did you mean `volume`?",
        ),
        (
            "[guest.mail]\n",
            "1:2: unknown table `guest`; known tables: `host`, `volume`, `master`, `secret`, `domain`",
        ),
        (
            "colour = true\n",
            "1:1: unknown key `colour`; known tables: `host`, `volume`, `master`, `secret`, `domain`",
        ),
        (
            "hold-login = '0'\n",
            "1:1: `hold-login` stands outside of every table; it belongs below the header [host]",
        ),
        (
            "[host]\nhold_login = '0'\n",
            "2:1: unknown key `hold_login` in [host]; did you mean `hold-login`?",
        ),
        (
            "[host]\ndevice = '/dev/a'\n",
            "2:1: unknown key `device` in [host]; known keys: `libvirt-uri`, `hold-login`, `stop-timeout`, `stop-deadline`",
        ),
        (
            "[domain.web]\nvolume = ['a']\n",
            "2:1: unknown key `volume` in [domain.web]; did you mean `volumes`?",
        ),
        (
            "[volume]\ndevice = '/dev/a'\n",
            "2:1: `device` stands in [volume] itself; it belongs below a header with a name: [volume.NAME]",
        ),
        (
            "[volume]\nmail = '/dev/a'\n",
            "2:1: `volume.mail` must be a table of its own: [volume.mail]",
        ),
        (
            "volume = 1\n",
            "1:10: `volume` must be a table: [volume.NAME], but this is an integer",
        ),
        ("[[volume]]\n", "1:3: `volume` is a table, not an array: write [volume.NAME]"),
        ("[[host]]\n", "1:3: `host` is a table, not an array: write [host]"),
    ]);
    check_volume(&[
        (
            "devise = 1",
            "3:1: unknown key `devise` in [volume.mail]; did you mean `device`?",
        ),
        (
            "mount = { at = '/srv', where = '/srv/a' }",
            "3:11: unknown key `at` in `mount`; known keys: `where`, `type`, `options`",
        ),
        (
            "unlock = [{ keyfile = '/a' }]",
            "3:13: unknown key `keyfile` in a way of `unlock`; did you mean `key-file`?",
        ),
    ]);
}

#[test]
fn wrong_types() {
    check(&[
        (
            "[host]\nlibvirt-uri = 1\n",
            "2:15: `libvirt-uri` must be a string (in double quotes), but this is an integer",
        ),
        (
            "[host]\nstop-timeout = true\n",
            "2:16: `stop-timeout` must be a span of time such as \"90s\" or \"3min\", but this is true or false",
        ),
        ("host = 5\n", "1:8: `host` must be a table: [host], but this is an integer"),
        (
            "[domain.a]\nstart = 1\n",
            "2:9: `start` must be true, false or \"autostart\", but this is an integer",
        ),
        ("[domain.a]\nstart = 'true'\n", "2:9: `start` must be true without quotes"),
        (
            "[domain.a]\nstart = 'autostrat'\n",
            "2:9: `start` must be true, false or \"autostart\", but this is `autostrat`",
        ),
        (
            "[domain.a]\nstop = 'off'\n",
            "2:8: `stop` cannot be `off`; known words: `shutdown`, `save`",
        ),
        (
            "[domain.a]\non-stop-timeout = 'kill'\n",
            "2:19: `on-stop-timeout` cannot be `kill`; known words: `destroy`, `wait`",
        ),
        (
            "[domain.a]\nafter = 'b'\n",
            "2:9: `after` must be an array of strings such as [\"one\", \"two\"], but this is a string",
        ),
    ]);
    check_volume(&[
        (
            "header = ['/a']",
            "3:10: `header` must be a string (in double quotes), but this is an array",
        ),
        (
            "tries = '3'",
            "3:9: `tries` must be an integer (without quotes), but this is a string",
        ),
        (
            "tries = 1.5",
            "3:9: `tries` must be an integer (without quotes), but this is a number with a fraction",
        ),
        (
            "read-only = 'yes'",
            "3:13: `read-only` must be true or false (without quotes), but this is a string",
        ),
        (
            "discard = 1",
            "3:11: `discard` must be true or false (without quotes), but this is an integer",
        ),
        (
            "mount = 1",
            "3:9: `mount` must be a mount point such as \"/srv/vm\", or a table { where = \"/srv/vm\", type = \"…\", options = \"…\" }, but this is an integer",
        ),
        ("mount = {}", "3:9: `mount` needs `where = \"…\"`: the mount point"),
        (
            "mount = { where = 1979-05-27 }",
            "3:19: `where` must be a string (in double quotes), but this is a date or time",
        ),
        (
            "unlock = 'passphrase'",
            "3:10: `unlock` must be an array of ways such as [\"passphrase\", { key-file = \"/path\" }], but this is a string",
        ),
        (
            "unlock = [1]",
            "3:11: an entry of `unlock` must be \"passphrase\", \"token\" or a table such as { key-file = \"/path\" }, but this is an integer",
        ),
        (
            "after = [1]",
            "3:10: an entry of `after` must be a string (in double quotes), but this is an integer",
        ),
        (
            "pools = 'vm'",
            "3:9: `pools` must be an array of strings such as [\"one\", \"two\"], but this is a string",
        ),
        (
            "device-timeout = []",
            "3:18: `device-timeout` must be a span of time such as \"90s\" or \"3min\", but this is an array",
        ),
    ]);
}

#[test]
fn values_that_cannot_be() {
    check(&[
        ("[host]\nlibvirt-uri = ''\n", "2:15: `libvirt-uri` must not be empty"),
        (
            "[host]\nlibvirt-uri = 'localhost'\n",
            "2:15: `libvirt-uri` must be a libvirt address such as `qemu:///system`",
        ),
        (
            "[host]\nhold-login = '-5s'\n",
            "2:14: `hold-login` is not a span of time: `-5s` is negative; write it as `90s`, `3min`, `1h 30min` or `0`",
        ),
        (
            "[host]\nhold-login = 'soon'\n",
            "2:14: `hold-login` is not a span of time: `soon` is no span of time; write it as `90s`, `3min`, `1h 30min` or `0`",
        ),
        (
            "[host]\nhold-login = -1\n",
            "2:14: `hold-login` must be between 0 and 31536000, but this is `-1`",
        ),
        (
            "[host]\nstop-deadline = '2 weeks'\n",
            "2:17: `stop-deadline` is not a span of time: `weeks` is no unit of time; use `ms`, `s`, `min`, `h` or `d`",
        ),
        (
            "[volume.a]\ndevice = 'vg0/a'\n",
            "2:10: `device` must be an absolute path, `UUID=`, `PARTUUID=`, `LABEL=` or `PARTLABEL=`, but this is `vg0/a`",
        ),
        (
            "[volume.a]\ndevice = 'UUID=1'\n",
            "2:10: `device` is no UUID: `UUID=1` is not 32 hexadecimal digits in groups of 8-4-4-4-12 (`cryptsetup luksUUID DEVICE` shows it)",
        ),
        (
            "[volume.a]\ndevice = \"/dev/a\\u0000b\"\n",
            "2:10: `device` must not have control characters in it, and has `\\u{0}`",
        ),
        (
            "[volume.a]\n",
            "1:9: [volume.a] needs `device = \"…\"`: the encrypted device, as a path or `UUID=…`",
        ),
        (
            "[volume.'a b']\ndevice = '/dev/a'\n",
            "1:9: a volume cannot be named `a b`: /dev/mapper has no ` ` in its names, only letters and digits of ASCII and `#+-.:=@_`",
        ),
        (
            "[volume.control]\ndevice = '/dev/a'\n",
            "1:9: a volume cannot be named `control`: /dev/mapper/control is something else",
        ),
        (
            "[volume.luks-a]\ndevice = '/dev/a'\n",
            "1:9: a volume cannot be named `luks-a`: dracut closes what starts with `luks-` when it leaves the initramfs",
        ),
        (
            "[volume.'']\ndevice = '/dev/a'\n",
            "1:9: a volume needs a name: [volume.NAME]",
        ),
        (
            "[domain.'a/b']\n",
            "1:9: a domain cannot be named `a/b`: libvirt has no `/` in its names",
        ),
        ("[domain.a]\nafter = ['b', 'b']\n", "2:15: `b` stands twice in `after`"),
    ]);
}

#[test]
fn values_that_a_volume_cannot_have() {
    check_volume(&[
        (
            "header = 'UUID=1'",
            "3:10: `header` must be an absolute path, but `UUID=1` does not start with `/`",
        ),
        (
            "tries = -1",
            "3:9: `tries` must be between 0 and 4294967295, but this is `-1`",
        ),
        (
            "tries = 4294967296",
            "3:9: `tries` must be between 0 and 4294967295, but this is `4294967296`",
        ),
        ("passphrase-group = ''", "3:20: `passphrase-group` must not be empty"),
        (
            "unlock = []",
            "3:10: `unlock` must name at least one way, such as \"passphrase\"",
        ),
        (
            "unlock = ['password']",
            "3:11: an entry of `unlock` cannot be `password`; known words: `passphrase`, `token`",
        ),
        (
            "unlock = ['passphrase', 'passphrase']",
            "3:25: this way stands twice in `unlock`",
        ),
        (
            "unlock = [{}]",
            "3:11: an entry of `unlock` that is a table needs `key-file = \"/path\"` or `master = \"NAME\"`",
        ),
        (
            "unlock = [{ credential = '/etc/mail.cred' }]",
            "3:26: `credential` cannot be `/etc/mail.cred`: systemd has no `/` in the names of credentials; it is a name, such as `mail`, and not a path",
        ),
        (
            "unlock = [{ key-file = '/a', key-file-device = 'sdb1' }]",
            "3:48: `key-file-device` must be an absolute path, `UUID=`, `PARTUUID=`, `LABEL=` or `PARTLABEL=`, but this is `sdb1`",
        ),
        (
            "unlock = [{ key-file = '/a', key-file-device = 'UUID=stick' }]",
            "3:48: `key-file-device` is no UUID: `UUID=stick` has more than hexadecimal digits and `-` in it (`blkid -s UUID` shows it)",
        ),
        (
            "unlock = [{ key-file = '/a', key-file-timeout = 'soon' }]",
            "3:49: `key-file-timeout` is not a span of time: `soon` is no span of time; write it as `90s`, `3min`, `1h 30min` or `0`",
        ),
        (
            "unlock = [{ credential = 'mail', key-file-size = 64 }]",
            "3:34: unknown key `key-file-size` in a way by `credential`; known keys: `credential`",
        ),
        (
            "unlock = [{ credential = 'mail' }, { credential = 'mail' }]",
            "3:36: this way stands twice in `unlock`",
        ),
        (
            "unlock = [{ credential = 1 }]",
            "3:26: `credential` must be a string (in double quotes), but this is an integer",
        ),
        (
            "mount = 'srv'",
            "3:9: `mount` must be an absolute path, but `srv` does not start with `/`",
        ),
        (
            "mount = '/etc'",
            "3:9: `mount` cannot be `/etc`: a mount there would hide a directory of the system; use one of its own, such as `/srv/vm`",
        ),
        (
            "mount = '/srv/../vm'",
            "3:9: `mount` must not have `..` in it, as `/srv/../vm` has; write the plain path",
        ),
        ("mount = { where = '/srv/vm', type = '' }", "3:37: `type` must not be empty"),
        (
            "mount = { where = '/srv/vm', options = 'noatime, ro' }",
            "3:40: `options` must not have spaces in it, but this is `noatime, ro`",
        ),
        (
            "private = true\nmount = '/srv/vm'",
            "3:11: `private = true` cannot be together with `mount`: systemd must see the open volume to mount it; leave `private` out",
        ),
        (
            "pools = ['vm']",
            "3:1: `pools` in [volume.mail] needs `mount = \"…\"`: pools are started once the volume is mounted",
        ),
        (
            "mount = '/srv/vm'\npools = ['vm', 'vm']",
            "4:16: `vm` stands twice in `pools`",
        ),
        (
            "passphrase-group = 'a'\nunlock = [{ key-file = '/a' }]",
            "3:1: `passphrase-group` in [volume.mail] has no use: \"passphrase\" is not among its ways to `unlock`",
        ),
    ]);
}

#[test]
fn key_files_that_cannot_be() {
    check_volume(&[
        (
            "unlock = [{ key-file = 'a' }]",
            "3:24: `key-file` must be an absolute path, but `a` does not start with `/`",
        ),
        (
            "unlock = [{ key-file = '/a', key-file-offset = -1 }]",
            "3:48: `key-file-offset` must be between 0 and 9223372036854775807, but this is `-1`",
        ),
        (
            "unlock = [{ key-file = '/a', key-file-size = 0 }]",
            "3:46: `key-file-size` must be between 1 and 8388608, but this is `0`",
        ),
        (
            "unlock = [{ key-file = '/a', key-file-size = 8388609 }]",
            "3:46: `key-file-size` must be between 1 and 8388608, but this is `8388609`",
        ),
    ]);
}

#[test]
fn names_that_nobody_has_and_things_that_two_have() {
    check(&[
        (
            "[volume.mail]\ndevice = '/dev/a'\n[domain.a]\nvolumes = ['mial']\n",
            "4:12: unknown volume `mial` in `volumes` of [domain.a]; did you mean `mail`?",
        ),
        (
            "[domain.a]\nvolumes = ['mail']\n",
            "2:12: unknown volume `mail` in `volumes` of [domain.a]; there are no volumes",
        ),
        (
            "[volume.mail]\ndevice = '/dev/a'\nafter = ['other']\n",
            "3:10: unknown volume `other` in `after` of [volume.mail]; known volumes: `mail`",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\n[volume.b]\ndevice = '/dev//a'\n",
            "4:10: the volumes `a` and `b` have the same device; a device can be only one volume",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nmount = '/srv/a'\n[volume.b]\ndevice = '/dev/b'\nmount = '/srv/a/'\n",
            "6:9: the volumes `a` and `b` have the same mount point; each needs its own",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nmount = '/srv/a'\npools = ['p']\n[volume.b]\ndevice = '/dev/b'\nmount = '/srv/b'\npools = ['p']\n",
            "8:10: the pool `p` is named by volume `a` too; a pool lies on one volume",
        ),
    ]);
}

#[test]
fn masters_that_cannot_be() {
    check(&[
        (
            "[master.office]\n",
            "1:9: [master.office] needs `header = \"…\"`: the file that is its LUKS header",
        ),
        (
            "[master.office]\nheader = 'office.luks'\n",
            "2:10: `header` must be an absolute path, but `office.luks` does not start with `/`",
        ),
        (
            "[master.office]\nheader = '/a'\ndevice = '/dev/a'\n",
            "3:1: unknown key `device` in [master.office]; known keys: `header`, `unlock`, `tries`",
        ),
        (
            "[master.office]\nheader = '/a'\ntries = -1\n",
            "3:9: `tries` must be between 0 and 4294967295, but this is `-1`",
        ),
        (
            "[master.office]\nheader = '/a'\nunlock = [{ master = 'other' }]\n[master.other]\nheader = '/b'\n",
            "3:22: a master cannot be opened by a master: give it ways of its own",
        ),
        (
            "[master.'of fice']\nheader = '/a'\n",
            "1:9: a master cannot be named `of fice`: only letters and digits of ASCII and `-._` make its name, and it begins with neither \
             `-` nor `.`",
        ),
        (
            "[master]\nheader = '/a'\n",
            "2:1: `header` stands in [master] itself; it belongs below a header with a name: [master.NAME]",
        ),
        ("[[master]]\n", "1:3: `master` is a table, not an array: write [master.NAME]"),
        (
            "[master.a]\nheader = '/m/a'\n[master.b]\nheader = '/m//a'\n",
            "4:10: the masters `a` and `b` have the same header; a header can be only one master",
        ),
    ]);
    check_volume(&[
        (
            "unlock = [{ master = 1 }]",
            "3:22: `master` must be a string (in double quotes), but this is an integer",
        ),
        (
            "unlock = [{ master = 'office', tries = 3 }]",
            "3:32: unknown key `tries` in a way of `unlock` by a master; known keys: `master`",
        ),
        (
            "unlock = [{ mastre = 'office' }]",
            "3:13: unknown key `mastre` in a way of `unlock`; did you mean `master`?",
        ),
        (
            "unlock = [{ master = 'offcie' }]\n[master.office]\nheader = '/m/office'",
            "3:22: unknown master `offcie` in `unlock` of [volume.mail]; did you mean `office`?",
        ),
        (
            "unlock = ['passphrase', { master = 'office' }]",
            "3:36: unknown master `office` in `unlock` of [volume.mail]; there are no masters",
        ),
        (
            "unlock = [{ master = 'office' }, { master = 'office' }]\n[master.office]\nheader = '/m/office'",
            "3:34: this way stands twice in `unlock`",
        ),
    ]);
    let twice = complaints(&["[master.a]\nheader = '/a'\n", "[master.a]\n"]);
    assert_eq!(
        twice,
        ["2:1:9: the table [master.a] stands twice; write all its keys below one header, in one file"]
    );
}

#[test]
fn masters_that_lie_where_they_cannot_be_had() {
    let text = |volume: &str, master: &str| {
        format!(
            "[volume.vm]\ndevice = '/dev/vm'\nmount = '/srv'\n[volume.mail]\ndevice = '/dev/mail'\nunlock = [{{ master = 'a' }}]\n{volume}\n\
             [master.a]\n{master}\n"
        )
    };
    for (volume, master, complaint) in [
        (
            "",
            "header = '/srv/a'",
            "6:22: the header of master `a` lies on the mount of volume `vm`: [volume.mail] needs `after = [\"vm\"]`",
        ),
        (
            "",
            "header = '/a'\nunlock = [{ key-file = '/srv/key' }]",
            "6:22: the key file of master `a` lies on the mount of volume `vm`: [volume.mail] needs `after = [\"vm\"]`",
        ),
        (
            "mount = '/mail'",
            "header = '/mail/a'",
            "6:22: the header of master `a` lies on volume `mail`, which it opens: move the header",
        ),
    ] {
        assert_eq!(complaints(&[&text(volume, master)]), [complaint]);
    }
    assert_eq!(complaints(&[&text("after = ['vm']", "header = '/srv/a'")]), [""; 0]);
    let early = complaints(&[
        "[volume.vm]\ndevice = '/dev/vm'\nmount = '/srv'\ninitramfs = true\n[volume.mail]\ndevice = '/dev/mail'\n\
          unlock = [{ master = 'a' }]\nafter = ['vm']\ninitramfs = true\n[master.a]\nheader = '/srv/a'\n",
    ]);
    assert_eq!(
        early,
        [
            "7:22: the header of master `a` lies on volume `vm`, which is not mounted in the initramfs: move the header, or take out \
          `initramfs`"
        ]
    );
}

#[test]
fn what_the_initramfs_cannot_have() {
    check(&[
        (
            "[volume.a]\ndevice = '/dev/a'\n[volume.b]\ndevice = '/dev/b'\nafter = ['a']\ninitramfs = true\n",
            "5:10: volume `a` is opened later than the initramfs: give it `initramfs = true` too, or take it out of this one",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nmount = '/a'\ninitramfs = true\n[volume.b]\ndevice = '/dev/b'\n\
             unlock = [{ key-file = '/a/key' }]\nafter = ['a']\ninitramfs = true\n",
            "7:24: this key file lies on volume `a`, which is not mounted in the initramfs: move the key file, or take out `initramfs`",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\ninitramfs = 1\n",
            "3:13: `initramfs` must be true or false (without quotes), but this is an integer",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nnoauto = true\ninitramfs = true\n",
            "4:13: `initramfs = true` cannot be together with `noauto = true`, which opens a volume by its name alone",
        ),
    ]);
}

#[test]
fn what_waits_for_a_volume_that_waits_for_its_name() {
    let text = |first: &str, second: &str| {
        format!("[volume.a]\ndevice = '/dev/a'\n{first}\n[volume.b]\ndevice = '/dev/b'\nafter = ['a']\n{second}\n")
    };
    let complaint = "6:10: [volume.a] has `noauto = true`, so [volume.b], which waits for it, would never be opened at boot: write \
                     `noauto = true` there too, or take one of the two out";
    for second in ["", "noauto = false"] {
        assert_eq!(complaints(&[&text("noauto = true", second)]), [complaint], "{second}");
    }
    for (first, second) in [
        ("noauto = true", "noauto = true"),
        ("", "noauto = true"),
        ("noauto = false", ""),
    ] {
        assert_eq!(complaints(&[&text(first, second)]), [""; 0], "{first}, {second}");
    }
    let unread = "7:10: `noauto` must be true or false (without quotes), but this is a string";
    assert_eq!(complaints(&[&text("noauto = true", "noauto = 'yes'")]), [unread]);
}

#[test]
fn circles() {
    check(&[
        (
            "[volume.a]\ndevice = '/dev/a'\nafter = ['a']\n",
            "3:10: the volume `a` cannot come after itself",
        ),
        ("[domain.a]\nafter = ['a']\n", "2:10: the domain `a` cannot come after itself"),
        (
            "[domain.a]\nafter = ['x', 'b']\n[domain.b]\nafter = ['c']\n[domain.c]\nafter = ['a']\n[domain.d]\nafter = ['a']\n",
            "2:15: these domains wait for each other in a circle: `a` comes after `b`, `b` comes after `c`, `c` comes after `a`",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nafter = ['b']\n[volume.b]\ndevice = '/dev/b'\nafter = ['a']\n",
            "3:10: these volumes wait for each other in a circle: `a` comes after `b`, `b` comes after `a`",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nafter = ['b']\nmount = '/srv'\n[volume.b]\ndevice = '/dev/b'\nmount = '/srv/b'\n",
            "3:10: these volumes wait for each other in a circle: `a` comes after `b`, `b` is mounted below `a`",
        ),
    ]);
    let two = complaints(&["[domain]\na.after = ['b']\nb.after = ['a']\nc.after = ['c']\n"]);
    assert_eq!(
        two,
        [
            "2:12: these domains wait for each other in a circle: `a` comes after `b`, `b` comes after `a`",
            "4:12: the domain `c` cannot come after itself"
        ]
    );
}

#[test]
fn what_lies_on_the_mount_of_another_volume() {
    let outer = "[volume.a]\ndevice = '/dev/a'\nmount = '/srv'\n";
    let cases = [
        (
            "mount = '/srv/b'\n",
            "6:9: this mount point lies on the mount of volume `a`: [volume.b] needs `after = [\"a\"]`",
        ),
        (
            "header = '/srv/b.header'\n",
            "6:10: this header lies on the mount of volume `a`: [volume.b] needs `after = [\"a\"]`",
        ),
        (
            "unlock = ['passphrase', { key-file = '/srv//b.key' }]\n",
            "6:38: this key file lies on the mount of volume `a`: [volume.b] needs `after = [\"a\"]`",
        ),
    ];
    for (line, complaint) in cases {
        let text = format!("{outer}[volume.b]\ndevice = '/dev/b'\n{line}");
        assert_eq!(complaints(&[&text]), [complaint], "{line}");
        assert_eq!(complaints(&[&format!("{text}after = ['a']\n")]), [""; 0], "{line}");
    }
    check(&[
        (
            "[volume.a]\ndevice = '/dev/a'\nmount = '/srv'\nheader = '/srv/a'\n",
            "4:10: the header of volume `a` lies on that volume itself: it could never be opened",
        ),
        (
            "[volume.a]\ndevice = '/dev/a'\nmount = '/srv'\nafter = ['b']\n[volume.b]\ndevice = '/dev/b'\nheader = '/srv/b'\n",
            "7:10: the header lies on volume `a`, which is opened after this one: take the `after` out there, or move the header",
        ),
    ]);
}

#[test]
fn a_table_in_two_files_points_at_both() {
    let files = [
        "[host]\n[volume.a]\ndevice = '/dev/a'\n[domain.d]\n",
        "[domain.d]\n[volume.a]\ndevise = '/dev/b'\n[host]\n",
    ];
    assert_eq!(
        complaints(&files),
        [
            "2:1:9: the table [domain.d] stands twice; write all its keys below one header, in one file",
            "2:2:9: the table [volume.a] stands twice; write all its keys below one header, in one file",
            "2:3:1: unknown key `devise` in [volume.a]; did you mean `device`?",
            "2:4:2: the table [host] stands twice; write all its keys below one header, in one file"
        ]
    );
}

#[test]
fn one_error_of_syntax_hides_nothing_else() {
    let broken = "[host]\nhold-login = \n[volume.a]\ndevise = 1\n[volume.b\ndevice = '/dev/b'\n[volume.c]\nafter = ['a', 'b', 'x'\n\n\
                  [volume.d]\ntries = 'x'\ndevice = \"/dev/d\n[domain.e]\nstart = '1'\n";
    assert_eq!(
        complaints(&[broken, "colour = 1\n"]),
        [
            "1:2:14: this is not valid TOML: string values must be quoted, expected literal string",
            "1:3:9: [volume.a] needs `device = \"…\"`: the encrypted device, as a path or `UUID=…`",
            "1:4:1: unknown key `devise` in [volume.a]; did you mean `device`?",
            "1:5:10: this is not valid TOML: unclosed table, expected `]`",
            "1:10:1: this is not valid TOML: missing comma between array elements, expected `,`; look above: something that was begun there has no end",
            "1:12:17: this is not valid TOML: invalid basic string, expected `\"`",
            "1:14:9: `start` must be true, false or \"autostart\", but this is `1`",
            "2:1:1: unknown key `colour`; known tables: `host`, `volume`, `master`, `secret`, `domain`"
        ]
    );
}

#[test]
fn what_stands_twice_in_one_file() {
    check(&[
        (
            "[host]\nhold-login = '0'\nstop-timeout = '0'\nhold-login = '1'\n",
            "4:1: the key `hold-login` stands twice in one table; keep one of them",
        ),
        (
            "[volume.a] # one\ndevice = '/dev/a'\n[host]\n[volume.a]\n",
            "4:9: the table [volume.a] stands twice; write all its keys below one header",
        ),
    ]);
}

#[test]
fn odd_names_are_shown_as_they_would_be_written() {
    let odd = complaints(&[
        "[volume.\"a\\u001b[2J\"]\ndevice = '/dev/a'\ntry = 3\n[domain.'Mail server']\nready-timeout = 'x\\n'\ncolour = 1\n",
    ]);
    assert_eq!(
        odd,
        [
            "1:9: a volume cannot be named `a\\u{1b}[2J`: /dev/mapper has no `\\u{1b}` in its names, only letters and digits of ASCII and \
             `#+-.:=@_`",
            "3:1: unknown key `try` in [volume.\"a\\u{1b}[2J\"]; known keys: `device`, `header`, `unlock`, `passphrase-group`, `tries`, `after`, `noauto`, `device-timeout`, `read-only`, `discard`, `same-cpu-crypt`, `submit-from-crypt-cpus`, `no-read-workqueue`, `no-write-workqueue`, `private`, `mount`, `pools`, `initramfs`",
            "5:17: `ready-timeout` is not a span of time: `x\\n` is no span of time; write it as `90s`, `3min`, `1h 30min` or `0`",
            "6:1: unknown key `colour` in [domain.\"Mail server\"]; known keys: `start`, `after`, `volumes`, `ready`, `ready-timeout`, `stop`, `stop-timeout`, `on-stop-timeout`",
        ]
    );
}

#[test]
fn text_without_an_end() {
    check(&[
        (
            "[volume.a]\ndevice = '/dev/a'\nafter = [\n",
            "3:10: this is not valid TOML: unclosed array, expected `]`",
        ),
        (
            "[volume.a]\ndevice = '''/dev/a\n",
            "3:1: this is not valid TOML: invalid multi-line literal string, expected `'`",
        ),
        (
            "=",
            "1:1: this is not valid TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`",
        ),
    ]);
}

#[test]
fn all_of_a_file_is_shown_with_its_lines() {
    let text = include_str!("shown.toml").to_owned();
    let further = "[volume.mail]\n".to_owned();
    let files = [
        ("/etc/virt-unlock/config.toml".into(), text),
        ("/etc/virt-unlock/config.d/x.toml".into(), further),
    ];
    let problems = parse(&files).unwrap_err();
    let shown = problems.to_string();
    assert_eq!(format!("{shown}\n"), include_str!("shown.txt"), "\n{shown}");

    let coloured = problems.render(true);
    assert!(coloured.contains("\u{1b}[1m") && !shown.contains('\u{1b}'));
}

#[test]
fn an_address_to_connect_to_has_a_host_and_a_port() {
    for written in [
        "host",
        "host:",
        ":25",
        "host:0",
        "host:65536",
        "::1:25",
        "[::1:25",
        "a b:25",
        "http://a:80",
        "a/b:80",
    ] {
        let text = format!("[domain.a]\nready = {{ tcp = '{written}' }}\n");
        let wanted = format!("2:17: `tcp` must be \"HOST:PORT\" (an IPv6 address in brackets), but this is `{written}`");
        check(&[(&text, &wanted)]);
    }
}

#[test]
fn when_a_guest_is_ready_is_said_in_one_of_four_ways() {
    check(&[
        (
            "[domain.a]\nready = 1\n",
            "2:9: `ready` must be \"running\", \"agent\", { tcp = \"HOST:PORT\" } or { delay = \"20s\" }, but this is an integer",
        ),
        (
            "[domain.a]\nready = { http = 1 }\n",
            "2:11: unknown key `http` in `ready`; known keys: `tcp`, `delay`",
        ),
        (
            "[domain.a]\nready = { tcp = 'a:1', delay = 1 }\n",
            "2:9: `ready` must be \"running\", \"agent\", { tcp = \"HOST:PORT\" } or { delay = \"20s\" }",
        ),
        (
            "[domain.a]\nready = { delay = 'soon' }\n",
            "2:19: `delay` is not a span of time: `soon` is no span of time; write it as `90s`, `3min`, `1h 30min` or `0`",
        ),
        (
            "[domain.a]\nready = { tcp = 22 }\n",
            "2:17: `tcp` must be a string (in double quotes), but this is an integer",
        ),
        (
            "[domain.a]\nready = 'runing'\n",
            "2:9: `ready` cannot be `runing`; did you mean `running`?",
        ),
    ]);
}

#[test]
fn secrets_that_cannot_be() {
    check(&[
        (
            "[secret.a]\nheader = '/a'\n",
            "2:1: unknown key `header` in [secret.a]; known keys: `unlock`, `passphrase-group`, `tries`",
        ),
        (
            "[secret.a]\nunlock = [{ master = 'office' }]\n",
            "2:22: a secret cannot come from a master: QEMU's disks have LUKS1 headers, without a place for one; use \
             \"passphrase\", a key file or a credential",
        ),
        (
            "[secret.a]\nunlock = ['token']\n",
            "2:11: a secret cannot come from a token: QEMU's disks have LUKS1 headers, without a place for one; use \"passphrase\", a \
             key file or a credential",
        ),
        (
            "[secret.a]\nunlock = [{ key-file = '/k', key-file-device = 'LABEL=KEYS' }]\n",
            "2:24: a secret cannot come from a stick: who asks for it at boot, virt-unlock-guests.service, may mount nothing; leave \
             `key-file-device` out, or use a credential",
        ),
        (
            "[secret.a]\nunlock = [{ credential = 'a' }]\npassphrase-group = 'x'\n",
            "3:1: `passphrase-group` in [secret.a] has no use: \"passphrase\" is not among its ways to `unlock`",
        ),
        (
            "[secret.\"a\\nb\"]\n",
            "1:9: a secret cannot be named `a\\nb`: XML has no `\\n`",
        ),
        (
            "[secret.77777777777747778777777777777777]\n[secret.77777777-7777-4777-8777-777777777777]\n",
            "2:9: the secrets `77777777777747778777777777777777` and `77777777-7777-4777-8777-777777777777` are the same one, by \
             the same UUID; a secret has one table",
        ),
        (
            "[volume.v]\ndevice = '/dev/v'\nmount = '/srv/v'\n[secret.a]\nunlock = [{ key-file = '/srv/v/key' }]\n",
            "5:24: this key file lies on volume `v`, and a secret waits for no volume: move the key file",
        ),
        (
            "secret = 1\n",
            "1:10: `secret` must be a table: [secret.NAME], but this is an integer",
        ),
    ]);
}
