//! One way to say "stop now" to everything that waits. Every wait in the program ends at a [`Cancel`], at its own limit, or
//! at what it waits for.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A flag that any thread can raise once and that any `poll(2)` can wait for: a file descriptor that turns readable.
/// Clones share the flag.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug)]
struct Flag {
    own: EventFd,
    /// Readable when `own` is, or the flag that this one follows.
    either: Option<Either>,
}

#[derive(Debug)]
struct Either {
    any: Epoll,
    /// Lives as long as it is followed.
    _followed: Cancel,
}

impl Cancel {
    /// A flag that is not raised.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Flag {
            own: event()?,
            either: None,
        })))
    }

    /// A flag that is up when this one is; raised by itself it leaves this one down.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn child(&self) -> std::io::Result<Self> {
        let (own, any) = (event()?, Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        any.add(&own, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        any.add(self, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        let followed = self.clone();
        Ok(Self(Arc::new(Flag {
            own,
            either: Some(Either {
                any,
                _followed: followed,
            }),
        })))
    }

    /// Raises the flag for everybody who holds a clone. Raising it again changes nothing.
    pub fn raise(&self) {
        // Fails only when the counter is full (2^64-2 raises), and then it is readable already.
        let _ = self.0.own.write(1);
    }

    /// Whether the flag is up.
    pub fn is_raised(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Whether both are the same flag.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Does `work` with a flag that follows this one, and is raised too when `limit` is over.
    ///
    /// # Errors
    /// When the process has no file descriptor or no thread left.
    pub fn within<R>(&self, limit: Duration, work: impl FnOnce(&Self) -> R) -> std::io::Result<R> {
        let (limited, done) = (self.child()?, Self::new()?);
        thread::scope(|scope| {
            let timer = thread::Builder::new().name("limit".to_owned()).spawn_scoped(scope, || {
                if !done.wait(limit) {
                    limited.raise();
                }
            });
            timer.map(|_| ())?;
            let _done = Raised(&done);
            Ok(work(&limited))
        })
    }

    /// Waits until the flag is up or `limit` is over. True: it is up.
    pub fn wait(&self, limit: Duration) -> bool {
        poll_readable(&[self.as_fd()], Some(limit)).is_ok_and(|ready| ready[0])
    }
}

/// Raises a flag however its scope is left.
pub struct Raised<'a>(pub &'a Cancel);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.raise();
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0.either {
            Some(either) => either.any.0.as_fd(),
            None => self.0.own.as_fd(),
        }
    }
}

fn event() -> std::io::Result<EventFd> {
    Ok(EventFd::from_value_and_flags(
        0,
        EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
    )?)
}

/// Lets this process have as many descriptors as it may: each wait takes some, and a host with hundreds of volumes has thousands of
/// waits at a time. systemd gives a service 1024 and lets it have more (`DefaultLimitNOFILE=`, systemd-system.conf(5)).
pub fn allow_many_waits() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is refused, those that fit wait, and the others end as cancelled ones do.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Waits until one of `fds` is readable (or at its end, or broken) or `limit` is over (`None`: for ever), and tells which are.
///
/// # Errors
/// What `poll(2)` says, but for `EINTR`, which is waited out.
pub fn poll_readable(fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> std::io::Result<Vec<bool>> {
    let fds: Vec<_> = fds.iter().map(|fd| (*fd, PollFlags::POLLIN | PollFlags::POLLPRI)).collect();
    poll_for(&fds, limit)
}

/// Like [`poll_readable`], for each descriptor with the events that are waited for.
///
/// # Errors
/// What `poll(2)` says, but for `EINTR`, which is waited out.
pub fn poll_for(fds: &[(BorrowedFd<'_>, PollFlags)], limit: Option<Duration>) -> std::io::Result<Vec<bool>> {
    // A limit beyond what the clock can say is none.
    let deadline = limit.and_then(|limit| std::time::Instant::now().checked_add(limit));
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                // Rounded up, so that the last part of a millisecond is slept and not spun.
                let millis = left.as_micros().div_ceil(1000);
                PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut set, timeout) {
            Ok(_) => return Ok(set.iter().map(|fd| fd.any().unwrap_or(false)).collect()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_sees_what_another_raised() {
        let cancel = Cancel::new().unwrap();
        let other = cancel.clone();
        assert!(!other.is_raised());
        cancel.raise();
        cancel.raise();
        assert!(other.is_raised());
        assert!(other.wait(Duration::MAX));
    }

    #[test]
    fn work_is_cancelled_at_its_limit_and_not_after_its_end() {
        let cancel = Cancel::new().unwrap();
        assert!(cancel.within(Duration::ZERO, |limited| limited.wait(Duration::MAX)).unwrap());
        assert!(!cancel.within(Duration::MAX, Cancel::is_raised).unwrap());
        assert!(!cancel.is_raised());
        cancel.raise();
        assert!(cancel.within(Duration::MAX, Cancel::is_raised).unwrap());
    }

    #[test]
    fn a_child_follows_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new().unwrap();
        let (one, other) = (parent.child().unwrap(), parent.child().unwrap().child().unwrap());
        one.raise();
        assert!(one.is_raised() && !parent.is_raised() && !other.is_raised());
        parent.raise();
        drop(parent);
        assert!(other.wait(Duration::MAX));
    }
}
