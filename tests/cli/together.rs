//! Two at once: the locks, the signals and the orders between real processes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{Place, WHOLE, is_there, needs_root};

/// Reads lines until one has these words.
fn read_until(lines: &mut impl BufRead, words: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(words) {
        let count = lines.read_line(&mut seen).unwrap_or(0);
        assert!(count > 0, "ended before it said {words:?}: {seen}");
    }
    seen
}

fn end(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// In the /run of another one.
fn beside(first: &Child, place: &Place, verb: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", first.id())).arg(WHOLE);
    command.arg("--config").arg(place.config()).arg(verb).stdin(Stdio::null());
    command
}

#[test]
fn a_second_run_says_for_whom_it_waits_and_the_way_down_ends_the_way_up() {
    needs_root!();
    if !is_there("systemd-ask-password") {
        println!("skipped: needs systemd-ask-password");
        return;
    }
    let place = Place::with_volume("");
    // As nohup(1) begins it.
    let script = r#"trap '' HUP; mount -t tmpfs tmpfs /run && exec "$0" "$@""#;
    let mut first = place.in_shell(script, WHOLE, "up").stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(first.stderr.take().unwrap());
    read_until(&mut said, "asks: ");
    let signals = fs::read_to_string(format!("/proc/{}/status", first.id())).unwrap();
    let caught = signals.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    assert_eq!(caught & 0b11, 0b10, "it hears SIGINT, and not SIGHUP: {caught:x}");

    // At a terminal too, where a layer's wait stands below: this one has no layer.
    let pty = openpty(None, None).unwrap();
    let mut second = beside(&first, &place, "up")
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave)
        .spawn()
        .unwrap();
    let mut seen = BufReader::new(fs::File::from(pty.master));
    let words = read_until(&mut seen, "to let go");
    assert!(
        words.contains(&format!("waiting for `virt-unlock up` (process {})", first.id())),
        "{words}"
    );
    end(&second, Signal::SIGTERM);
    read_until(&mut seen, "cancelled; nothing was changed");
    assert_eq!(second.wait().unwrap().code(), Some(1));

    let down = beside(&first, &place, "down").output().unwrap();
    let words = String::from_utf8(down.stderr).unwrap();
    assert_eq!(down.status.code(), Some(0), "{words}");
    assert!(words.contains("to end") && words.contains("nothing to do"), "{words}");
    assert_eq!(first.wait().unwrap().code(), Some(1));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("volume mail: cancelled"), "{rest}");
}
