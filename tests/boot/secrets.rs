//! A guest whose disk QEMU decrypts itself: its secret is asked for, set before it starts, and gone when it is down.

use crate::{
    host::{Host, secs},
    product::{PASSPHRASE, daemon, enabled},
};

const UUID: &str = "77777777-7777-4777-8777-777777777777";

const CONFIG: &str = r#"
[volume.mail]
device = "/dev/vg0/mail"

[secret.77777777-7777-4777-8777-777777777777]

[secret."/srv/late.qcow2"]
unlock = [{ key-file = "/root/late.key" }, "passphrase"]
tries = 2

[domain.sealed]
start = true
"#;

/// The guest `plain`, with its boot sector on an encrypted disk of its own.
const SEAL: &str = r#"
seal() { # NAME UUID IMAGE REFERENCE PASSPHRASE
    qemu-img convert -f raw -O qcow2 --object secret,id=key,data="$5" \
        -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10 /root/sector "$3"
    sed -e "s|plain|$1|g; s|<uuid>.*</uuid>|<uuid>$2</uuid>|; s|type='block' device|type='file' device|; s|type='raw'|type='qcow2'|" \
        -e "s|<source dev=.*|<source file='$3'><encryption format='luks'><secret type='passphrase' $4/></encryption></source>|" \
        /etc/libvirt/qemu/plain.xml >/root/"$1".xml
    virsh define /root/"$1".xml
}
dd if=/dev/vg0/plain of=/root/sector bs=512 count=1
truncate -s 4M /root/sector
seal sealed 88888888-8888-4888-8888-888888888888 /srv/sealed.qcow2 "uuid='77777777-7777-4777-8777-777777777777'" sesame
seal late 99999999-9999-4999-8999-999999999999 /srv/late.qcow2 "usage='/srv/late.qcow2'" 'open up'
"#;

/// The other guest's disk, as a server gives it.
const SERVE: &str = r#"
set -e
printf wrong >/root/late.key
systemd-run --quiet --collect --unit=nbd qemu-nbd --persistent --format=raw --bind=127.0.0.1 --port=10809 /srv/late.qcow2
sed "s|type='file' device|type='network' device|; s|<source file='[^']*'>|<source protocol='nbd'><host name='127.0.0.1' port='10809'/>|" \
    /root/late.xml >/root/network.xml
virsh define /root/network.xml
until (: </dev/tcp/127.0.0.1/10809) 2>/dev/null; do sleep 0.2; done
"#;

const QUESTION: &str = "Passphrase for guest sealed (secret 77777777-7777-4777-8777-777777777777)";

/// The questions that are open.
const QUESTIONS: &str = "systemd-tty-ask-password-agent --list";

/// The secrets that libvirt has.
fn secrets(host: &Host) -> String {
    host.run("virsh -q secret-list | awk '{ print $1 }'").trim().to_owned()
}

fn is_up(guest: &str, times: usize) -> String {
    format!("test \"$(grep -c 'GUEST plain UP' /var/log/guests/{guest}.log)\" = {times}")
}

#[test]
#[ignore = "make test-hosts runs it: guests are made, and start five times, which takes minutes"]
fn a_disk_of_qemu_s_opens_by_a_secret_that_is_gone_afterwards() {
    let mut host = enabled("secrets", CONFIG).boot();
    host.console().expect("Passphrase for volume mail", secs(120));
    host.console().type_line(PASSPHRASE);
    host.console().expect("host login:", secs(120));
    host.run(&format!("rm -f /var/log/guests/*; set -e; {SEAL}"));
    let check = host.run("virt-unlock check -v || true");
    assert!(!check.contains("sealed"), "{check}");
    let plan = host.run("virt-unlock plan");
    assert!(plan.contains("set secret") && plan.contains(UUID), "{plan}");

    // At a terminal: a wrong passphrase is found before the guest starts.
    host.terminal().type_line("virt-unlock up; echo ended $?");
    host.terminal().expect(QUESTION, secs(120));
    host.terminal().type_line("wrong");
    host.terminal().expect("try 2 of 3, the last one was wrong", secs(120));
    assert_eq!(
        (secrets(&host).as_str(), host.run("virsh domstate sealed").trim()),
        ("", "shut off")
    );
    host.terminal().type_line("sesame");
    host.terminal().expect("ended 0", secs(180));
    host.until(&is_up("sealed", 1), secs(120));
    assert_eq!(secrets(&host), UUID);
    // Nobody can read it, and it lies nowhere.
    let kept = host.run(&format!(
        "virsh secret-dumpxml {UUID}; virsh secret-get-value {UUID} 2>&1 || true; ls -A /etc/libvirt/secrets"
    ));
    assert!(
        kept.contains("ephemeral='yes' private='yes'") && kept.contains("is private"),
        "{kept}"
    );
    assert!(!kept.contains(".base64") && !kept.contains(".xml"), "{kept}");
    assert!(host.run("virt-unlock status --json || true").contains(UUID));

    // By name, down and up; the other by its usage, with a key file that does not fit.
    host.run("virt-unlock down sealed");
    assert_eq!(secrets(&host), "");
    host.run("printf wrong >/root/late.key; chmod 400 /root/late.key");
    host.terminal().type_line("virt-unlock up late; echo ended $?");
    host.terminal()
        .expect("Passphrase for guest late (secret /srv/late.qcow2)", secs(120));
    host.terminal().type_line("open up");
    host.terminal().expect("ended 0", secs(180));
    host.until(&is_up("late", 1), secs(120));
    assert!(host.run("virsh secret-list").contains("volume /srv/late.qcow2"));
    host.run("virt-unlock down late");
    assert_eq!(secrets(&host), "");

    // A disk that cannot be looked at, for it comes by the network: QEMU itself says that the key file does not fit, and a person is
    // asked. The emergency waits for nobody, and libvirt forgets that one too.
    host.run(SERVE);
    host.terminal().type_line("virt-unlock up late; echo ended $?");
    host.terminal().expect("try 2 of 2, the last one was wrong", secs(120));
    host.terminal().type_line("open up");
    host.terminal().expect("ended 0", secs(180));
    host.until(&is_up("late", 2), secs(120));
    assert!(host.run("virsh secret-list").contains("volume /srv/late.qcow2"));
    host.run("virt-unlock down --now late");
    assert_eq!(
        (secrets(&host).as_str(), host.run("virsh domstate late").trim()),
        ("", "shut off")
    );

    // The service: what the boot asks for, without a person at a terminal of ours, and what the shutdown forgets.
    host.run("virt-unlock down && systemctl restart virt-unlock --no-block");
    let mut asked = [false; 2];
    for _ in 0..2 {
        host.until(&format!("{QUESTIONS} | grep -q Passphrase"), secs(120));
        // One is open at a time, of whichever half.
        let open = host.run(QUESTIONS);
        assert_eq!(open.matches("Passphrase").count(), 1, "{open}");
        let is_of_secret = open.contains(QUESTION);
        asked[usize::from(is_of_secret)] = true;
        host.terminal().type_line("systemd-tty-ask-password-agent --query");
        host.terminal().expect("Passphrase for", secs(120));
        host.terminal().type_line(if is_of_secret { "sesame" } else { PASSPHRASE });
        let own = if is_of_secret { "guest sealed" } else { "volume mail" };
        host.until(&format!("! {QUESTIONS} | grep -q '{own}'"), secs(120));
    }
    assert_eq!(asked, [true; 2]);
    host.until(&is_up("sealed", 2), secs(120));
    host.until("virt-unlock status", secs(60));
    // libvirt's daemon starts anew: what was in memory alone is gone, and the way down finds nothing to forget.
    host.run(&format!("systemctl restart {}; virt-unlock status", daemon(&host)));
    host.run("systemctl stop virt-unlock");
    assert_eq!(
        (secrets(&host).as_str(), host.run("virsh domstate sealed").trim()),
        ("", "shut off")
    );
    let left = host.run("journalctl -b --no-pager; cat /run/virt-unlock/* /var/lib/virt-unlock/* 2>/dev/null || true");
    assert!(!left.contains("sesame") && !left.contains("open up"));
    host.power_off();
}
