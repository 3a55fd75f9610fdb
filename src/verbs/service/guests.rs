//! What virt-unlock-guests.service runs: the way of the guests.

use std::path::Path;
use std::time::{Duration, Instant};

use super::heartbeat::Heartbeat;
use super::keeper::Keeper;
use super::kept::session_of_running;
use super::ready::Ready;
use super::{GUESTS_UNIT, say_end};
use crate::cancel::Cancel;
use crate::engine::down::Down;
use crate::engine::up::{Opening, Up};
use crate::engine::walk;
use crate::event::Events;
use crate::graph::Layer;
use crate::host::lock::{Demand, FOLDER, Part};
use crate::host::orders::{Order, Orders};
use crate::plan::{self, Names};
use crate::report::Report;
use crate::verbs::session::Session;
use crate::verbs::up::is_of_volumes;
use crate::verbs::{App, Failure, Verdict, notes};

/// How long the way down waits for a libvirt that does not answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(60);

/// `ExecStart=` of virt-unlock-guests.service. The boot does not wait for it.
pub(in crate::verbs) fn guests_up(app: &App) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let orders = Orders::listen(|_| true)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_guests);
    let ready = Ready::within(Duration::ZERO)?;
    loop {
        let walked = await_and_start(&session, &orders.cancel(), &report.events());
        match (orders.take()?, walked) {
            (Some(Order::Yield | Order::YieldToName), _) => {}
            (Some(_), _) => break,
            (None, walked) => {
                walked?;
                break;
            }
        }
    }
    ready.send();
    Ok(Verdict::AsAsked)
}

fn await_and_start(session: &Session, cancel: &Cancel, events: &Events) -> Result<(), Failure> {
    if session.is_empty() {
        return Ok(());
    }
    let _lock = Session::lock(Part::Guests, GUESTS_UNIT, Demand::Patience, events, cancel)?;
    // Under a boot libvirt comes late; without libvirt on the host this unit is where it is said.
    let facts = session.facts(None, events, cancel)?;
    if let Some(error) = &facts.libvirt_error {
        return Err(Failure::Unable(format!("{error}; no guest is started")));
    }
    let graph = session.graph(&facts)?;
    notes::write(&session.config, &graph, &facts);
    let plan = plan::up(&session.config, &facts, &graph, &Names::default())?;
    let watch = session.watch()?;
    let hands = Up::new(&session.config, &session.host, &watch, Opening::Elsewhere, &plan, &facts);
    walk(&plan, &hands, events, cancel);
    Ok(())
}

/// `ExecStop=` of virt-unlock-guests.service.
pub(in crate::verbs) fn guests_down(app: &App) -> Result<Verdict, Failure> {
    let session = session_of_running(app)?;
    let orders = Orders::listen(|order| order == Order::Terminate)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_guests);
    let (events, cancel) = (report.events(), orders.cancel());
    let _heartbeat = Heartbeat::begin()?;
    let deadline = Instant::now() + session.config.host.stop_deadline;
    let _lock = Session::lock(Part::Guests, GUESTS_UNIT, Demand::End, &events, &cancel)?;
    let _keeper = Keeper::begin(&session)?;
    let facts = session.facts(Some(LIBVIRT_PATIENCE), &events, &cancel)?;
    if let Some(error) = &facts.libvirt_error {
        return Err(Failure::Unable(format!("{error}; no guest can be asked to stop")));
    }
    let graph = session.graph(&facts)?;
    let plan = plan::down(&facts, &graph, &Names::default())?.only(is_of_guests, "left to virt-unlock.service");
    let hands = Down::new(&session.config, &session.host, deadline, &facts);
    let summary = walk(&plan, &hands, &events, &cancel);
    say_end(&events, &summary, "all guests are down", "not every guest is down");
    Ok(summary.is_good().into())
}

fn is_of_guests(layer: &Layer) -> bool {
    !is_of_volumes(layer)
}
