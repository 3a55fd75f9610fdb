//! Terminals, pipes, and what is neither any more.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::process::{Command, Stdio};

use nix::pty::openpty;

use crate::program::{Place, WHOLE, controls, needs_root};

const TEST_GUEST: &str = "[domain.test]\nvolumes = [\"mail\"]\n";
const WRONG: &str = "[host]\ntypo = 1\n";

/// What a program writes to a terminal.
fn on_terminal(command: &mut Command) -> String {
    let pty = openpty(None, None).unwrap();
    let mut child = command
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave)
        .spawn()
        .unwrap();
    // The command holds the slave too, and the terminal only ends with the last of them.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut seen = Vec::new();
    // EIO: nobody has the terminal open any more (pty(7)).
    let _ = File::from(pty.master).read_to_end(&mut seen);
    child.wait().unwrap();
    String::from_utf8(seen).unwrap()
}

#[test]
fn what_is_no_terminal_gets_no_escape_sequence() {
    needs_root!();
    let place = Place::with_volume(TEST_GUEST);
    for verb in ["plan", "status", "check", "--help", "plan nobody", "nonsense", "down -v"] {
        let ran = place.run(verb);
        assert_eq!(controls(&(ran.out + &ran.err)), "", "{verb}");
    }
    assert_eq!(controls(&Place::new(WRONG).run("plan").err), "");
}

#[test]
fn a_terminal_gets_colour_unless_it_is_not_wanted() {
    needs_root!();
    let (place, wrong) = (Place::with_volume(TEST_GUEST), Place::new(WRONG));
    for (place, verb) in [
        (&place, "plan"),
        (&place, "status"),
        (&place, "check"),
        (&place, "plan nobody"),
        (&wrong, "plan"),
    ] {
        let coloured = on_terminal(&mut place.command(WHOLE, verb));
        assert!(coloured.contains("\x1b["), "{verb}: {coloured}");
        for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = on_terminal(place.command(WHOLE, verb).env(name, value));
            assert!(!plain.is_empty() && !plain.contains('\x1b'), "{verb}: {plain}");
        }
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    needs_root!();
    let place = Place::with_volume(TEST_GUEST);
    for (verb, status) in [
        ("status", 1),
        ("status --json", 1),
        ("plan", 0),
        ("plan --json", 0),
        ("plan --dot", 0),
        ("check", 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = place
            .command(WHOLE, verb)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = child.wait_with_output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!((ended.status.code(), err.as_str()), (Some(status), ""), "{verb}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    needs_root!();
    let place = Place::with_volume("");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = place
        .command(WHOLE, "plan")
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(3), "{err}");
    assert!(err.contains("cannot be written to standard output"), "{err}");
}

#[test]
fn a_terminal_that_went_away_ends_nothing() {
    needs_root!();
    for (config, verb, status) in [(WRONG, "plan", 2), ("", "down", 0)] {
        let pty = openpty(None, None).unwrap();
        let place = Place::new(config);
        let mut child = place
            .command(WHOLE, verb)
            .stdout(Stdio::null())
            .stderr(dead(pty))
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status), "{verb}");
    }
}

/// A terminal whose other side is closed: each write to it is EIO.
fn dead(pty: nix::pty::OpenptyResult) -> std::os::fd::OwnedFd {
    drop(pty.master);
    let error = std::io::Write::write_all(&mut File::from(pty.slave.try_clone().unwrap()), b"x").unwrap_err();
    assert_ne!(error.kind(), ErrorKind::BrokenPipe);
    pty.slave
}
