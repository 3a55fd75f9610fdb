//! The run of another program, bounded and cancellable: fed through its standard input, heard through its output, killed when
//! nobody waits for it any more.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cancel::{Cancel, poll_readable};

/// How much of each output is kept where nothing else is said, in bytes; what comes after is read and dropped, so that the child never blocks on it.
const KEPT: usize = 64 << 10;
/// How long a killed child may take to be gone: one in an uninterruptible sleep (a device that hangs) is left behind after that.
const DYING: Duration = Duration::from_secs(5);

/// A child process in a process group of its own: Ctrl+C at the terminal does not reach it, and what it starts dies with it.
/// Killed when dropped.
pub struct Child {
    process: std::process::Child,
    end: Option<OwnedFd>,
    reaped: bool,
    kept: usize,
}

/// How a child ended, and what it said. Output that is a secret must not be heard this way: it is not wiped.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of its standard output, where that was piped.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error, where that was piped.
    pub stderr: Vec<u8>,
}

/// Why a child did not come to its own end. It was killed, and is gone unless the kernel holds it.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// The limit was over.
    #[error("it did not end in time")]
    TimedOut,
    /// Waiting itself did not work.
    #[error("cannot wait for a child process: {0}")]
    Failed(#[from] io::Error),
}

impl Child {
    /// Starts `command`. Whatever of its three streams the caller made a pipe is served by [`Child::wait`].
    ///
    /// # Errors
    /// When it cannot be started, or there is no file descriptor to wait for it by (`pidfd_open(2)`, Linux 5.3).
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let process = command.process_group(0).spawn()?;
        let mut child = Self {
            process,
            end: None,
            reaped: false,
            kept: KEPT,
        };
        child.end = Some(pidfd(child.process.id())?);
        Ok(child)
    }

    /// Keeps so many bytes of each of its outputs.
    #[must_use]
    pub fn keeping(mut self, bytes: usize) -> Self {
        self.kept = bytes;
        self
    }

    /// Its process number. It stays its own until [`Child::wait`] returns.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its standard output, which [`Child::wait`] then leaves alone: for what is a secret. Nothing may come there that is more than a
    /// pipe holds (64 KiB, pipe(7)): nobody reads it before the child has ended.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    /// Feeds it `input`, one piece after the other, and its end of file; then waits for its end. A child that does not read all of
    /// its input is no error.
    ///
    /// # Errors
    /// When `cancel` is raised or `limit` is over (`None`: for ever) before it has ended; it is killed then.
    pub fn wait(mut self, input: &[&[u8]], limit: Option<Duration>, cancel: &Cancel) -> Result<Output, Interrupted> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut feed = Feed::new(self.process.stdin.take(), input)?;
        let mut stdout: Tap<ChildStdout> = Tap::new(self.process.stdout.take(), self.kept)?;
        let mut stderr: Tap<ChildStderr> = Tap::new(self.process.stderr.take(), self.kept)?;
        loop {
            feed.push()?;
            let end = self.end.as_ref().ok_or(Errno::EBADF).map_err(io::Error::from)?;
            let woken = wait_for(end.as_fd(), cancel.as_fd(), &feed, &stdout, &stderr, deadline)?;
            // After the look at its end, so that nothing it said before is missed.
            stdout.pull()?;
            stderr.pull()?;
            if woken.ended {
                let status = self.process.wait()?;
                self.reaped = true;
                return Ok(Output {
                    status,
                    stdout: stdout.heard,
                    stderr: stderr.heard,
                });
            }
            if woken.cancelled {
                return Err(Interrupted::Cancelled);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Interrupted::TimedOut);
            }
        }
    }

    fn kill(&mut self) {
        // Its number is still its own: it was not reaped. The group is there once the child runs; until then the child alone.
        let group = i32::try_from(self.process.id()).map(Pid::from_raw);
        if group.map_or(true, |group| killpg(group, Signal::SIGKILL).is_err()) {
            let _ = self.process.kill();
        }
        let gone = match &self.end {
            Some(end) => poll_readable(&[end.as_fd()], Some(DYING)).is_ok_and(|ready| ready[0]),
            None => true,
        };
        if gone {
            let _ = self.process.wait();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
        }
    }
}

/// A descriptor that turns readable when the process has ended.
fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers and no pointers; the process is our own child that nobody has reaped, so the number is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor (close-on-exec, pidfd_open(2)), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[derive(Clone, Copy)]
struct Woken {
    ended: bool,
    cancelled: bool,
}

fn wait_for(
    end: BorrowedFd<'_>,
    cancel: BorrowedFd<'_>,
    feed: &Feed<'_>,
    stdout: &Tap<ChildStdout>,
    stderr: &Tap<ChildStderr>,
    deadline: Option<Instant>,
) -> io::Result<Woken> {
    let reads = [
        Some(end),
        Some(cancel),
        stdout.from.as_ref().map(AsFd::as_fd),
        stderr.from.as_ref().map(AsFd::as_fd),
    ];
    let mut set: Vec<PollFd<'_>> = reads
        .into_iter()
        .flatten()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    set.extend(feed.to.as_ref().map(|to| PollFd::new(to.as_fd(), PollFlags::POLLOUT)));
    let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
        // Rounded up, so that the last part of a millisecond is slept and not spun.
        let millis = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut set, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    Ok(Woken {
        ended: is_ready(&set[0]),
        cancelled: is_ready(&set[1]),
    })
}

/// What still has to be written to the child.
struct Feed<'a> {
    to: Option<ChildStdin>,
    pieces: &'a [&'a [u8]],
    written: usize,
}

impl<'a> Feed<'a> {
    fn new(to: Option<ChildStdin>, pieces: &'a [&'a [u8]]) -> io::Result<Self> {
        if let Some(to) = &to {
            do_not_block(to.as_fd())?;
        }
        Ok(Self { to, pieces, written: 0 })
    }

    /// Writes as much as goes now; closes when all is written, or when nobody reads it.
    fn push(&mut self) -> io::Result<()> {
        while let Some(to) = &mut self.to {
            let Some((piece, rest)) = self.pieces.split_first() else {
                self.to = None;
                break;
            };
            if self.written == piece.len() {
                self.pieces = rest;
                self.written = 0;
                continue;
            }
            match to.write(&piece[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::BrokenPipe => self.to = None,
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// One output of the child.
struct Tap<R> {
    from: Option<R>,
    heard: Vec<u8>,
    kept: usize,
}

impl<R: Read + AsFd> Tap<R> {
    fn new(from: Option<R>, kept: usize) -> io::Result<Self> {
        if let Some(from) = &from {
            do_not_block(from.as_fd())?;
        }
        Ok(Self {
            from,
            heard: Vec::new(),
            kept,
        })
    }

    /// Reads what is there now.
    fn pull(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while let Some(from) = &mut self.from {
            match from.read(&mut buffer) {
                Ok(0) => self.from = None,
                Ok(count) => {
                    let room = self.kept.saturating_sub(self.heard.len()).min(count);
                    self.heard.extend_from_slice(&buffer[..room]);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// Our end of a pipe only: the child's end is another open file description.
fn do_not_block(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use std::thread;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Child::spawn(&mut command).unwrap()
    }

    fn exists(pid: i32) -> bool {
        nix::sys::signal::kill(Pid::from_raw(pid), None).is_ok()
    }

    #[test]
    fn input_goes_in_output_comes_out_more_than_a_pipe_holds() {
        let (cancel, large) = (Cancel::new().unwrap(), vec![b'x'; 1 << 20]);
        let output = shell("head -c 3; echo; wc -c; echo oh >&2; exit 7")
            .wait(&[b"abc", b"", &large], Some(Duration::from_secs(60)), &cancel)
            .unwrap();
        assert_eq!(output.status.code(), Some(7));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.split_whitespace().collect::<Vec<_>>(), ["abc", "1048576"]);
        assert_eq!(output.stderr, b"oh\n");
    }

    #[test]
    fn a_child_that_reads_nothing_and_says_too_much_ends_all_the_same() {
        let (cancel, large) = (Cancel::new().unwrap(), vec![b'x'; 1 << 20]);
        let output = shell("exec <&-; head -c 1000000 /dev/zero")
            .wait(&[&large], Some(Duration::from_secs(60)), &cancel)
            .unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout.len(), KEPT);
    }

    #[test]
    fn who_keeps_the_output_open_does_not_hold_up_the_end() {
        let cancel = Cancel::new().unwrap();
        let output = shell("sleep 600 & echo $!")
            .wait(&[], Some(Duration::from_secs(60)), &cancel)
            .unwrap();
        let sleeper: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(sleeper), Signal::SIGKILL).unwrap();
    }

    /// Looks until `look` finds something.
    fn soon<R>(mut look: impl FnMut() -> Option<R>) -> R {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "it did not come");
            thread::yield_now();
        }
    }

    #[test]
    fn cancelled_it_is_gone_with_what_it_started() {
        let (cancel, folder) = (Cancel::new().unwrap(), tempfile::tempdir().unwrap());
        let noted = folder.path().join("pid");
        let child = shell(&format!("sleep 600 & echo $! > {}; wait", noted.display()));
        let pid = i32::try_from(child.pid()).unwrap();
        let sleeper: i32 = thread::scope(|scope| {
            let waiter = scope.spawn(|| child.wait(&[], None, &cancel));
            let sleeper = soon(|| std::fs::read_to_string(&noted).ok()?.trim().parse().ok());
            cancel.raise();
            assert!(matches!(waiter.join().unwrap(), Err(Interrupted::Cancelled)));
            sleeper
        });
        assert!(!exists(pid));
        // Our grandchild: once it is dead, somebody else has to reap it.
        let is_dead = |stat: String| stat.contains(") Z ").then_some(());
        soon(|| std::fs::read_to_string(format!("/proc/{sleeper}/stat")).map_or(Some(()), is_dead));
    }

    #[test]
    fn at_its_limit_it_is_gone() {
        let child = shell("sleep 600");
        let pid = i32::try_from(child.pid()).unwrap();
        let ended = child.wait(&[], Some(Duration::from_millis(20)), &Cancel::new().unwrap());
        assert!(matches!(ended, Err(Interrupted::TimedOut)), "{ended:?}");
        assert!(!exists(pid));
    }

    #[test]
    fn dropped_it_is_gone() {
        let child = shell("sleep 600");
        let pid = i32::try_from(child.pid()).unwrap();
        drop(child);
        assert!(!exists(pid));
    }
}
