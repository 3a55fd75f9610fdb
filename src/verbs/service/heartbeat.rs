//! The sign that a unit's work goes on.

use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::cancel::Cancel;
use crate::verbs::Failure;

/// A limit that somebody set on a unit is moved on for as long as the work goes on (`EXTEND_TIMEOUT_USEC=`, `sd_notify(3)`).
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Says that the work goes on, until it is dropped.
pub(super) struct Heartbeat(Cancel);

impl Heartbeat {
    pub(super) fn begin() -> Result<Self, Failure> {
        let stop = Cancel::new()?;
        let flag = stop.clone();
        thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            loop {
                let micros = u32::try_from((HEARTBEAT * 3).as_micros()).unwrap_or(u32::MAX);
                let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
                if flag.wait(HEARTBEAT) {
                    break;
                }
            }
        })?;
        Ok(Self(stop))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.raise();
    }
}
