//! A value that many threads change and wait on, where each wait can be cancelled: a condition variable cannot be woken by a
//! [`Cancel`], an eventfd in a `poll(2)` can.

use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, poll_readable};

/// A value behind a lock, with its waiters.
pub struct Monitor<T>(Mutex<Inner<T>>);

struct Inner<T> {
    value: T,
    waiters: Vec<Cancel>,
}

/// How a wait ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The flag was raised.
    Cancelled,
    /// The limit was over.
    TimedOut,
}

impl<T> Monitor<T> {
    /// A monitor of `value`.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(Inner {
            value,
            waiters: Vec::new(),
        }))
    }

    /// Changes the value and wakes every waiter to look again.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner.value);
        for waiter in inner.waiters.drain(..) {
            waiter.raise();
        }
        result
    }

    /// Looks at the value.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock().value)
    }

    /// Waits until `ready` gives something. It is called under the lock, first at once and again after each change; a change that
    /// it makes itself wakes nobody else.
    ///
    /// # Errors
    /// When `cancel` is raised or `limit` is over (`None`: for ever) before that.
    pub fn wait<R>(
        &self,
        limit: Option<Duration>,
        cancel: &Cancel,
        mut ready: impl FnMut(&mut T) -> Option<R>,
    ) -> Result<R, Ended> {
        // A limit beyond what the clock can say is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if cancel.is_raised() {
                return Err(Ended::Cancelled);
            }
            // Without a descriptor to wait on there is no way to wait: end as a cancelled wait does.
            let woken = Cancel::new().map_err(|_| Ended::Cancelled)?;
            {
                let mut inner = self.lock();
                if let Some(result) = ready(&mut inner.value) {
                    return Ok(result);
                }
                inner.waiters.push(woken.clone());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let ready = poll_readable(&[woken.as_fd(), cancel.as_fd()], left).map_err(|_| Ended::Cancelled)?;
            if !ready[0] {
                self.lock().waiters.retain(|waiter| !waiter.is_same(&woken));
                if !ready[1] {
                    return Err(Ended::TimedOut);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // A thread that panicked in `change` leaves the value as it was at that point; each user's value is right at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_change_wakes_who_waits_for_it() {
        let monitor = Monitor::new(0);
        let cancel = Cancel::new().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| monitor.wait(None, &cancel, |value| (*value == 3).then_some("three")));
            for _ in 0..3 {
                monitor.update(|value| *value += 1);
            }
            assert_eq!(waiter.join().unwrap(), Ok("three"));
        });
    }

    #[test]
    fn a_wait_ends_when_cancelled_and_at_its_limit() {
        let monitor = Monitor::new(());
        let cancel = Cancel::new().unwrap();
        assert_eq!(
            monitor.wait(Some(Duration::from_millis(5)), &cancel, |()| None::<()>),
            Err(Ended::TimedOut)
        );
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| monitor.wait(Some(Duration::MAX), &cancel, |()| None::<()>));
            cancel.raise();
            assert_eq!(waiter.join().unwrap(), Err(Ended::Cancelled));
        });
        assert!(monitor.lock().waiters.is_empty());
    }
}
