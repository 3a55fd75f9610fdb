//! `virt-unlock up`: by hand, everything or what is named.

use std::io::IsTerminal;
use std::sync::Once;
use std::time::Duration;

use super::by_hand::ByHand;
use super::ending::noting_up;
use super::session::Session;
use super::surroundings::{Fault, key_file_fault};
use super::{App, Failure, NOTHING_CONFIGURED, Verdict, notes, service};
use crate::cancel::Cancel;
use crate::config::{Config, Start, Unlock};
use crate::engine::up::{Opening, Up};
use crate::engine::{Summary, walk};
use crate::event::{Events, Happened};
use crate::facts::{Facts, VolumeFacts};
use crate::graph::{Graph, Layer};
use crate::host::lock::{Demand, Part};
use crate::host::orders::Order;
use crate::plan::{self, Action, Names, Plan, UnknownName};
use crate::unlock::Unlocker;

/// A daemon that restarts is back by then; one that is not installed is not worth a longer wait.
pub(super) const LIBVIRT_PATIENCE: Duration = Duration::from_secs(15);

/// What takes everything down at a shutdown.
const UNITS: [&str; 2] = ["virt-unlock.service", "virt-unlock-guests.service"];

pub(super) fn up(app: &App, names: &[String]) -> Result<Verdict, Failure> {
    let session = || Session::begin(app, std::io::stderr().is_terminal());
    let Some(run) = ByHand::begin(app, "up", names, session, |order| order > Order::Yield)? else {
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
        // A wrong name touches nothing, not even the service's open question.
        let facts = session.facts(Some(LIBVIRT_PATIENCE), events, cancel)?;
        make_plan(session, &facts, names)?;
    }
    let what = "`virt-unlock up`";
    let _volumes = Session::lock(Part::Volumes, what, Demand::Yield, events, cancel)?;
    let _guests = Session::lock(Part::Guests, what, Demand::Yield, events, cancel)?;
    service::keep_by_hand(session);
    let facts = session.facts(Some(LIBVIRT_PATIENCE), events, cancel)?;
    let (graph, plan) = make_plan(session, &facts, names)?;
    if let Some(error) = &facts.libvirt_error {
        events.say(None, Happened::Warning(format!("{error}; no guest is started")));
    }
    let unknown = if names.is_all() {
        unknown_guests(&session.config, &facts)
    } else {
        Vec::new()
    };
    for words in &unknown {
        events.say(None, Happened::Warning(words.clone()));
    }
    notes::write(&session.config, &graph, &facts);

    let unlocker = unlocker(session, &plan, notes::waiting_guests(&session.config, &facts, &graph));
    let summary = walk_here(session, &plan, &facts, unlocker, events, cancel)?;

    let good = summary.is_good() && facts.libvirt_error.is_none() && unknown.is_empty();
    if good && plan.work().next().is_none() {
        events.say(None, Happened::Note("nothing to do: all that is asked for is up".to_owned()));
    }
    // The units go by the configuration of this host.
    if good && names.is_all() && app.config.is_none() {
        take_into_service(session, events, cancel);
    } else {
        warn_without_service(session, names, events, cancel);
    }
    Ok(good.into())
}

/// What is to be done; a name that libvirt alone could know says so.
pub(super) fn make_plan(session: &Session, facts: &Facts, names: &Names) -> Result<(Graph, Plan), Failure> {
    let graph = session.graph(facts)?;
    let plan = plan::up(&session.config, facts, &graph, names).map_err(|unknown| explain(&unknown, session, facts))?;
    Ok((graph, plan))
}

/// An unknown name in more words. Without libvirt no guest's name is known: that is not the fault of the command line.
pub(super) fn explain(unknown: &UnknownName, session: &Session, facts: &Facts) -> Failure {
    match &facts.libvirt_error {
        _ if session.is_empty() => Failure::Usage(format!("no volume or guest {:?}: {NOTHING_CONFIGURED}", unknown.name)),
        Some(error) => Failure::Unable(format!("{unknown}; {error}")),
        None => Failure::Usage(unknown.to_string()),
    }
}

/// A sentence for each guest that has a table, is not kept down by it, and is unknown to libvirt: no plan has a step for it.
pub(super) fn unknown_guests(config: &Config, facts: &Facts) -> Vec<String> {
    let Some(libvirt) = &facts.libvirt else { return Vec::new() };
    let is_known = |name: &str| libvirt.domains.iter().any(|domain| domain.name == name);
    config
        .domains
        .iter()
        .filter(|table| table.start != Start::Never && !is_known(&table.name))
        .map(|table| {
            format!(
                "guest {}: libvirt has no guest of this name, though [domain] names it; `virsh list --all` shows the names",
                table.name
            )
        })
        .collect()
}

/// Who opens the volumes of a plan.
pub(super) fn unlocker(session: &Session, plan: &Plan, guests: notes::WaitingGuests) -> Unlocker {
    let to_open: Vec<&str> = plan
        .steps
        .iter()
        .filter(|step| step.action == Action::Open)
        .map(|step| step.layer.name())
        .collect();
    Unlocker::new(&session.config, &session.host, guests, &to_open).with_secrets(&session.config, &to_set(plan))
}

/// Who asks where somebody else opens the volumes: for the secrets alone.
pub(super) fn secrets_alone(session: &Session, plan: &Plan) -> Unlocker {
    let nobody = notes::WaitingGuests::default();
    Unlocker::new(&session.config, &session.host, nobody, &[]).with_secrets(&session.config, &to_set(plan))
}

/// The secrets of a plan that are asked for.
fn to_set(plan: &Plan) -> Vec<&str> {
    let steps = plan.steps.iter().filter(|step| step.action == Action::SetSecret);
    steps.map(|step| step.layer.name()).collect()
}

/// Walks a way up whose volumes are opened here, by the unlocker.
pub(super) fn walk_here(
    session: &Session,
    plan: &Plan,
    facts: &Facts,
    unlocker: Unlocker,
    events: &Events,
    cancel: &Cancel,
) -> Result<Summary, Failure> {
    // Once: a service walks again whenever somebody has taken its question over.
    static SAID: Once = Once::new();
    SAID.call_once(|| warn_of_key_files(session, plan, events));
    let watch = session.watch()?;
    let opening = Opening::Here(Box::new(unlocker));
    let hands = Up::new(&session.config, &session.host, &watch, opening, plan, facts);
    let is_up = facts.volumes.values().any(VolumeFacts::is_open);
    Ok(walk(plan, &hands, &noting_up(events, is_up), cancel))
}

/// Key files of what is opened now that are not root's alone.
fn warn_of_key_files(session: &Session, plan: &Plan, events: &Events) {
    let open = |name: &str| {
        plan.steps
            .iter()
            .any(|step| step.action == Action::Open && step.layer.name() == name)
    };
    let volumes = || session.config.volumes.iter().filter(|volume| open(&volume.name));
    let masters = session
        .config
        .masters
        .iter()
        .filter(|master| volumes().any(|volume| volume.is_opened_by(&master.name)));
    let ways = volumes()
        .flat_map(|volume| &volume.unlock)
        .chain(masters.flat_map(|master| &master.unlock));
    let mut faults: Vec<String> = Vec::new();
    for way in ways {
        if let Unlock::KeyFile(file) = way
            && file.device.is_none()
            && let Some(Fault::Open(words)) = key_file_fault(&file.path)
        {
            faults.push(format!("{file}: {words}; `chmod 0400` and `chown root:` help"));
        }
    }
    faults.dedup();
    for words in faults {
        events.say(None, Happened::Warning(words));
    }
}

/// What was brought up in part is not given to the units: their own way up would ask for the rest. But somebody has to know.
fn warn_without_service(session: &Session, names: &Names, events: &Events, cancel: &Cancel) {
    if service::have_units(*session.systemd, names, cancel) {
        return;
    }
    if UNITS
        .into_iter()
        .any(|unit| session.systemd.is_down(unit, cancel) == Ok(true))
    {
        let words = "virt-unlock.service is not active, so a shutdown does not take this down in good order: use `virt-unlock down` \
                     before it, or `systemctl start virt-unlock` (which asks for what is still closed), or `systemctl start virt-unlock@NAME` \
                     for what you named";
        events.say(None, Happened::Warning(words.to_owned()));
    }
}

/// The way back belongs to the shutdown: everything is up, so the units' own way up has nothing to do and nothing to ask, and
/// once they are active the shutdown brings it all down in good order.
fn take_into_service(session: &Session, events: &Events, cancel: &Cancel) {
    if !sd_notify::booted().unwrap_or(false) {
        return;
    }
    for unit in UNITS {
        if let Err(error) = session.systemd.start_unit(unit, cancel) {
            events.say(
                None,
                Happened::Warning(format!(
                    "{unit} cannot be started ({error}): at shutdown use `virt-unlock down`, or nothing is stopped in good order"
                )),
            );
            return;
        }
    }
}

/// Whether a layer is the volumes half's.
pub(super) fn is_of_volumes(layer: &Layer) -> bool {
    matches!(layer, Layer::Volume(_) | Layer::Mount(_))
}
