//! What the service manager and the console of a booting host show.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use sd_notify::NotifyState;

use super::lines::Line;
use super::{Board, Sink, Verbosity};
use crate::event::{Event, Happened, Outcome};

/// Where systemd-ask-password puts questions (<https://systemd.io/PASSWORD_AGENTS>).
const QUESTIONS: &str = "/run/systemd/ask-password";

/// The line that `systemctl status` shows (`STATUS=`, `sd_notify(3)`).
pub(super) struct StatusLine;

impl Sink for StatusLine {
    fn show(&mut self, _event: &Event, board: &Board) {
        // No service manager, nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Status(&board.summary())]);
    }
}

/// What was done and what failed, on the console: the person who just typed there wants to see it, and so does one who watches a
/// shutdown. While a question is open it is left to the question, as systemd does with its own messages; the journal has it all.
pub(super) struct Console;

impl Sink for Console {
    fn show(&mut self, event: &Event, _board: &Board) {
        let line = Line::of(event);
        // What was cancelled goes on elsewhere: a terminal has taken over, or a shutdown.
        let worth_it = match &event.happened {
            Happened::Ended(Outcome::Cancelled) => false,
            Happened::Ended(_) | Happened::Warning(_) => line.needs <= Verbosity::Normal,
            _ => false,
        };
        if !worth_it || is_question_open() {
            return;
        }
        // Not to become the terminal of this service, and not to wait where nobody reads the line.
        let console = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open("/dev/console");
        // In one piece, so that nothing of others comes between.
        let text = format!("virt-unlock: {}\r\n", line.text);
        let _ = console.and_then(|mut console| console.write_all(text.as_bytes()));
    }
}

fn is_question_open() -> bool {
    fs::read_dir(QUESTIONS).is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"ask."))
    })
}
