//! What virt-unlock@NAME.service runs: one volume or domain with all that it needs, for cluster managers and for people. Its start is
//! either up as a whole, or a failure that leaves nothing behind; its stop takes down what depends on the name, and the volumes that
//! were opened for it alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::heartbeat::Heartbeat;
use super::keeper::Keeper;
use super::kept::{keep_configuration, session_of_running};
use crate::cancel::Cancel;
use crate::engine::down::Down;
use crate::engine::{Summary, walk};
use crate::event::{Events, Happened, Outcome};
use crate::graph::Layer;
use crate::host::lock::{Demand, FOLDER, Lock, Part};
use crate::host::orders::{Order, Orders};
use crate::host::units::{self, BusError, Systemd};
use crate::plan::{self, Names, Plan};
use crate::report::{Report, plain};
use crate::verbs::session::Session;
use crate::verbs::up::{LIBVIRT_PATIENCE, explain, make_plan, unlocker, walk_here};
use crate::verbs::{App, Failure, Verdict, notes};

/// How long the way down waits for a libvirt that does not answer.
const LIBVIRT_PATIENCE_DOWN: Duration = Duration::from_secs(60);

const PREFIX: &str = "virt-unlock@";
const SUFFIX: &str = ".service";

/// The unit by which somebody asked.
struct Unit {
    name: String,
    /// Its own name, for those who wait for it.
    what: String,
}

impl Unit {
    fn of(instance: &str) -> Result<Self, Failure> {
        let what = format!("{PREFIX}{instance}{SUFFIX}");
        match units::instance(instance) {
            Some(name) => Ok(Self { name, what }),
            None => Err(Failure::Usage(format!("{what} names no volume and no guest"))),
        }
    }

    fn names(&self) -> Names {
        Names::new([self.name.clone()])
    }
}

/// `ExecStart=` of virt-unlock@NAME.service.
pub(in crate::verbs) fn named_up(app: &App, instance: &str) -> Result<Verdict, Failure> {
    let unit = Unit::of(instance)?;
    let session = Session::begin(app, false)?;
    let orders = Orders::listen(|order| order != Order::YieldToName)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), |_| true);
    let _heartbeat = Heartbeat::begin()?;
    let mut start = Start {
        session: &session,
        names: unit.names(),
        unit: &unit,
        events: report.events(),
        brought: BTreeSet::new(),
    };
    // A wrong name touches nothing, not even the open question of another unit.
    if let Err(failure) = start.look(&orders.cancel()) {
        return start.give_up(orders.take()?, Err(failure));
    }
    keep_configuration(&session, Some(&unit.name));
    loop {
        let turn = start.turn(&orders.cancel());
        match (orders.take()?, turn) {
            // Somebody at a terminal takes over. What is still missing when he is through is gone on with.
            (Some(Order::Yield | Order::YieldToName), _) => {}
            (None, Ok(Turn { missing: None, .. })) => return Ok(Verdict::AsAsked),
            (order, turn) => return start.give_up(order, turn),
        }
    }
}

/// A start that is under way.
struct Start<'a> {
    session: &'a Session,
    unit: &'a Unit,
    names: Names,
    events: Events,
    /// What this start has brought up, and takes down again if it fails.
    brought: BTreeSet<Layer>,
}

/// One turn of it: from taking the locks to what it came to. They are held for as long as this lives.
struct Turn {
    locks: (Lock, Lock),
    /// Why the name is not up.
    missing: Option<String>,
}

impl Start<'_> {
    fn look(&self, cancel: &Cancel) -> Result<(), Failure> {
        let facts = self.session.facts(Some(LIBVIRT_PATIENCE), &self.events, cancel)?;
        make_plan(self.session, &facts, &self.names).map(drop)
    }

    fn locks(&self, demand: Demand, cancel: &Cancel) -> Result<(Lock, Lock), Failure> {
        locks(self.unit, demand, &self.events, cancel)
    }

    fn turn(&mut self, cancel: &Cancel) -> Result<Turn, Failure> {
        let (session, events) = (self.session, &self.events);
        let locks = self.locks(Demand::YieldToName, cancel)?;
        let facts = session.facts(Some(LIBVIRT_PATIENCE), events, cancel)?;
        let (graph, plan) = make_plan(session, &facts, &self.names)?;
        notes::write(&session.config, &graph, &facts);
        let unlocker = unlocker(session, &plan, notes::waiting_guests(&session.config, &facts, &graph));
        let summary = walk_here(session, &plan, &facts, unlocker, events, cancel)?;
        let missing = missing(&self.names, &summary);
        if missing.is_some() || cancel.is_raised() {
            self.note_brought(&plan, &summary)?;
        }
        Ok(Turn { locks, missing })
    }

    /// What this turn has brought up, also where it was cancelled in the middle of a step. What somebody else did meanwhile is his.
    fn note_brought(&mut self, plan: &Plan, summary: &Summary) -> Result<(), Failure> {
        let facts = self.session.facts(Some(LIBVIRT_PATIENCE), &self.events, &Cancel::new()?)?;
        for step in plan.work() {
            let ours = match summary.outcome(&step.layer) {
                Some(Outcome::Done(_)) => true,
                Some(outcome) if outcome.is_bad() => plan::is_up(&facts, &step.layer),
                _ => false,
            };
            if ours {
                self.brought.insert(step.layer.clone());
            }
        }
        Ok(())
    }

    /// The end of a start that is not up, by an order or by a failure.
    fn give_up(&self, order: Option<Order>, turn: Result<Turn, Failure>) -> Result<Verdict, Failure> {
        let (turn, failure) = match turn {
            Ok(turn) => (Some(turn), None),
            Err(failure) => (None, Some(failure)),
        };
        let why = match order {
            Some(Order::Terminate) => "it was stopped while it was being brought up".to_owned(),
            Some(_) => "a way down ended its way up".to_owned(),
            None => turn
                .as_ref()
                .and_then(|turn| turn.missing.clone())
                .or_else(|| failure.as_ref().map(ToString::to_string))
                .unwrap_or_default(),
        };
        let clean = self.take_back(turn)?;
        let after = match (self.brought.is_empty(), clean) {
            (true, _) => "nothing was changed",
            (false, true) => "what this start had brought up is taken down again",
            (false, false) => "not all that this start had brought up could be taken down again: `virt-unlock status` shows it",
        };
        let words = plain(&format!("{} is not up: {why}; {after}", self.unit.name));
        let verdict = match (order, failure) {
            // As it was told: a unit that is stopped has not failed.
            (Some(Order::Terminate), _) => {
                self.events.say(None, Happened::Note(words.clone()));
                Ok(clean.into())
            }
            (None, Some(failure)) => Err(failure),
            _ => {
                self.events.say(None, Happened::Warning(words.clone()));
                Ok(Verdict::NotAll)
            }
        };
        // The last word in `systemctl status`: each event before has written its own there.
        let _ = sd_notify::notify(&[NotifyState::Status(&words)]);
        verdict
    }

    /// Takes down what this start has brought up, without what something else has come to need since. True: that is done.
    fn take_back(&self, turn: Option<Turn>) -> Result<bool, Failure> {
        if self.brought.is_empty() {
            return Ok(true);
        }
        let (session, cancel) = (self.session, Cancel::new()?);
        let deadline = Instant::now() + session.config.host.stop_deadline;
        let _locks = match turn {
            Some(turn) => turn.locks,
            None => self.locks(Demand::YieldOrEnd, &cancel)?,
        };
        let facts = session.facts(Some(LIBVIRT_PATIENCE_DOWN), &self.events, &cancel)?;
        let graph = session.graph(&facts)?;
        let plan = plan::release(&facts, &graph, |layer| self.brought.contains(layer));
        let hands = Down::new(&session.config, &session.host, deadline, &plan, &facts);
        Ok(walk(&plan, &hands, &self.events, &cancel).is_good())
    }
}

/// Why what is named is not up; `None`: it is. What failed tells more than what could not be done therefore.
fn missing(names: &Names, summary: &Summary) -> Option<String> {
    let is_up = |layer: &Layer, outcome: &Outcome| !names.mean(layer) || outcome.is_good();
    if summary.ended.iter().all(|(layer, outcome)| is_up(layer, outcome)) {
        return None;
    }
    let words = |is_told: fn(&Outcome) -> bool| {
        let told = summary.ended.iter().filter(|(_, outcome)| is_told(outcome));
        let told: Vec<String> = told.map(|(layer, outcome)| format!("{layer} {outcome}")).collect();
        (!told.is_empty()).then(|| told.join("; "))
    };
    words(|outcome| matches!(outcome, Outcome::Failed(_)))
        .or_else(|| words(Outcome::is_bad))
        .or_else(|| words(|outcome| matches!(outcome, Outcome::Left(_))))
}

fn locks(unit: &Unit, demand: Demand, events: &Events, cancel: &Cancel) -> Result<(Lock, Lock), Failure> {
    let volumes = Session::lock(Part::Volumes, &unit.what, demand, events, cancel)?;
    let guests = Session::lock(Part::Guests, &unit.what, demand, events, cancel)?;
    Ok((volumes, guests))
}

/// `ExecStop=` of virt-unlock@NAME.service. What others ask for meanwhile is asked for again when this is through.
pub(in crate::verbs) fn named_down(app: &App, instance: &str) -> Result<Verdict, Failure> {
    let unit = Unit::of(instance)?;
    let session = session_of_running(app, Some(&unit.name))?;
    let orders = Orders::listen(|order| order == Order::Terminate)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), |_| true);
    let (events, cancel) = (report.events(), orders.cancel());
    let _heartbeat = Heartbeat::begin()?;
    let deadline = Instant::now() + session.config.host.stop_deadline;
    let _locks = locks(&unit, Demand::YieldOrEnd, &events, &cancel)?;
    let _keeper = Keeper::begin(&session)?;
    let facts = session.facts(Some(LIBVIRT_PATIENCE_DOWN), &events, &cancel)?;
    if let Some(error) = &facts.libvirt_error {
        let words = format!("{error}; guests cannot be asked to stop, and a volume that one of them uses stays open");
        events.say(None, Happened::Warning(words));
    }
    let graph = session.graph(&facts)?;
    let others = active_names(*session.systemd, &cancel).unwrap_or_default();
    let is_kept = |volume: &str| others.iter().any(|(other, name)| *other != unit.what && name == volume);
    let plan = match plan::stop(&session.config, &facts, &graph, &unit.names(), is_kept) {
        Ok(plan) => plan,
        Err(unknown) if facts.libvirt_error.is_some() => return Err(explain(&unknown, &session, &facts)),
        // Its guest was undefined, its volume is closed and configured no more: a stop that failed would help nobody.
        Err(unknown) => {
            events.say(None, Happened::Warning(format!("{unknown}; nothing is taken down")));
            return Ok(Verdict::AsAsked);
        }
    };
    let hands = Down::new(&session.config, &session.host, deadline, &plan, &facts);
    let summary = walk(&plan, &hands, &events, &cancel);
    let happened = if summary.is_good() {
        Happened::Note(format!("{} is down", unit.name))
    } else {
        Happened::Warning(format!("not all of {} is down", unit.name))
    };
    events.say(None, happened);
    Ok(summary.is_good().into())
}

/// The units of single names that are active or on their way there, each with its name.
fn active_names(systemd: Systemd, cancel: &Cancel) -> Result<Vec<(String, String)>, BusError> {
    let found = systemd.active_units(&format!("{PREFIX}*{SUFFIX}"), cancel)?;
    let named = found.into_iter().filter_map(|unit| {
        let instance = unit.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let name = units::instance(instance)?;
        Some((unit, name))
    });
    Ok(named.collect())
}

/// Whether each of these names has a unit of its own that is active: it takes down at a shutdown what was brought up.
pub(in crate::verbs) fn have_units(systemd: Systemd, names: &Names, cancel: &Cancel) -> bool {
    let active = active_names(systemd, cancel).unwrap_or_default();
    !names.is_all() && names.iter().all(|name| active.iter().any(|(_, found)| found == name))
}

/// Orders the stop of the units of those names that are down now, or on their way: systemd is not to say that they are active.
pub(in crate::verbs) fn stop_named(systemd: Systemd, is_down: impl Fn(&str) -> bool, cancel: &Cancel) -> Result<(), BusError> {
    for (unit, name) in active_names(systemd, cancel)? {
        if is_down(&name) {
            systemd.stop_unit(&unit, cancel)?;
        }
    }
    Ok(())
}
