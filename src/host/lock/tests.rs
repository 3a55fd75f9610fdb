//! Locks between real processes, and the demands that go with them.

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

/// A unit of one name does not ask another of its kind or a terminal, which is what SIGUSR1 does; and the way down of one name
/// asks first and insists later.
#[test]
fn each_demand_has_its_signals() {
    let signals = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGURG];
    for (demand, sent) in [
        (Demand::Yield, &[Signal::SIGUSR1][..]),
        (Demand::YieldToName, &[Signal::SIGURG]),
        (Demand::YieldOrEnd, &[Signal::SIGUSR1, Signal::SIGUSR2]),
        (Demand::End, &[Signal::SIGUSR2]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (cancel, ready) = (Cancel::new().unwrap(), Cancel::new().unwrap());
        // SAFETY: the child only locks, waits for signals, and leaves by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let mut all = SigSet::empty();
                for signal in signals {
                    all.add(signal);
                }
                let limit = libc::timespec { tv_sec: 10, tv_nsec: 0 };
                // SAFETY: both point to values that outlive the call; no information on the signal is wanted.
                let next = || unsafe { libc::sigtimedwait(all.as_ref(), std::ptr::null_mut(), &raw const limit) };
                let blocked = all.thread_block().is_ok();
                let held = take(folder.path(), &cancel, &mut Vec::new());
                ready.raise();
                let as_told = blocked && held.is_ok() && sent.iter().all(|signal| next() == *signal as i32);
                // SAFETY: ends the forked child without running the parent's destructors.
                unsafe { libc::_exit(i32::from(!as_told)) }
            }
            ForkResult::Parent { child } => {
                assert!(ready.wait(Duration::from_secs(60)));
                let yields = Duration::from_millis(1);
                let lock = acquire_within(folder.path(), Part::Volumes, "a test", demand, yields, |_| (), &cancel);
                assert!(lock.is_ok());
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "{demand:?}");
            }
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
