//! One process at a time at the volumes, and one at the domains. Who waits says for whom, and may ask the holder to let go:
//! a person at a terminal takes over what a service has begun, and the way down ends a way up.
//!
//! Record locks of fcntl(2): the kernel tells who holds one (`F_GETLK`), and takes it back however that process ends.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;

use crate::cancel::Cancel;

/// Where the locks lie.
pub const FOLDER: &str = "/run/virt-unlock";
/// How often somebody who waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Nobody else's: who may only read a file may take a shared lock on it all the same, and keep us from ours for ever.
const MODE: u32 = 0o600;

/// What a lock guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Volumes and their mounts.
    Volumes,
    /// Pools and domains.
    Guests,
}

impl Part {
    fn file(self) -> &'static str {
        match self {
            Self::Volumes => "volumes.lock",
            Self::Guests => "guests.lock",
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
    let mut asked = [None, None];
    let mut through = false;
    loop {
        through = through || try_lock(&turnstile).map_err(wrap)?;
        if through && try_lock(&file).map_err(wrap)? {
            break;
        }
        for (locked, asked) in [&file, &turnstile].into_iter().zip(&mut asked) {
            // One that stood at the turnstile before this one, and then came to hold the lock, is asked again.
            let now = holder(locked);
            if let Some(pid) = now.filter(|_| now != *asked) {
                say(&Holder {
                    pid,
                    what: describe(&path, pid),
                });
                send(pid, demand);
            }
            *asked = now;
        }
        if cancel.wait(LOOK_AGAIN) {
            return Err(LockError::Cancelled);
        }
    }
    // Words only; a lock without them is as good.
    let _ = file.set_len(0).and_then(|()| write!(file, "{} {what}", std::process::id()));
    Ok(Lock { _file: file })
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
        Demand::Yield => Signal::SIGUSR1,
        Demand::End => Signal::SIGUSR2,
    };
    // Whoever holds a lock handles both signals from before it has it. One that ended meanwhile needs no asking.
    let _ = kill(Pid::from_raw(pid), signal);
    if demand == Demand::End {
        // One that was stopped by its terminal (Ctrl+Z) hears nothing before it goes on.
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::SigSet;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    fn take(folder: &Path, cancel: &Cancel, seen: &mut Vec<Holder>) -> Result<Lock, LockError> {
        acquire(
            folder,
            Part::Volumes,
            "a test",
            Demand::Patience,
            |holder| seen.push(holder.clone()),
            cancel,
        )
    }

    #[test]
    fn a_lock_of_another_process_is_waited_for_by_name_and_gone_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (cancel, ready) = (Cancel::new().unwrap(), Cancel::new().unwrap());
        // SAFETY: the child only locks, waits for the signal that ends it, and leaves by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let held = take(folder.path(), &cancel, &mut Vec::new());
                ready.raise();
                cancel.wait(Duration::from_secs(600));
                drop(held);
                // SAFETY: ends the forked child without running the parent's destructors.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                assert!(ready.wait(Duration::from_secs(60)));
                let holder = held_by(folder.path(), Part::Volumes).unwrap();
                assert_eq!((holder.pid, holder.what.as_str()), (child.as_raw(), "a test"));

                let mut seen = Vec::new();
                let stop = Cancel::new().unwrap();
                stop.raise();
                assert!(matches!(take(folder.path(), &stop, &mut seen), Err(LockError::Cancelled)));
                assert_eq!(seen.len(), 1);

                kill(child, Signal::SIGKILL).unwrap();
                waitpid(child, None).unwrap();
                assert!(take(folder.path(), &Cancel::new().unwrap(), &mut seen).is_ok());
            }
        }
    }

    /// A child stands at the turnstile, is asked for that, and then comes to hold the lock: it must be asked once more, or who
    /// waits would wait for ever for one that would let go.
    #[test]
    fn one_that_comes_to_hold_the_lock_is_asked_again() {
        const ASKED_TWICE: i32 = 7;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volumes.lock");
        let ready = Cancel::new().unwrap();
        let mut usr1 = SigSet::empty();
        usr1.add(Signal::SIGUSR1);
        // SAFETY: the child only locks, waits for signals, and leaves by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let limit = libc::timespec { tv_sec: 10, tv_nsec: 0 };
                // SAFETY: both point to values that outlive the call; no information on the signal is wanted.
                let asked = || unsafe { libc::sigtimedwait(usr1.as_ref(), std::ptr::null_mut(), &raw const limit) } > 0;
                let (lock, turnstile) = (open(&path).unwrap(), open(&path.with_extension("next")).unwrap());
                let mut as_told = usr1.thread_block().is_ok() && try_lock(&turnstile).unwrap();
                ready.raise();
                as_told &= asked() && try_lock(&lock).unwrap();
                drop(turnstile);
                as_told &= asked();
                // SAFETY: ends the forked child without running the parent's destructors.
                unsafe { libc::_exit(if as_told { ASKED_TWICE } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                assert!(ready.wait(Duration::from_secs(60)));
                let cancel = Cancel::new().unwrap();
                let lock = acquire(folder.path(), Part::Volumes, "a test", Demand::Yield, |_| (), &cancel);
                assert!(lock.is_ok());
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, ASKED_TWICE));
            }
        }
    }

    /// Ctrl+Z at a `virt-unlock up`, and then a shutdown.
    #[test]
    fn one_that_its_terminal_stopped_ends_when_it_is_to() {
        let folder = tempfile::tempdir().unwrap();
        let (cancel, ready) = (Cancel::new().unwrap(), Cancel::new().unwrap());
        // SAFETY: the child only locks and stops, and is ended by the signal.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let _held = take(folder.path(), &cancel, &mut Vec::new());
                let _ = nix::sys::signal::raise(Signal::SIGSTOP);
                cancel.wait(Duration::from_secs(600));
                // SAFETY: ends the forked child without running the parent's destructors.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let stopped = waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
                assert_eq!(stopped, WaitStatus::Stopped(child, Signal::SIGSTOP));
                let acquired = std::thread::scope(|scope| {
                    let watch = scope.spawn(|| {
                        !ready.wait(Duration::from_secs(20)) && {
                            cancel.raise();
                            true
                        }
                    });
                    let lock = acquire(folder.path(), Part::Volumes, "a test", Demand::End, |_| (), &cancel);
                    ready.raise();
                    let _ = kill(child, Signal::SIGKILL);
                    !watch.join().unwrap() && lock.is_ok()
                });
                waitpid(child, None).unwrap();
                assert!(acquired, "it was never heard");
            }
        }
    }

    /// Who may open the file for reading may take a shared lock on it, and keep everybody else from theirs for ever.
    #[test]
    fn nobody_else_can_open_a_lock_file() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, next) = (folder.path().join("volumes.lock"), folder.path().join("volumes.next"));
        for file in [&lock, &next] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        for _ in 0..2 {
            let _lock = take(folder.path(), &Cancel::new().unwrap(), &mut Vec::new()).unwrap();
            for file in [&lock, &next] {
                assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
            }
            fs::remove_file(&next).unwrap();
        }
    }

    #[test]
    fn the_kernel_s_list_tells_who_holds_a_lock() {
        let list = "1: FLOCK  ADVISORY  WRITE 7 00:1a:1234 0 EOF\n\
                    2: POSIX  ADVISORY  WRITE 8 00:1a:12345 0 EOF\n\
                    3: POSIX  ADVISORY  WRITE 9 00:1a:1234 0 EOF\n\
                    3: -> POSIX  ADVISORY  WRITE 10 00:1a:99 0 EOF\n";
        let device = nix::sys::stat::makedev(0, 0x1a);
        assert_eq!(listed_holder(list, device, 1234), Some(9));
        assert_eq!(listed_holder(list, device, 99), None);
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::os::unix::fs::symlink(&target, folder.path().join("volumes.lock")).unwrap();
        assert!(take(folder.path(), &Cancel::new().unwrap(), &mut Vec::new()).is_err());
        assert!(!target.exists());
    }
}
