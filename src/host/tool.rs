//! A program of the system that is run gently: asked to end before it is killed, because it has something to clean up (a
//! question that it put, a filesystem that it writes to). It never outlives the thread that started it.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::cancel::{Cancel, poll_readable};
use crate::monitor::Ended;

/// How much of what a program says is kept, in bytes: the end of it.
const KEPT: usize = 16 << 10;
/// How long a killed program may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// A running program. Dropping it ends it.
pub(super) struct Tool {
    process: Child,
    end: OwnedFd,
    grace: Duration,
    status: Option<ExitStatus>,
}

impl Tool {
    /// Starts `command`. When it is to be ended it has `grace` to do so by itself after a SIGTERM.
    /// It gets that signal too when the thread that calls this dies (`PR_SET_PDEATHSIG`, prctl(2)): call it where it is waited for.
    pub(super) fn spawn(command: &mut Command, grace: Duration) -> io::Result<Self> {
        let parent = Pid::this();
        let follow = move || {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            // Our parent may have died before that call: then no signal comes any more.
            if getppid() == parent {
                Ok(())
            } else {
                Err(Errno::ESRCH.into())
            }
        };
        // SAFETY: between fork and exec it calls prctl(2) and getppid(2) alone, which are async-signal-safe, and allocates nothing.
        let mut process = unsafe { command.pre_exec(follow) }.spawn()?;
        match pidfd(process.id()) {
            Ok(end) => Ok(Self {
                process,
                end,
                grace,
                status: None,
            }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// The program, for its pipes.
    pub(super) fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    /// Waits for its end. It goes on when `cancel` is raised or `limit` is over (`None`: for ever): dropping it ends it.
    pub(super) fn wait(&mut self, limit: Option<Duration>, cancel: &Cancel) -> Result<ExitStatus, Ended> {
        match poll_readable(&[self.end.as_fd(), cancel.as_fd()], limit) {
            Ok(ready) if ready[0] => self.reap().ok_or(Ended::Cancelled),
            Ok(ready) if !ready[1] => Err(Ended::TimedOut),
            // Where it cannot be waited for it is not left alone either: as if cancelled.
            _ => Err(Ended::Cancelled),
        }
    }

    /// Ends it: SIGTERM, and SIGKILL when its grace is over.
    pub(super) fn stop(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.signal(Signal::SIGTERM);
        // One that was stopped by its terminal hears nothing before it goes on.
        self.signal(Signal::SIGCONT);
        if !poll_readable(&[self.end.as_fd()], Some(self.grace)).is_ok_and(|ready| ready[0]) {
            self.signal(Signal::SIGKILL);
        }
        self.reap();
    }

    /// One in an uninterruptible sleep (a disk that hangs) is left behind after a moment.
    fn reap(&mut self) -> Option<ExitStatus> {
        let is_gone = || poll_readable(&[self.end.as_fd()], Some(DYING)).is_ok_and(|ready| ready[0]);
        if self.status.is_none() && is_gone() {
            self.status = self.process.wait().ok();
        }
        self.status
    }

    fn signal(&self, signal: Signal) {
        // Its number is still its own: it was not reaped.
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How a program ended, and the end of what it said on standard output and standard error.
pub(super) struct Said {
    pub(super) status: ExitStatus,
    pub(super) words: String,
}

/// Why a program did not come to its own end.
#[derive(Debug)]
pub(super) enum Failed {
    /// It could not be started, or not be heard.
    Io(io::Error),
    /// Cancelled, or over its limit. It is gone.
    Ended(Ended),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs a program that asks nothing, out of reach of the terminal's Ctrl+C: that is for us to hear.
pub(super) fn run(mut command: Command, limit: Option<Duration>, grace: Duration, cancel: &Cancel) -> Result<Said, Failed> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let (mut from, to) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(to.try_clone()?)
        .stderr(to)
        .process_group(0);
    // Words are looked at, and the C locale's are the ones that are known.
    command.env("LC_ALL", "C");
    let mut tool = Tool::spawn(&mut command, grace)?;
    // It holds our copies of the pipe's other end: with them the pipe would never come to its end.
    drop(command);
    let mut words = Vec::new();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = poll_readable(&[from.as_fd(), tool.end.as_fd(), cancel.as_fd()], left)?;
        // One that speaks without end is ended all the same.
        if !ready[1] && ready[2] {
            return Err(Failed::Ended(Ended::Cancelled));
        }
        if !ready[1] && left.is_some_and(|left| left.is_zero()) {
            return Err(Failed::Ended(Ended::TimedOut));
        }
        // What the program left in the pipe is read first, then its end is looked at.
        if ready[0] && hear(&mut from, &mut words)? > 0 {
            continue;
        }
        if ready[0] || ready[1] {
            // Its output is closed, or it has ended (and one that it started holds the pipe still): nothing more to hear.
            let status = tool.wait(left, cancel).map_err(Failed::Ended)?;
            let words = String::from_utf8_lossy(&words).into_owned();
            return Ok(Said { status, words });
        }
    }
}

fn hear(from: &mut PipeReader, words: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 4096];
    let count = from.read(&mut piece)?;
    words.extend_from_slice(&piece[..count]);
    words.drain(..words.len().saturating_sub(KEPT));
    Ok(count)
}

/// The last line that says something.
pub(super) fn last_line(words: &str) -> &str {
    words
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default()
}

/// A descriptor that turns readable when the process has ended.
fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers and no pointers; the process is our own child that nobody has reaped, so the number is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor (close-on-exec, pidfd_open(2)), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn hears_both_outputs_and_the_status() {
        let cancel = Cancel::new().unwrap();
        let said = run(shell("echo one; echo two >&2; exit 4"), Some(GRACE), GRACE, &cancel).unwrap();
        assert_eq!((said.status.code(), said.words.as_str()), (Some(4), "one\ntwo\n"));
    }

    #[test]
    fn keeps_the_end_of_a_long_speech() {
        let cancel = Cancel::new().unwrap();
        let said = run(shell("seq 100000; echo end"), Some(GRACE), GRACE, &cancel).unwrap();
        assert_eq!(said.words.len(), KEPT);
        assert_eq!(last_line(&said.words), "end");
    }

    /// Starts a script that says "ready" when it is, and is heard till then.
    fn ready(script: &str, grace: Duration) -> Tool {
        let mut command = shell(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tool = Tool::spawn(&mut command, grace).unwrap();
        let mut line = [0; 6];
        tool.process().stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        tool
    }

    #[test]
    fn one_that_is_ended_may_clean_up() {
        let dir = tempfile::tempdir().unwrap();
        let cleaned = dir.path().join("cleaned");
        let script = format!(
            "trap 'kill $!; echo > {}; exit 0' TERM; sleep 3600 >/dev/null 2>&1 & echo ready; wait",
            cleaned.display()
        );
        let mut tool = ready(&script, GRACE);
        tool.stop();
        assert!(cleaned.exists());
        assert_eq!(tool.status.and_then(|status| status.code()), Some(0));
    }

    #[test]
    fn one_that_is_deaf_is_killed() {
        let mut tool = ready("trap '' TERM; echo ready; read line", Duration::from_millis(20));
        tool.stop();
        assert_eq!(tool.status.map(|status| status.code()), Some(None));
    }

    #[test]
    fn a_raised_flag_ends_it() {
        let cancel = Cancel::new().unwrap();
        cancel.raise();
        let ended = run(shell("exec sleep 3600"), None, GRACE, &cancel).map(|said| said.words);
        assert!(matches!(ended, Err(Failed::Ended(Ended::Cancelled))));
    }
}
