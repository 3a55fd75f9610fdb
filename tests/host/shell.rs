//! The tests' root shell on ttyS1: a command goes over, its output and exit status come back.

use super::{
    patience,
    tape::{Missed, Tape},
};
use std::{
    fmt,
    fs::File,
    io::Write,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What one request may be long; the line discipline of the host holds no more of a line that nobody reads yet.
const LONGEST: usize = 3000;
/// What the line itself may need beyond the command's own limit.
const GRACE: Duration = Duration::from_secs(15);

/// The shell of a running host.
pub struct Shell {
    tape: Arc<Tape>,
    line: Mutex<Line>,
}

struct Line {
    requests: UnixStream,
    log: File,
    next: u32,
    read_to: usize,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 124 when the time limit ended it.
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "exit status {}\n{}", self.status, self.text)
    }
}

impl Shell {
    pub(super) fn new(tape: Arc<Tape>, requests: UnixStream, log: File) -> Self {
        Self {
            tape,
            line: Mutex::new(Line {
                requests,
                log,
                next: 1,
                read_to: 0,
            }),
        }
    }

    /// Waits until the shell answers at all.
    pub fn ready(&self, limit: Duration) -> Result<(), Missed> {
        self.tape.wait(patience(limit), |record| {
            record.text().contains("\u{1e}ready 0\n").then_some(())
        })
    }

    /// Waits until it answers once more: the host has booted another kernel by itself.
    pub fn ready_again(&self, limit: Duration) -> Result<(), Missed> {
        let from = self.line.lock().unwrap_or_else(PoisonError::into_inner).read_to;
        self.tape.wait(patience(limit), |record| {
            record.text()[from..].contains("\u{1e}ready 0\n").then_some(())
        })
    }

    /// Runs `command` in bash, ended after `limit`.
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output, String> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = patience(limit);
        let request = format!(
            "{} {} {}\n",
            line.next,
            limit.as_secs().max(1),
            command.replace('\\', "\\\\").replace('\n', "\\n")
        );
        if request.len() > LONGEST {
            return Err(format!(
                "the command has {} bytes, {LONGEST} is the most: put it into a file",
                request.len()
            ));
        }
        line.requests
            .write_all(request.as_bytes())
            .map_err(|error| format!("cannot ask the shell: {error}"))?;
        let from = line.read_to;
        let head = format!("\u{1e}{} ", line.next);
        line.next += 1;
        let answer = self.tape.wait(limit + GRACE, |record| {
            let text = &record.text()[from..];
            let end = text.find(&head)?;
            let status = &text[end + head.len()..];
            let length = status.find('\n')?;
            Some((
                text[..end].to_owned(),
                status[..length].to_owned(),
                from + end + head.len() + length + 1,
            ))
        });
        let (mut text, status, read_to) = answer.map_err(|missed| match missed {
            Missed::Late => format!("no answer to {command:?} within {limit:?}"),
            Missed::Ended => format!("the host went off during {command:?}"),
        })?;
        line.read_to = read_to;
        if let Some(ready) = text.find("\u{1e}ready 0\n") {
            text.drain(..ready + "\u{1e}ready 0\n".len());
        }
        let status = status.parse().map_err(|_| format!("an unreadable exit status {status:?}"))?;
        let _ = writeln!(line.log, "$ {command}\n{text}[{status}]");
        Ok(Output { status, text })
    }
}
