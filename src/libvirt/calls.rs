//! Calls that end: libvirt's own block, for a minute or for ever, so each runs in a thread of its own while the caller waits
//! for its answer, its limit, or the [`Cancel`].
//!
//! A thread that nobody waits for any more is left behind: there is no way to end a call inside libvirt. It asks for nothing
//! new then, and keeps only its own connection. libvirt's keepalive is not used: it needs an event loop, and the limits are
//! what it would give.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::error::Error;
use virt_unlock::cancel::Cancel;
use virt_unlock::host::HypervisorError;
use virt_unlock::monitor::{Ended, Monitor};
use virt_unlock::text;

use super::errors;
use super::lanes::{Lane, Lanes};

/// One kind of call.
#[derive(Clone, Copy)]
pub struct Call {
    /// What it does, for people: "starting the domain".
    what: &'static str,
    limit: Duration,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Start,
    Other,
}

impl Call {
    /// A call that changes nothing. It waits first for the starts that were left behind: else a guest would be seen as off
    /// that a moment later runs, and nobody would stop it.
    pub fn read(what: &'static str, limit: Duration) -> Self {
        let kind = Kind::Read;
        Self { what, limit, kind }
    }

    /// A call that brings something up.
    pub fn start(what: &'static str, limit: Duration) -> Self {
        let kind = Kind::Start;
        Self { what, limit, kind }
    }

    /// Any other.
    pub fn other(what: &'static str, limit: Duration) -> Self {
        let kind = Kind::Other;
        Self { what, limit, kind }
    }

    fn too_long(&self) -> HypervisorError {
        HypervisorError::Unavailable(format!(
            "{} took longer than {} (journalctl -u libvirtd -u virtqemud -u virtstoraged)",
            self.what,
            text::duration(self.limit)
        ))
    }
}

/// Why a call's work failed.
#[derive(Debug)]
pub enum Failure {
    /// libvirt said so.
    Libvirt(Error),
    /// In our words already.
    Said(HypervisorError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Libvirt(error)
    }
}

impl From<HypervisorError> for Failure {
    fn from(error: HypervisorError) -> Self {
        Self::Said(error)
    }
}

/// The way to one libvirt.
pub struct Link(Arc<Shared>);

struct Shared {
    lanes: Arc<Lanes>,
    /// How many starts go on that nobody waits for.
    left_behind: Monitor<usize>,
}

/// What is between a caller and its thread.
enum Slot<T> {
    /// The thread works, the caller waits.
    Running,
    /// The thread works, and nobody waits.
    Left,
    /// The answer.
    Done(Result<T, HypervisorError>),
    /// The answer was here.
    Taken,
}

impl<T> Slot<T> {
    fn take(&mut self) -> Option<Result<T, HypervisorError>> {
        match std::mem::replace(self, Self::Taken) {
            Self::Done(answer) => Some(answer),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Link {
    /// To the libvirt at `uri`; connects with the first call.
    pub fn new(uri: &str) -> Self {
        Self(Arc::new(Shared {
            lanes: Arc::new(Lanes::new(uri)),
            left_behind: Monitor::new(0),
        }))
    }

    /// Does `work` with a connection, and once more with a new one where the connection broke in the middle: so it must be work
    /// that may be done twice. It is told by its second argument whether anybody still waits for it.
    pub fn call<T: Send + 'static>(
        &self,
        call: Call,
        cancel: &Cancel,
        work: impl Fn(&Connect, &dyn Fn() -> bool) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let since = Instant::now();
        if call.kind == Kind::Read {
            let none_left = self
                .0
                .left_behind
                .wait(Some(call.limit), cancel, |left| (*left == 0).then_some(()));
            none_left.map_err(|ended| match ended {
                Ended::Cancelled => HypervisorError::Cancelled,
                Ended::TimedOut => call.too_long(),
            })?;
        }
        if cancel.is_raised() {
            return Err(HypervisorError::Cancelled);
        }
        let slot = Arc::new(Monitor::new(Slot::Running));
        let lane = Arc::new(self.0.lanes.take());
        let errand = Errand {
            shared: Arc::clone(&self.0),
            lane: Arc::clone(&lane),
            slot: Arc::clone(&slot),
            kind: call.kind,
        };
        thread::Builder::new()
            .name("libvirt".to_owned())
            .spawn(move || errand.run(work))
            .map_err(|error| HypervisorError::Refused(format!("no thread for a call to libvirt: {error}")))?;
        let left = call.limit.saturating_sub(since.elapsed());
        let answer = slot.wait(Some(left), cancel, Slot::take);
        let ended = match answer {
            Ok(result) => return result,
            Err(ended) => ended,
        };
        if let Some(result) = slot.update(|slot| self.0.leave(slot, call.kind)) {
            return result;
        }
        match ended {
            Ended::Cancelled => Err(HypervisorError::Cancelled),
            Ended::TimedOut => {
                lane.retire();
                Err(call.too_long())
            }
        }
    }

    /// Forgets the connection, as if its daemon had gone.
    #[cfg(test)]
    pub fn disconnect(&self) {
        self.0.lanes.disconnect();
    }

    /// How many starts go on that nobody waits for.
    #[cfg(test)]
    pub fn left_behind(&self) -> usize {
        self.0.left_behind.look(|left| *left)
    }
}

impl Shared {
    /// Leaves the call alone, but for an answer that came at the last moment.
    fn leave<T>(&self, slot: &mut Slot<T>, kind: Kind) -> Option<Result<T, HypervisorError>> {
        let answer = slot.take();
        if answer.is_none() {
            *slot = Slot::Left;
            if kind == Kind::Start {
                self.left_behind.update(|left| *left += 1);
            }
        }
        answer
    }
}

/// A call's half in its own thread.
struct Errand<T> {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    slot: Arc<Monitor<Slot<T>>>,
    kind: Kind,
}

impl<T> Errand<T> {
    fn run(self, work: impl Fn(&Connect, &dyn Fn() -> bool) -> Result<T, Failure>) {
        let result = self.attempt(&work, true);
        self.slot.update(|slot| {
            if matches!(slot, Slot::Running) {
                *slot = Slot::Done(result);
            }
        });
    }

    fn attempt(
        &self,
        work: &impl Fn(&Connect, &dyn Fn() -> bool) -> Result<T, Failure>,
        again: bool,
    ) -> Result<T, HypervisorError> {
        let uri = self.shared.lanes.uri();
        let connection = self.lane.connect().map_err(|error| errors::connecting(uri, &error))?;
        if !self.is_wanted() {
            return Err(HypervisorError::Cancelled);
        }
        let error = match work(&connection, &|| self.is_wanted()) {
            Ok(done) => return Ok(done),
            Err(Failure::Said(error)) => return Err(error),
            Err(Failure::Libvirt(error)) => error,
        };
        if matches!(connection.is_alive(), Ok(true)) {
            return Err(errors::sort(&error));
        }
        self.lane.forget(&connection);
        if again && self.is_wanted() {
            return self.attempt(work, false);
        }
        Err(errors::broken(uri, &error))
    }

    fn is_wanted(&self) -> bool {
        self.slot.look(|slot| matches!(slot, Slot::Running))
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        let is_left = self.slot.update(|slot| {
            if matches!(slot, Slot::Running) {
                // It panicked: whoever waits must not wait until the limit.
                let words = "a call ended without an answer".to_owned();
                *slot = Slot::Done(Err(HypervisorError::Unavailable(words)));
            }
            matches!(slot, Slot::Left)
        });
        if is_left && self.kind == Kind::Start {
            self.shared.left_behind.update(|left| *left = left.saturating_sub(1));
        }
    }
}
