//! What virt-unlock-guests.service runs: the way of the guests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::heartbeat::Heartbeat;
use super::keeper::Keeper;
use super::kept::session_of_running;
use super::named::stop_named;
use super::ready::Ready;
use super::{GUESTS_UNIT, note_good, order, say_end};
use crate::cancel::Cancel;
use crate::config::{Config, Volume};
use crate::engine::down::Down;
use crate::engine::up::{Opening, Up, is_ready};
use crate::engine::walk;
use crate::event::Events;
use crate::facts::VolumeFacts;
use crate::graph::Layer;
use crate::host::lock::{Demand, FOLDER, Part};
use crate::host::orders::{Order, Orders};
use crate::host::watch;
use crate::plan::{self, Names, Seen};
use crate::report::Report;
use crate::verbs::ending::{Half, Tally};
use crate::verbs::session::Session;
use crate::verbs::up::{is_of_volumes, secrets_alone};
use crate::verbs::{App, Failure, Verdict, notes};

/// How long the way down waits for a libvirt that does not answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(60);

/// `ExecStart=` of virt-unlock-guests.service. The boot does not wait for it.
pub(in crate::verbs) fn guests_up(app: &App) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let orders = Orders::listen(|_| true)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_guests);
    let ready = Ready::within(Duration::ZERO)?;
    let mut way = Way::new(&session);
    loop {
        let cancel = orders.cancel();
        let walked = way.await_and_start(&cancel, &report.events());
        if walked.is_ok() && !cancel.is_raised() {
            if way.is_final() {
                break;
            }
            way.await_change(&cancel)?;
        }
        match (orders.take()?, walked) {
            (Some(Order::Yield | Order::YieldToName), _) => {}
            // The way down of something is not the end of it where guests may be wanted again.
            (Some(Order::End), _) if !way.is_final() => way.await_change(&orders.cancel())?,
            (Some(_), _) => break,
            (None, walked) => walked?,
        }
    }
    ready.send();
    Ok(Verdict::AsAsked)
}

/// A way up in turns: whoever takes over in between may change everything.
struct Way<'a> {
    session: &'a Session,
    /// A volume that waits for its name may be opened at any time: it is waited for like all others.
    config: Config,
    seen: Seen,
    /// Which of those volumes could be used when the last turn ended, seen under the lock.
    usable: Option<BTreeSet<String>>,
}

impl<'a> Way<'a> {
    fn new(session: &'a Session) -> Self {
        Self {
            session,
            config: session.config.without_noauto(),
            seen: Seen::default(),
            usable: None,
        }
    }

    /// Whether all is done once everything is up. A volume that is opened by its name comes and goes, and its guests with it.
    fn is_final(&self) -> bool {
        !self.session.config.volumes.iter().any(|volume| volume.noauto)
    }

    fn await_and_start(&mut self, cancel: &Cancel, events: &Events) -> Result<(), Failure> {
        let session = self.session;
        if session.is_empty() {
            return Ok(());
        }
        let _lock = Session::lock(Part::Guests, GUESTS_UNIT, Demand::Patience, events, cancel)?;
        // Under a boot libvirt comes late; without libvirt on the host this unit is where it is said.
        let facts = session.facts(None, events, cancel)?;
        if let Some(error) = &facts.libvirt_error {
            return Err(Failure::Libvirt(format!("{error}; no guest is started")));
        }
        let graph = session.graph(&facts)?;
        notes::write(&session.config, &graph, &facts);
        let plan = plan::up(&self.config, &facts, &graph, &Names::default())?;
        let plan = self.seen.without_domains(plan);
        let watch = session.watch()?;
        let opening = Opening::Elsewhere(Box::new(secrets_alone(session, &plan)));
        let hands = Up::new(&self.config, &session.host, &watch, opening, &plan, &facts);
        let summary = walk(&plan, &hands, events, cancel);
        note_good(&mut self.seen, &summary);
        self.usable = Some(self.usable_of(&watch::read(&self.config, session.host.devices.as_ref())));
        Ok(())
    }

    /// Waits until one of the volumes that wait for their names has come or gone since the last turn.
    fn await_change(&mut self, cancel: &Cancel) -> Result<(), Failure> {
        let watch = self.session.watch()?;
        let mut before = self.usable.take();
        // Cancelled: whoever looks for the order knows why.
        let _ = watch.until(cancel, |facts| {
            let now = self.usable_of(facts);
            (*before.get_or_insert_with(|| now.clone()) != now).then_some(())
        });
        Ok(())
    }

    fn usable_of(&self, facts: &BTreeMap<String, VolumeFacts>) -> BTreeSet<String> {
        let is_usable = |volume: &&Volume| volume.noauto && facts.get(&volume.name).is_some_and(|found| is_ready(volume, found));
        let volumes = self.session.config.volumes.iter().filter(is_usable);
        volumes.map(|volume| volume.name.clone()).collect()
    }
}

/// The process of this unit's way up may be waiting for a volume that is opened by its name: nothing is to be started any more.
fn end_way_up() {
    let main = std::env::var("MAINPID").ok().and_then(|pid| pid.parse().ok());
    if let Some(pid) = main.filter(|pid| *pid > 1) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// `ExecStop=` of virt-unlock-guests.service.
pub(in crate::verbs) fn guests_down(app: &App) -> Result<Verdict, Failure> {
    let session = session_of_running(app, None)?;
    let orders = Orders::listen(|order| order == Order::Terminate)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_guests);
    let (events, cancel) = (report.events(), orders.cancel());
    let _heartbeat = Heartbeat::begin()?;
    let deadline = Instant::now() + session.config.host.stop_deadline;
    end_way_up();
    let _lock = Session::lock(Part::Guests, GUESTS_UNIT, Demand::End, &events, &cancel)?;
    let _keeper = Keeper::begin(&session)?;
    let facts = session.facts(Some(LIBVIRT_PATIENCE), &events, &cancel)?;
    if let Some(error) = &facts.libvirt_error {
        return Err(Failure::Libvirt(format!("{error}; no guest can be asked to stop")));
    }
    let graph = session.graph(&facts)?;
    let plan = plan::down(&facts, &graph, &Names::default())?.only(is_of_guests, "left to virt-unlock.service");
    let guests: BTreeSet<String> = plan
        .steps
        .iter()
        .filter(|step| is_of_guests(&step.layer))
        .map(|step| step.layer.name().to_owned())
        .collect();
    // Where this unit alone is stopped, theirs would stay active with nothing behind them.
    order(&session, move |systemd, cancel| {
        stop_named(*systemd, |name| guests.contains(name), cancel)
    })?;
    let hands = Down::new(&session.config, &session.host, deadline, &plan, &facts);
    let tally = Tally::default();
    let summary = walk(&plan, &hands, &tally.count(&events), &cancel);
    let ended = (!cancel.is_raised()).then_some((&tally, Half::Guests));
    say_end(&events, &summary, ended, "all guests are down", "not every guest is down");
    Ok(summary.is_good().into())
}

fn is_of_guests(layer: &Layer) -> bool {
    !is_of_volumes(layer)
}
