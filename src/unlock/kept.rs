//! A secret that is kept for others for a while, and forgotten in time though nobody looks.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::monitor::Monitor;
use crate::secret::Secret;

/// A secret that others may still need.
pub(super) struct Kept {
    secret: Secret,
    since: Instant,
    keep: Duration,
    /// Wakes the thread that would forget it: with the secret its work is gone.
    _forgotten: Sender<()>,
}

impl Kept {
    /// Keeps `secret` for `keep` at most as a part of what `state` guards; then `forget` is called, which drops what
    /// [`Kept::is_over`]. `None`: nobody would forget it in time, so it is not kept.
    pub fn begin<S: Send + 'static>(
        secret: Secret,
        keep: Duration,
        state: &Arc<Monitor<S>>,
        forget: impl FnOnce(&mut S) + Send + 'static,
    ) -> Option<Self> {
        let (forgotten, wake) = channel();
        let (state, since) = (Arc::downgrade(state), Instant::now());
        // Those who need it may wait long for their device: nobody else looks at the clock meanwhile.
        let begun = thread::Builder::new().name("forget".to_owned()).spawn(move || {
            if wake.recv_timeout(keep) == Err(RecvTimeoutError::Timeout)
                && let Some(state) = state.upgrade()
            {
                state.update(forget);
            }
        });
        begun.is_ok().then_some(Self {
            secret,
            since,
            keep,
            _forgotten: forgotten,
        })
    }

    /// The secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Whether it was kept for its time.
    pub fn is_over(&self) -> bool {
        self.since.elapsed() >= self.keep
    }
}
