//! What the units run. virt-unlock.service asks, opens and mounts, and on its way back unmounts and closes;
//! virt-unlock-guests.service starts each domain as its volumes come open, whoever opened them, and shuts the domains down;
//! virt-unlock@NAME.service does both for one volume or domain.

mod guests;
mod heartbeat;
mod keeper;
mod kept;
mod named;
mod ready;
mod volumes;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::ending::{Half, Tally};
use super::session::Session;
use super::{App, Failure, Verdict};
use crate::cancel::Cancel;
use crate::cli::Way;
use crate::engine::Summary;
use crate::event::{Events, Happened, Kind};
use crate::host::units::{BusError, Systemd};
use crate::monitor::Monitor;
use crate::plan::Seen;

pub(super) use kept::{keep_by_hand, kept_configuration, session_by_hand, session_of_emergency};
pub(super) use named::{have_units, stop_named};

const VOLUMES_UNIT: &str = "virt-unlock.service";
const GUESTS_UNIT: &str = "virt-unlock-guests.service";

/// What virt-unlock.service runs.
pub(super) fn volumes(app: &App, way: Way) -> Result<Verdict, Failure> {
    match way {
        Way::Up => volumes::volumes_up(app),
        Way::Down => volumes::volumes_down(app),
    }
}

/// What virt-unlock-guests.service runs.
pub(super) fn guests(app: &App, way: Way) -> Result<Verdict, Failure> {
    match way {
        Way::Up => guests::guests_up(app),
        Way::Down => guests::guests_down(app),
    }
}

/// What virt-unlock@NAME.service runs.
pub(super) fn named(app: &App, way: Way, name: &str) -> Result<Verdict, Failure> {
    match way {
        Way::Up => named::named_up(app, name),
        Way::Down => named::named_down(app, name),
    }
}

/// Orders something of systemd, and does not wait for it: early in a boot and late in a shutdown the message bus takes its time.
fn order(
    session: &Session,
    what: impl FnOnce(&Systemd, &Cancel) -> Result<(), BusError> + Send + 'static,
) -> Result<Ordered, Failure> {
    let (systemd, never) = (Arc::clone(&session.systemd), Cancel::new()?);
    let ordered = Ordered(Arc::new(Monitor::new(false)));
    let given = ordered.clone();
    thread::Builder::new().name("order".to_owned()).spawn(move || {
        // A bus that is not there yet, or not any more, is a boot or a shutdown: systemd does it by its own plan then.
        let _ = what(&systemd, &never);
        given.0.update(|given| *given = true);
    })?;
    Ok(ordered)
}

/// An order to systemd that is on its way.
#[derive(Clone)]
struct Ordered(Arc<Monitor<bool>>);

impl Ordered {
    /// Waits until systemd has it, or has not taken it.
    fn wait(&self, limit: Duration, cancel: &Cancel) {
        let _ = self.0.wait(Some(limit), cancel, |given| given.then_some(()));
    }
}

/// This run has brought these up.
fn note_good(seen: &mut Seen, summary: &Summary) {
    for (layer, _) in summary.ended.iter().filter(|(_, outcome)| outcome.is_good()) {
        seen.note(layer);
    }
}

/// The end of a way down. `ended`: what it came to, but where it was cancelled, for then it is not the last one.
fn say_end(events: &Events, summary: &Summary, ended: Option<(&Tally, Half)>, good: &str, bad: &str) {
    if let Some((tally, half)) = ended {
        tally.tell(half, events);
    }
    let (kind, happened) = if summary.is_good() {
        (Kind::AllDown, Happened::Note(good.to_owned()))
    } else {
        (Kind::NotAllDown, Happened::Warning(bad.to_owned()))
    };
    events.tell(None, kind, happened);
}
