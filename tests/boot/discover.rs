//! A configuration is written for a host that has none: with everything closed, and on one that works by crypttab. It changes
//! nothing, and what it writes is good.

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, PLAIN_IS_UP, installed},
};

/// What must not change: mappings, volume groups, mounts, headers, guests, pools, and every file on the root disk but logs.
const STATE: &str = "dmsetup table; dmsetup info -c --noheadings -o name,uuid,open; lvs --noheadings -o lv_path,lv_active; \
     cat /proc/mounts; virsh list --all; virsh pool-list --all; \
     for volume in mail vm spare stub; do head -c 1M /dev/vg0/$volume | sha256sum; done; \
     find / -xdev -newer /root/stamp ! -path '/var/log/*' ! -path '/root/stamp' | sort";

#[test]
#[ignore = "make test-hosts runs it: make test has its time"]
fn a_configuration_is_written_for_a_host_that_has_none() {
    let mut host = installed("discover", "")
        .prepare(&format!(
            "printf '{PASSPHRASE}' >/etc/key; chmod 400 /etc/key; rm /etc/virt-unlock/config.toml"
        ))
        .boot();
    host.console().expect("host login:", secs(120));
    host.until(PLAIN_IS_UP, secs(60));

    // Everything is closed: what the guests expect tells which volume is which.
    let text = looked(&host, 0);
    for words in [
        "\n[volume.mail]\ndevice = \"/dev/vg0/mail\"\n",
        "\n[volume.vm]\ndevice = \"/dev/vg0/vm\"\nmount = \"/srv/vm\"\npools = [\"vm\"]\n",
        "\n[volume.stub]\ndevice = \"/dev/vg0/stub\"\n",
        "\n#[volume.spare]\n#device = \"/dev/vg0/spare\"\n",
        "\n# Guests: mailserver (autostart).\n",
        "\n#   - plain (autostart): /dev/vg0/plain\n",
        "\n# LUKS1 on /dev/vg0/spare",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(!text.contains("/etc/crypttab"), "{text}");
    host.run("virt-unlock discover >/etc/virt-unlock/config.toml");
    let plan = is_good(&host);
    for words in [
        "open       volume mail",
        "mount      mount  vm",
        "start      guest  webserver",
        "start      guest  mailserver",
    ] {
        assert!(plan.contains(words), "{plan}");
    }

    // The same host as crypttab(5), fstab(5) and a person bring it up. The guest's own LVM has woken up on it.
    host.run(
        "printf '# volumes\\nmail /dev/vg0/mail none luks\\n\\nvm /dev/vg0/vm /etc/key luks,discard,nofail\\n' >/etc/crypttab",
    );
    host.run("echo '/dev/mapper/vm /srv/vm ext4 noatime,noauto 0 2' >>/etc/fstab");
    for volume in ["mail", "vm"] {
        host.run(&format!("cryptsetup open --key-file /etc/key /dev/vg0/{volume} {volume}"));
    }
    host.run("systemctl daemon-reload; mount /srv/vm");
    host.until("lvs --noheadings -o lv_active guestvg | grep -qw active", secs(30));
    let text = looked(&host, 0);
    for words in [
        "\n# LUKS2 on /dev/vg0/mail",
        "open as /dev/mapper/mail.",
        "has woken up on this host (/dev/guestvg/root)",
        "\nunlock = [{ key-file = \"/etc/key\" }, \"passphrase\"]\ndiscard = true\n\
         mount = { where = \"/srv/vm\", type = \"ext4\", options = \"noatime\" }\npools = [\"vm\"]\n",
        "\n#   - /etc/crypttab line 2, mail on /dev/vg0/mail: moves to [volume.mail]; remove the line\n",
        "\n#   - /etc/crypttab line 4, vm on /dev/vg0/vm: moves to [volume.vm]; remove the line\n",
        "\n#   - /etc/fstab line 2, /srv/vm: moves to mount in [volume.vm]; remove the line\n",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }

    // Before the lines are removed `check` names them; what the text says to do is enough.
    host.run("virt-unlock discover >/etc/virt-unlock/config.toml");
    let checked = host.shell("virt-unlock check");
    assert_eq!((checked.status, checked.text.matches(" too: ").count()), (1, 3), "{checked}");
    host.run("sed -i -e 2d -e 4d /etc/crypttab; sed -i 2d /etc/fstab; systemctl daemon-reload");
    let plan = is_good(&host);
    assert!(
        !plan.lines().any(|line| line.starts_with("open") && !line.contains("stub")),
        "{plan}"
    );

    // It does what crypttab did: the volume opens by its key file, and is mounted with its options.
    host.run("umount /srv/vm; vgchange -an guestvg; cryptsetup close vm; cryptsetup close mail");
    host.run("virt-unlock up webserver </dev/null");
    host.run("findmnt --noheadings -o SOURCE,OPTIONS /srv/vm | grep '^/dev/mapper/vm .*noatime'");
    host.run("dmsetup table vm | grep allow_discards");
    host.until("grep -q 'GUEST webserver UP' /var/log/guests/webserver.log", secs(60));

    // Without libvirt the rest is written, and that is said.
    host.run("systemctl stop 'libvirtd*' 'virtqemud*' 'virtstoraged*'");
    let text = looked(&host, 1);
    assert!(
        text.contains("# doubt: libvirt's guests and pools are missing here"),
        "{text}"
    );
    assert!(text.contains("\n[volume.vm]\n"), "{text}");
    host.kill();
}

/// What `discover` writes; nothing changes by it.
#[track_caller]
fn looked(host: &Host, status: i32) -> String {
    let state = if status == 0 {
        STATE.to_owned()
    } else {
        STATE.replace("virsh list --all; virsh pool-list --all; ", "")
    };
    host.run("udevadm settle; touch /root/stamp");
    let before = host.run(&state);
    let looked = host.shell("virt-unlock discover 2>/dev/null");
    assert_eq!(looked.status, status, "{looked}");
    assert_eq!(host.run(&state), before, "it changed something");
    looked.text
}

/// `check` finds no error in the configuration, and the plan, which is returned, can be done.
#[track_caller]
fn is_good(host: &Host) -> String {
    let checked = host.run("virt-unlock check");
    assert!(!checked.contains("error:"), "{checked}");
    host.run("virt-unlock plan")
}
