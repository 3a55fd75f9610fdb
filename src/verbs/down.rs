//! `virt-unlock down`: by hand, everything or what is named. The way back of `up`.

use std::time::Instant;

use super::by_hand::ByHand;
use super::ending::{Half, Tally};
use super::service::{self, stop_named};
use super::session::Session;
use super::up::{LIBVIRT_PATIENCE, explain};
use super::{App, Failure, Verdict};
use crate::engine::down::Down;
use crate::engine::walk;
use crate::event::{Events, Happened, Outcome};
use crate::facts::Facts;
use crate::graph::Layer;
use crate::host::lock::{Demand, Part};
use crate::host::orders::Order;
use crate::plan::{self, Names, Plan};

pub(super) fn down(app: &App, names: &[String]) -> Result<Verdict, Failure> {
    let session = || service::session_by_hand(app);
    let Some(run) = ByHand::begin(app, "down", names, session, |order| order == Order::Terminate)? else {
        return Ok(Verdict::AsAsked);
    };
    let ByHand {
        session,
        names,
        events,
        cancel,
        ..
    } = &run;
    if !names.is_all() {
        // A wrong name touches nothing, not even a way up that is under way.
        let facts = session.facts(Some(LIBVIRT_PATIENCE), events, cancel)?;
        make_plan(session, &facts, names)?;
    }
    let deadline = Instant::now() + session.config.host.stop_deadline;
    let what = "`virt-unlock down`";
    // What is asked for and waited for besides goes on afterwards.
    let demand = if names.is_all() { Demand::End } else { Demand::YieldOrEnd };
    let _volumes = Session::lock(Part::Volumes, what, demand, events, cancel)?;
    let _guests = Session::lock(Part::Guests, what, demand, events, cancel)?;
    let facts = session.facts(Some(LIBVIRT_PATIENCE), events, cancel)?;
    let plan = make_plan(session, &facts, names)?;
    warn_without_libvirt(&facts, events);
    let tally = Tally::default();
    let hands = Down::new(&session.config, &session.host, deadline, &plan, &facts);
    let summary = walk(&plan, &hands, &tally.count(events), cancel);
    if names.is_all() && !cancel.is_raised() {
        tally.note(Half::Guests);
        tally.note(Half::Volumes);
    }

    let is_down = |name: &str| {
        let own = |layer: &Layer| matches!(layer, Layer::Volume(_) | Layer::Domain(_)) && layer.name() == name;
        let mut ended = plan.work().filter(|step| own(&step.layer));
        ended.any(|step| summary.outcome(&step.layer).is_some_and(Outcome::is_good))
    };
    // Where systemd does not answer it is no help to say so: what was asked for is down.
    let _ = stop_named(*session.systemd, is_down, cancel);

    if summary.is_good() && plan.work().next().is_none() {
        events.say(
            None,
            Happened::Note("nothing to do: all that is asked for is down".to_owned()),
        );
    }
    Ok(summary.is_good().into())
}

/// What is to be done; a name that libvirt alone could know says so.
pub(super) fn make_plan(session: &Session, facts: &Facts, names: &Names) -> Result<Plan, Failure> {
    let graph = session.graph(facts)?;
    plan::down(facts, &graph, names).map_err(|unknown| explain(&unknown, session, facts))
}

fn warn_without_libvirt(facts: &Facts, events: &Events) {
    if let Some(error) = &facts.libvirt_error {
        let words = format!("{error}; guests cannot be asked to stop, and a volume that one of them uses stays open");
        events.say(None, Happened::Warning(words));
    }
}
