//! The harness itself: what other scenarios rely on.

use crate::host::{Host, secs};

#[test]
fn what_a_scenario_brings_is_there_when_the_host_boots() {
    let mut host = Host::builder("harness")
        .file("/etc/marked", "from the scenario\n")
        .program("/lib/host-greeting", "#!/bin/sh\necho \"GREETING $(cat /etc/marked)\"\n")
        .file(
            "/lib/systemd/system/greeting.service",
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nStandardOutput=journal+console\nExecStart=/usr/lib/host-greeting\n\
             ExecStop=/bin/sh -c 'echo FAREWELL'\n[Install]\nWantedBy=multi-user.target\n",
        )
        .enable("greeting.service")
        // No guest: one that is asked to end before it can hear that would hold the power-off up.
        .prepare("echo prepared >/etc/prepared; rm /etc/libvirt/qemu/autostart/plain.xml")
        .boot();
    host.console().expect("GREETING from the scenario", secs(90));
    assert_eq!(host.run("cat /etc/prepared"), "prepared\n");
    assert_eq!(
        host.run("test ! -e /prepare; ls -ld /lib; stat -c %a /lib/host-greeting")
            .lines()
            .last(),
        Some("755")
    );

    // A person at the console.
    host.console().expect("host login: ", secs(90));
    host.console().type_line("root");
    host.console().expect("root@host:~# ", secs(30));
    host.console().type_line("tty");
    host.console().expect("/dev/ttyS0\n", secs(10));
    // Another at the second terminal.
    host.terminal().type_line("tty");
    host.terminal().expect("/dev/hvc0\n", secs(10));

    // Commands: output, status, several lines, time limit.
    assert_eq!(host.run("printf 'a\\tb\\n'\nprintf 'no newline'"), "a\tb\nno newline");
    assert_eq!(
        host.shell("echo out; echo err >&2; exit 7").to_string(),
        "exit status 7\nout\nerr\n"
    );
    assert_eq!(host.shell_within("sleep 60", secs(1)).status, 124);

    // A disk comes, goes, and comes back with what was written.
    let disk = "/dev/disk/by-id/virtio-late";
    host.add_drive("late", 16);
    host.until(&format!("test -b {disk}"), secs(30));
    host.run(&format!("echo written >{disk}; sync"));
    host.remove_drive("late");
    host.until(&format!("test ! -e {disk}"), secs(30));
    host.add_drive_again("late");
    host.until(&format!("test -b {disk}"), secs(30));
    assert_eq!(host.run(&format!("head -n 1 {disk}")), "written\n");

    // Plug pulled: what was synced is there after the next boot.
    host.run("echo kept >/root/kept; sync");
    host.kill();
    host.boot_again();
    assert_eq!(host.run("cat /root/kept /etc/marked"), "kept\nfrom the scenario\n");

    host.console().expect("host login: ", secs(90));
    host.console().type_line("root");
    host.console().expect("root@host:~# ", secs(30));
    host.console().type_line("poweroff");
    host.await_off(secs(120));
    host.console()
        .assert_order(&["GREETING", "host login:", "FAREWELL", "Power down"]);
    host.console().assert_never("GUEST");
    assert_eq!(
        host.examine_with("cat /root/kept; ls /run/vm").output(),
        "kept\nbase.qcow2\nlost+found\noverlay.qcow2\nwebserver.qcow2\n"
    );
}
