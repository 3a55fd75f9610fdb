//! `virt-unlock down --now`: the emergency. Nobody is asked, and nothing is waited for longer than seconds.

use std::time::{Duration, Instant};

use super::by_hand::ByHand;
use super::ending::{Half, Tally};
use super::session::Session;
use super::up::explain;
use super::{App, Failure, Verdict, service};
use crate::cancel::Cancel;
use crate::engine::down::Down;
use crate::engine::down_at_once;
use crate::event::{Events, Happened};
use crate::facts::Facts;
use crate::graph::Layer;
use crate::host::lock::{Demand, Lock, Part};
use crate::host::orders::Order;
use crate::host::watch;
use crate::pace::Pace;
use crate::plan::{self, Names, Plan};

/// How long others may take to let go. After that their work is undone beside them.
const OTHERS: Duration = Duration::from_secs(3);
/// How long libvirt may take to say what runs.
const LIBVIRT: Duration = Duration::from_secs(4);
/// How long the way itself may take.
const WAY: Duration = Duration::from_secs(12);
/// The least that it has for what is free to be unmounted and closed.
const LEAST: Duration = Duration::from_secs(8);

pub(super) fn at_once(app: &App, names: &[String]) -> Result<Verdict, Failure> {
    let session = || service::session_of_emergency(app);
    let Some(run) = ByHand::begin(app, "down --now", names, session, |order| order == Order::Terminate)? else {
        return Ok(Verdict::AsAsked);
    };
    let ByHand {
        session,
        names,
        events,
        cancel,
        ..
    } = &run;
    let facts = facts(session, events, cancel)?;
    // A wrong name touches nothing.
    make_plan(session, &facts, names)?;
    let words = "AN EMERGENCY: guests are not asked, their plugs are pulled; what they have not written is lost";
    events.say(None, Happened::Warning(words.to_owned()));
    let _locks = [Part::Volumes, Part::Guests].map(|part| lock(part, events, cancel));
    if cancel.is_raised() {
        return Err(Failure::Cancelled);
    }

    // Whoever let go may have opened or started something since.
    let facts = self::facts(session, events, cancel)?;
    if let Some(error) = &facts.libvirt_error {
        let words = format!("{error}; no guest can be destroyed: the key of a volume that one uses is taken out of the kernel");
        events.say(None, Happened::Warning(words));
    }
    let is_no_pool = |layer: &Layer| !matches!(layer, Layer::Pool(_));
    let plan = make_plan(session, &facts, names)?.only(is_no_pool, "it holds nothing open");
    let mut pace = Pace::at_once();
    let mut way = WAY;
    if facts.libvirt.is_none() {
        // No guest ends by us: there is nothing to wait for.
        (way, pace.destroy_limit) = (Duration::ZERO, Duration::ZERO);
    }
    let hands = Down::new(&session.config, &session.host, Instant::now() + way, &plan, &facts)
        .with_pace(pace)
        .at_once();
    let tally = Tally::default();
    let limit = way + pace.destroy_limit.max(LEAST);
    let summary =
        down_at_once(&plan, &hands, limit, &tally.count(events), cancel).map_err(|error| Failure::Unable(error.to_string()))?;
    // After the keys: the disk that this is written to may be what is wrong.
    if names.is_all() && !cancel.is_raised() {
        tally.note(Half::Guests);
        tally.note(Half::Volumes);
    }
    Ok(summary.is_good().into())
}

fn make_plan(session: &Session, facts: &Facts, names: &Names) -> Result<Plan, Failure> {
    let graph = session.graph(facts)?;
    plan::down_at_once(facts, &graph, names).map_err(|unknown| explain(&unknown, session, facts))
}

/// The machine as it is, without libvirt where that takes too long.
fn facts(session: &Session, events: &Events, cancel: &Cancel) -> Result<Facts, Failure> {
    match cancel.within(LIBVIRT, |limited| session.facts(Some(Duration::ZERO), events, limited))? {
        Err(Failure::Cancelled) if !cancel.is_raised() => Ok(Facts {
            volumes: watch::read(&session.config, session.host.devices.as_ref()),
            libvirt: None,
            libvirt_error: Some(format!("libvirt does not answer within {} s", LIBVIRT.as_secs())),
        }),
        facts => facts,
    }
}

/// Takes a lock, or goes without it where its holder does not let go in time.
fn lock(part: Part, events: &Events, cancel: &Cancel) -> Option<Lock> {
    let take = |limited: &Cancel| Session::lock(part, "`virt-unlock down --now`", Demand::End, events, limited);
    let taken = cancel.within(OTHERS, take).ok()?;
    if taken.is_err() && !cancel.is_raised() {
        events.say(None, Happened::Warning("it has not let go: going on beside it".to_owned()));
    }
    taken.ok()
}
