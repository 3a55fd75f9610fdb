//! What virt-unlock.service runs: the way of the volumes.

use std::path::Path;
use std::time::{Duration, Instant};

use super::heartbeat::Heartbeat;
use super::kept::{keep_configuration, session_of_running};
use super::named::stop_named;
use super::ready::Ready;
use super::{GUESTS_UNIT, Ordered, VOLUMES_UNIT, note_good, order, say_end};
use crate::cancel::Cancel;
use crate::engine::down::Down;
use crate::engine::walk;
use crate::event::{Events, Happened};
use crate::host::lock::{Demand, FOLDER, Part};
use crate::host::orders::{Order, Orders};
use crate::plan::{self, Names, Seen};
use crate::report::Report;
use crate::verbs::ending::{Half, Tally};
use crate::verbs::session::Session;
use crate::verbs::up::{is_of_volumes, unlocker, walk_here};
use crate::verbs::{App, Failure, Verdict, notes};

/// How long the end of the way down waits for the other unit, which has nothing left to do by then.
const SISTER: Duration = Duration::from_secs(10);
const SISTER_LOOKS: Duration = Duration::from_millis(100);

/// `ExecStart=` of virt-unlock.service.
pub(in crate::verbs) fn volumes_up(app: &App) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    keep_configuration(&session, None);
    let orders = Orders::listen(|_| true)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_volumes);
    let _heartbeat = Heartbeat::begin()?;
    let ready = Ready::within(session.config.host.hold_login)?;
    // Wanted by this unit already; needed where this unit alone was stopped and started again.
    order(&session, |systemd, cancel| systemd.start_unit(GUESTS_UNIT, cancel))?;
    let (shown, asked) = (report.events(), ready.clone());
    let events = Events::new(move |event| {
        if matches!(event.happened, Happened::Asking(_)) {
            asked.is_asked();
        }
        shown.pass(event);
    });
    let mut seen = Seen::default();
    loop {
        let walked = ask_and_open(&session, &orders.cancel(), &events, &ready, &mut seen);
        match (orders.take()?, walked) {
            // Somebody takes over. What is still closed when he is through is asked for again.
            (Some(Order::Yield | Order::YieldToName), _) => {}
            (Some(Order::Terminate), _) if !ready.is_sent() => {
                // The start was still going on, so systemd runs no ExecStop=: the way back is ours.
                return close_all(&session, &report.events(), &Cancel::new()?);
            }
            (Some(_), _) => break,
            (None, walked) => {
                walked?;
                break;
            }
        }
    }
    // A start that partly failed leaves the unit active: a failed one gets no ExecStop= at shutdown. Its status line says what
    // is missing.
    ready.send();
    Ok(Verdict::AsAsked)
}

fn ask_and_open(session: &Session, cancel: &Cancel, events: &Events, ready: &Ready, seen: &mut Seen) -> Result<(), Failure> {
    let _lock = Session::lock(Part::Volumes, VOLUMES_UNIT, Demand::Patience, events, cancel)?;
    let facts = session.facts(None, events, cancel)?;
    let graph = session.graph(&facts)?;
    // What somebody has taken down by its name is not asked for again.
    let plan = seen.without_volumes(plan::up(&session.config, &facts, &graph, &Names::default())?);
    let unlocker = unlocker(session, &plan, notes::waiting_guests(&session.config, &facts, &graph));
    ready.once_none(unlocker.unanswered(), cancel)?;
    let summary = walk_here(session, &plan, &facts, unlocker, events, cancel)?;
    note_good(seen, &summary);
    Ok(())
}

/// `ExecStop=` of virt-unlock.service. While guests still use a volume it waits, and closes each as soon as it is free.
pub(in crate::verbs) fn volumes_down(app: &App) -> Result<Verdict, Failure> {
    let session = session_of_running(app, None)?;
    let orders = Orders::listen(|order| order == Order::Terminate)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_volumes);
    let _heartbeat = Heartbeat::begin()?;
    close_all(&session, &report.events(), &orders.cancel())
}

fn close_all(session: &Session, events: &Events, cancel: &Cancel) -> Result<Verdict, Failure> {
    let deadline = Instant::now() + session.config.host.stop_deadline;
    // At shutdown it is on its way down already. There is no PartOf=, for that would stop the guests too when this unit only
    // crashed and is started again.
    let ordered = order(session, |systemd, cancel| {
        systemd.stop_unit(GUESTS_UNIT, cancel)?;
        // They would stay active with nothing behind them. They are ordered before this unit, so this stop comes first and leaves them
        // nothing to do.
        stop_named(*systemd, |_| true, cancel)
    })?;
    let _lock = Session::lock(Part::Volumes, VOLUMES_UNIT, Demand::End, events, cancel)?;
    let facts = session.facts(None, events, cancel)?;
    let graph = session.graph(&facts)?;
    let plan = plan::down(&facts, &graph, &Names::default())?;
    let hands = Down::new(&session.config, &session.host, deadline, &plan, &facts);
    let tally = Tally::default();
    let summary = walk(&plan, &hands, &tally.count(events), cancel);
    if summary.is_good() {
        await_guests_unit(session, &ordered, cancel);
    }
    let ended = (!cancel.is_raised()).then_some((&tally, Half::Volumes));
    say_end(
        events,
        &summary,
        ended,
        "all volumes are closed",
        "not every volume is closed",
    );
    Ok(summary.is_good().into())
}

/// Who waited for this stop finds both units down. Where nothing was open, this process could even end before its order was out.
fn await_guests_unit(session: &Session, ordered: &Ordered, cancel: &Cancel) {
    let deadline = Instant::now() + SISTER;
    ordered.wait(SISTER, cancel);
    // A bus that says nothing is a shutdown, and then it is systemd's affair.
    while Instant::now() < deadline && session.systemd.is_down(GUESTS_UNIT, cancel) == Ok(false) {
        if cancel.wait(SISTER_LOOKS) {
            return;
        }
    }
}
