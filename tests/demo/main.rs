//! `make demo`: a host with two encrypted guests boots in this terminal, and a person unlocks it. With `ANSWER` set nobody is
//! needed: it types by itself. Afterwards the disks are looked at. Exit status: 0 if all of it held, 1 if something did not, 2 if
//! it could not begin.

#[path = "../host/mod.rs"]
mod host;

use host::{Examination, Host, secs, show};
use std::{
    env, fmt,
    io::{self, IsTerminal},
    panic,
    path::Path,
    process::ExitCode,
};

/// A guest, and the volume that it lies on.
const GUESTS: [(&str, &str); 2] = [("mailserver", "mail"), ("webserver", "vm")];

const BEFORE: &str = "\
A host boots in this terminal: Debian in an emulator, with two guests on encrypted volumes.
    mailserver   its disk is the volume mail itself, with an LVM of its own inside
    webserver    a qcow2 file on the volume vm, which is mounted at /srv/vm
";

const TO_DO: &str = "
1. The host asks twice while it boots. The passphrase of both volumes:    correct horse
2. Both guests come up. At the login prompt type root (no password), and look around:
                                                  virt-unlock status      virsh list      lsblk
3. Type poweroff, and see the way back: guests stop, /srv/vm is unmounted, both volumes are closed.
Ctrl-] pulls the plug. When the host is off, its disks are looked at.
";

fn main() -> ExitCode {
    let answer = env::var("ANSWER").ok().filter(|answer| !answer.is_empty());
    if answer.is_none() && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        eprintln!("The demo needs a terminal to type in. Without one: make demo ANSWER='correct horse'");
        return ExitCode::from(2);
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/stage");
    if !installed.join("usr/bin/virt-unlock").exists() {
        eprintln!("Nothing is installed below {}: use make demo", installed.display());
        return ExitCode::from(2);
    }

    println!("{BEFORE}{}", if answer.is_none() { TO_DO } else { "" });
    // Whoever watches wants the words of a failure, not the place in this program.
    panic::set_hook(Box::new(|info| {
        eprintln!(
            "\n\n{}",
            info.payload()
                .downcast_ref::<String>()
                .map_or("the demo failed", String::as_str)
        );
    }));
    let held = panic::catch_unwind(|| run(&installed, answer.as_deref())).unwrap_or(false);
    ExitCode::from(u8::from(!held))
}

/// From power-on to the disks of the host that is off. True if all of it held.
fn run(installed: &Path, answer: Option<&str>) -> bool {
    let mut host = Host::builder("demo")
        .tree(installed)
        .file("/etc/virt-unlock/config.toml", include_str!("config.toml"))
        .enable("virt-unlock.service")
        .watch(show)
        .power_on();
    let orderly = match answer {
        Some(answer) => {
            type_all(&mut host, answer);
            true
        }
        None => host.attach().unwrap_or_else(|error| panic!("the terminal: {error}")),
    };
    println!("\n\nThe host is off. Its disks are looked at ...");
    let found = Found::new(&host, &host.examine(), orderly, answer.is_some());
    println!("{found}");
    found.all()
}

/// Does what a person would do. What does not come ends the program with words and the last lines of the console.
fn type_all(host: &mut Host, answer: &str) {
    for (guest, volume) in GUESTS {
        host.console().expect(&question(guest, volume), secs(90));
        host.console().type_line(answer);
    }
    host.await_shell();
    for (guest, _) in GUESTS {
        host.until(&format!("virsh domstate {guest} | grep -qx running"), secs(120));
        host.until(&format!("grep -q 'GUEST {guest} UP' /var/log/guests/{guest}.log"), secs(60));
    }
    let console = host.console();
    console.expect("host login: ", secs(120));
    console.type_line("root");
    console.expect("root@host:~# ", secs(60));
    console.type_line("virt-unlock status && echo all is up");
    // What was typed comes back first.
    console.expect("\n", secs(10));
    console.expect("\nall is up\n", secs(60));
    console.expect("root@host:~# ", secs(60));
    console.type_line("poweroff");
    host.await_off(secs(180));
}

/// How a question begins: another try has another number, and more words.
fn question(guest: &str, volume: &str) -> String {
    format!("Passphrase for volume {volume} (guest {guest}), try 1 of 3:")
}

/// What is to be seen at the end, each with whether it was. `once`: nobody was there who could have started a guest again.
struct Found(Vec<(bool, String)>);

impl Found {
    fn new(host: &Host, disks: &Examination, orderly: bool, once: bool) -> Self {
        let console = host.console().text();
        let mut found = Vec::new();
        for (guest, volume) in GUESTS {
            let asked = console.contains(&question(guest, volume));
            found.push((asked, format!("the boot asked for the passphrase of volume {volume}")));
        }
        for (guest, _) in GUESTS {
            let (up, off) = (disks.marker(guest, "up"), disks.marker(guest, "off"));
            // A person who looks around may well stop a guest and start it again.
            found.push((
                up == 1 || up > 1 && !once,
                format!("{guest} came up, and wrote so to its encrypted disk"),
            ));
            found.push((
                up >= 1 && up == off,
                format!("{guest} was asked to stop, and had the time to write that too"),
            ));
        }
        for (_, volume) in GUESTS {
            found.push((
                closed_in_time(&console, volume),
                format!("volume {volume} was closed before the host went off"),
            ));
        }
        found.push((disks.filesystem_clean(), "the filesystem of volume vm is clean".to_owned()));
        found.push((orderly, "the host went off by itself, in good order".to_owned()));
        Self(found)
    }

    fn all(&self) -> bool {
        self.0.iter().all(|(held, _)| *held)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (held, words) in &self.0 {
            writeln!(out, "  {}  {words}", if *held { "yes" } else { "NO " })?;
        }
        out.write_str(if self.all() {
            "All of it held."
        } else {
            "Not all of it held."
        })
    }
}

/// Whether the console says so before the last stage of the shutdown, when systemd unmounts and closes what is left.
fn closed_in_time(console: &str, volume: &str) -> bool {
    let Some(last_stage) = console.rfind("Reached target shutdown.target") else {
        return false;
    };
    // A person may have taken it down and up again before: the last word counts.
    let last = |word: &str| console[..last_stage].rfind(&format!("volume {volume}: {word}"));
    last("closed") > last("opened")
}
