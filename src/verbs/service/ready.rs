//! When virt-unlock.service is up, as logins see it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::cancel::Cancel;
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::verbs::Failure;

/// `READY=1`, once: logins wait for it (systemd-user-sessions.service is ordered after virt-unlock.service).
#[derive(Clone)]
pub(super) struct Ready(Arc<Monitor<Held>>);

#[derive(Clone, Copy, Default)]
struct Held {
    asked: bool,
    sent: bool,
}

impl Ready {
    /// Sent when a question has been open for as long as `limit`, if not before. Zero: at once.
    pub(super) fn within(limit: Duration) -> Result<Self, Failure> {
        let ready = Self(Arc::new(Monitor::new(Held::default())));
        if limit.is_zero() {
            ready.send();
            return Ok(ready);
        }
        let (late, never) = (ready.clone(), Cancel::new()?);
        thread::Builder::new().name("hold-login".to_owned()).spawn(move || {
            // Whatever comes first, it is sent now: nobody is held longer than that, asked or not.
            let wait = |limit, over: fn(Held) -> bool| late.0.wait(Some(limit), &never, |held| over(*held).then_some(()));
            if wait(limit + Pace::default().device_grace, |held| held.asked || held.sent).is_ok() {
                let _ = wait(limit, |held| held.sent);
            }
            late.send();
        })?;
        Ok(ready)
    }

    /// The first question is open: the time runs from now.
    pub(super) fn is_asked(&self) {
        if !self.0.look(|held| held.asked) {
            self.0.update(|held| held.asked = true);
        }
    }

    /// Sent once no question is left.
    pub(super) fn once_none(&self, unanswered: Arc<Monitor<usize>>, cancel: &Cancel) -> Result<(), Failure> {
        let (ready, cancel) = (self.clone(), cancel.clone());
        thread::Builder::new().name("ready".to_owned()).spawn(move || {
            if unanswered.wait(None, &cancel, |count| (*count == 0).then_some(())).is_ok() {
                ready.send();
            }
        })?;
        Ok(())
    }

    pub(super) fn send(&self) {
        let first = self.0.update(|held| !std::mem::replace(&mut held.sent, true));
        if first {
            let _ = sd_notify::notify(&[NotifyState::Ready]);
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.0.look(|held| held.sent)
    }
}
