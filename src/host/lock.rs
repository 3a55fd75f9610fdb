//! One process at a time at the volumes, and one at the domains. Who waits says for whom, and may ask the holder to let go:
//! a person at a terminal takes over what a service has begun, and the way down ends a way up.
//!
//! Record locks of fcntl(2): the kernel tells who holds one (`F_GETLK`), and takes it back however that process ends.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;

use crate::cancel::Cancel;

/// Where the locks lie.
pub const FOLDER: &str = "/run/virt-unlock";
/// When a holder that was to let go, and still holds, is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often somebody who waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long one that is asked to let go has for the step that it is at.
pub const YIELDS: Duration = Duration::from_secs(10);

/// Nobody else's: who may only read a file may take a shared lock on it all the same, and keep us from ours for ever.
const MODE: u32 = 0o600;

/// What a lock guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Volumes and their mounts.
    Volumes,
    /// Pools and domains.
    Guests,
    /// The question that is open: one on the whole host.
    Question,
    /// Changes of LUKS headers; opening goes on beside them, for libcryptsetup has locks of its own.
    Headers,
}

impl Part {
    fn file(self) -> &'static str {
        match self {
            Self::Volumes => "volumes.lock",
            Self::Guests => "guests.lock",
            Self::Question => "question.lock",
            Self::Headers => "headers.lock",
        }
    }
}

/// What the holder is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it is waited for.
    Patience,
    /// To let go for a while, if it is a service (`SIGUSR1`). It goes on afterwards.
    Yield,
    /// The same for those services alone that work on everything (`SIGURG`): two that work on one name each would take the lock from
    /// each other for ever.
    YieldToName,
    /// To let go for a while, and if it has not done so when [`YIELDS`] is over, to end its way up: a person at a terminal may leave
    /// a question open, and a way down cannot wait for that.
    YieldOrEnd,
    /// To end its way up (`SIGUSR2`).
    End,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: i32,
    /// What it says of itself.
    pub what: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.what, self.pid)
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Cancelled while it was waited for.
    #[error("cancelled")]
    Cancelled,
    /// The file system says no.
    #[error("cannot lock {}: {error}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

/// A lock, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of `part` in `folder`; `what` says to others who has it. While it is somebody else's, `say` hears of each new
/// holder, and that one gets the demand: once for each time that it comes to hold it.
///
/// Who wants the lock takes a second one first, the turnstile: so who let go at somebody's demand cannot be faster than that one.
///
/// # Errors
/// When cancelled, or when the file cannot be made or locked.
pub fn acquire(
    folder: &Path,
    part: Part,
    what: &str,
    demand: Demand,
    say: impl FnMut(&Holder),
    cancel: &Cancel,
) -> Result<Lock, LockError> {
    acquire_within(folder, part, what, demand, YIELDS, say, cancel)
}

fn acquire_within(
    folder: &Path,
    part: Part,
    what: &str,
    demand: Demand,
    yields: Duration,
    mut say: impl FnMut(&Holder),
    cancel: &Cancel,
) -> Result<Lock, LockError> {
    let path = folder.join(part.file());
    let wrap = |error| LockError::Io {
        path: path.clone(),
        error,
    };
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(wrap)?;
    let mut file = open(&path).map_err(wrap)?;
    let turnstile = open(&path.with_extension("next")).map_err(wrap)?;
    let mut asked: [Option<Asked>; 2] = [None, None];
    let mut through = false;
    loop {
        through = through || try_lock(&turnstile).map_err(wrap)?;
        if through && try_lock(&file).map_err(wrap)? {
            break;
        }
        for (locked, asked) in [&file, &turnstile].into_iter().zip(&mut asked) {
            // One that stood at the turnstile before this one, and then came to hold the lock, is asked again.
            let Some(pid) = holder(locked) else {
                *asked = None;
                continue;
            };
            match asked {
                Some(asked) if asked.pid == pid => asked.insist(demand, yields),
                _ => {
                    say(&Holder {
                        pid,
                        what: describe(&path, pid),
                    });
                    send(pid, demand);
                    *asked = Some(Asked {
                        pid,
                        since: Instant::now(),
                        insisted: false,
                    });
                }
            }
        }
        if cancel.wait(LOOK_AGAIN) {
            return Err(LockError::Cancelled);
        }
    }
    // Words only; a lock without them is as good.
    let _ = file.set_len(0).and_then(|()| write!(file, "{} {what}", std::process::id()));
    Ok(Lock { _file: file })
}

/// A holder that was asked.
struct Asked {
    pid: i32,
    since: Instant,
    insisted: bool,
}

impl Asked {
    /// It still holds the lock.
    fn insist(&mut self, demand: Demand, yields: Duration) {
        match demand {
            Demand::YieldOrEnd if !self.insisted && self.since.elapsed() >= yields => {
                send(self.pid, Demand::End);
                self.insisted = true;
            }
            // It may have let go and come back between two looks, and then it was not asked since.
            Demand::Yield | Demand::YieldToName if self.since.elapsed() >= ASK_AGAIN => {
                send(self.pid, demand);
                self.since = Instant::now();
            }
            _ => {}
        }
    }
}

/// Who holds the lock of `part` now, if anybody does; an ordinary user may ask too. Not for a process that holds a lock itself:
/// closing the file would let it go.
pub fn held_by(folder: &Path, part: Part) -> Option<Holder> {
    let path = folder.join(part.file());
    let pid = match File::open(&path) {
        Ok(file) => holder(&file)?,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let found = fs::metadata(&path).ok()?;
            listed_holder(&fs::read_to_string("/proc/locks").ok()?, found.dev(), found.ino())?
        }
        Err(_) => return None,
    };
    Some(Holder {
        pid,
        what: describe(&path, pid),
    })
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
        .open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

/// The whole file, for writing.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the constants are smaller than the field that they are made for"
)]
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn holder(file: &File) -> Option<i32> {
    let mut found = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut found)).ok()?;
    (i32::from(found.l_type) != libc::F_UNLCK && found.l_pid > 0).then_some(found.l_pid)
}

/// Who holds a lock on the file of this device and number, by the kernel's list (`proc_locks(5)`):
/// `1: POSIX  ADVISORY  WRITE 4711 00:1a:1234 0 EOF`.
fn listed_holder(list: &str, device: u64, number: u64) -> Option<i32> {
    let file = format!("{:02x}:{:02x}:{number}", major(device), minor(device));
    list.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // A second word of "->" is one that waits.
            [_, "POSIX", _, "WRITE", pid, at, ..] if at == file => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

/// What the holder wrote, where it is this one that wrote it; else its command line.
fn describe(path: &Path, pid: i32) -> String {
    let written = fs::read_to_string(path).unwrap_or_default();
    if let Some((who, what)) = written.split_once(' ')
        && who == pid.to_string()
    {
        return what.to_owned();
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    match words.first() {
        Some(_) => String::from_utf8_lossy(&words.join(&b' ')).into_owned(),
        None => "another run".to_owned(),
    }
}

fn send(pid: i32, demand: Demand) {
    let signal = match demand {
        Demand::Patience => return,
        Demand::Yield | Demand::YieldOrEnd => Signal::SIGUSR1,
        // Who does not know it is not harmed by it.
        Demand::YieldToName => Signal::SIGURG,
        Demand::End => Signal::SIGUSR2,
    };
    // Whoever holds a lock handles these signals from before it has it. One that ended meanwhile needs no asking.
    let _ = kill(Pid::from_raw(pid), signal);
    if demand == Demand::End {
        // One that was stopped by its terminal (Ctrl+Z) hears nothing before it goes on.
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
}

#[cfg(test)]
mod tests;
