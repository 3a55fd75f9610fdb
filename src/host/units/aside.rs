//! Work that may hang in a call that nothing can wake up: done by a thread of its own, so that who waits for it can go on.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::monitor::{Ended, Monitor};

/// Does `work` in a thread of its own and waits for it until `cancel` is raised or `limit` is over (`None`: for ever). The thread
/// is left behind then, and ends with its work: there is no way to end it before, and what it does is right whenever it happens.
pub(super) fn aside<T: Send + 'static>(
    limit: Option<Duration>,
    cancel: &Cancel,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Ended> {
    if cancel.is_raised() {
        return Err(Ended::Cancelled);
    }
    let result = Arc::new(Monitor::new(None));
    let writer = Arc::clone(&result);
    let doing = move || {
        let done = work();
        writer.update(|slot| *slot = Some(done));
    };
    // Without a thread for it it is not done: as if cancelled before it began.
    let thread = thread::Builder::new().name("aside".to_owned());
    thread.spawn(doing).map_err(|_| Ended::Cancelled)?;
    result.wait(limit, cancel, Option::take)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn work_that_hangs_holds_nobody() {
        let cancel = Cancel::new().unwrap();
        let (release, hang) = mpsc::channel::<()>();
        let (hang, limit) = (move || hang.recv(), Some(Duration::from_millis(5)));
        assert!(matches!(aside(limit, &cancel, hang), Err(Ended::TimedOut)));
        drop(release);
        assert_eq!(aside(None, &cancel, || 7), Ok(7));
    }

    #[test]
    fn what_is_cancelled_before_is_not_begun() {
        let cancel = Cancel::new().unwrap();
        cancel.raise();
        let (begun, looked) = mpsc::channel();
        assert_eq!(aside(None, &cancel, move || begun.send(())), Err(Ended::Cancelled));
        assert!(looked.recv().is_err());
    }
}
