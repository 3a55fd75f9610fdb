//! Two at once: the locks, the signals and the orders between real processes.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use virt_unlock::cancel::poll_readable;

use crate::program::{Place, WHOLE, is_there, needs_root};

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// What a process says, as it comes.
struct Said(File);

impl Said {
    /// Reads until it says these words.
    fn until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(words) {
            let ready = poll_readable(&[self.0.as_fd()], Some(LIMIT)).unwrap();
            assert!(ready[0], "it never said {words:?}: {seen}");
            let mut piece = [0; 4096];
            let count = self.0.read(&mut piece).unwrap_or(0);
            assert!(count > 0, "ended before it said {words:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        seen
    }
}

/// A process that does not outlive the test.
struct Run(Child);

impl Run {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn status(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // By SIGTERM, so that it withdraws its question. One that was waited for is gone already.
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// In the /run of another one.
fn beside(first: &Run, place: &Place, args: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", first.0.id())).arg(WHOLE);
    command.arg("--config").arg(place.config()).args(args.split_whitespace());
    command.stdin(Stdio::null());
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
    // As nohup(1) begins it, whatever ignored signals the tests themselves were begun with.
    let script = r#"trap '' HUP; mount -t tmpfs tmpfs /run && exec env --default-signal=INT "$0" "$@""#;
    let mut first = Run(place.in_shell(script, WHOLE, "up").stderr(Stdio::piped()).spawn().unwrap());
    let mut said = Said(File::from(OwnedFd::from(first.0.stderr.take().unwrap())));
    said.until("asks: ");
    let signals = fs::read_to_string(format!("/proc/{}/status", first.0.id())).unwrap();
    let caught = signals.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    assert_eq!(caught & 0b11, 0b10, "it hears SIGINT, and not SIGHUP: {caught:x}");

    // At a terminal too, where a layer's wait stands below: this one has no layer.
    let pty = openpty(None, None).unwrap();
    let mut command = beside(&first, &place, "up");
    let mut second = Run(command
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave)
        .spawn()
        .unwrap());
    let mut seen = Said(File::from(pty.master));
    let words = seen.until("to let go");
    let whom = format!("waiting for `virt-unlock up` (process {})", first.0.id());
    assert!(words.contains(&whom), "{words}");
    second.signal(Signal::SIGTERM);
    seen.until("cancelled; nothing was changed");
    assert_eq!(second.status(), Some(1));

    let down = beside(&first, &place, "down").output().unwrap();
    let words = String::from_utf8(down.stderr).unwrap();
    assert_eq!(down.status.code(), Some(0), "{words}");
    assert!(words.contains("to end") && words.contains("nothing to do"), "{words}");
    said.until("volume mail: cancelled");
    assert_eq!(first.status(), Some(1));
}

#[test]
fn a_unit_of_one_name_lets_a_person_go_first_and_no_other_of_its_kind() {
    needs_root!();
    if !is_there("systemd-ask-password") {
        println!("skipped: needs systemd-ask-password");
        return;
    }
    let place = Place::with_volume("noauto = true\n");
    let say = |mut command: Command| {
        let mut run = Run(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let said = Said(File::from(OwnedFd::from(run.0.stderr.take().unwrap())));
        (run, said)
    };
    let script = r#"mount -t tmpfs tmpfs /run && exec "$0" "$@""#;
    let (mut first, mut said) = say(place.in_shell(script, WHOLE, "service named up -- mail"));
    said.until("asks: ");
    let (mut other, mut waits) = say(beside(&first, &place, r"service named up -- m\x61il"));
    waits.until(&format!("waiting for virt-unlock@mail.service (process {})", first.0.id()));
    // As a stop of that unit: it was not up, and has nothing to take down.
    other.signal(Signal::SIGTERM);
    waits.until("mail is not up: it was stopped while it was being brought up; nothing was changed");
    assert_eq!(other.status(), Some(0));

    // Without names nobody asks for it.
    let up = beside(&first, &place, "up").output().unwrap();
    let words = String::from_utf8(up.stderr).unwrap();
    assert!(words.contains("nothing to do"), "{words}");
    said.until("asks: ");
    let (mut person, mut asked) = say(beside(&first, &place, "up mail"));
    asked.until("asks: ");
    person.signal(Signal::SIGTERM);
    assert_eq!(person.status(), Some(1));
    // It has asked once, and let go without a word of its own being lost: now it asks again.
    said.until("asks: ");

    // A way down ends it, and that is a start that failed.
    let down = beside(&first, &place, "down").output().unwrap();
    assert_eq!(down.status.code(), Some(0));
    said.until("mail is not up: a way down ended its way up; nothing was changed");
    assert_eq!(first.status(), Some(1));

    let wrong = place.run("service named up -- nobody");
    assert_eq!(wrong.status, 2);
    assert!(
        wrong.err.contains("no guest named \"nobody\"; known are: mail"),
        "{}",
        wrong.err
    );
    // What is gone is down.
    assert_eq!(place.run("service named down -- nobody").status, 0);
    assert_eq!(place.run("service named down").status, 2);
}
