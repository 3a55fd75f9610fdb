//! What the two units run. virt-unlock.service asks, opens and mounts, and on its way back unmounts and closes;
//! virt-unlock-guests.service starts each domain as its volumes come open, whoever opened them, and shuts the domains down.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::in_force::in_force;
use super::session::Session;
use super::up::{is_of_volumes, unlocker};
use super::{App, Failure, Verdict, notes};
use crate::cancel::Cancel;
use crate::config;
use crate::engine::down::Down;
use crate::engine::up::{Opening, Up};
use crate::engine::{Summary, walk};
use crate::event::{Events, Happened};
use crate::graph::Layer;
use crate::host::lock::{Demand, FOLDER, Part};
use crate::host::orders::{Order, Orders};
use crate::host::units::{BusError, Systemd};
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::plan::{self, Names};
use crate::report::{Report, complain, plain};

const VOLUMES_UNIT: &str = "virt-unlock.service";
const GUESTS_UNIT: &str = "virt-unlock-guests.service";
/// The configuration that the last way up went by: the way down must not depend on what somebody is editing.
const RUNNING_CONFIG: &str = "running.toml";
/// How long the way down waits for a libvirt that does not answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(60);
/// libvirt's daemons that own domains: the monolithic one and the modular one.
const DAEMONS: [&str; 2] = ["libvirtd.service", "virtqemud.service"];
/// How often it is looked whether one of them is held up.
const KEEPER_LOOKS: Duration = Duration::from_secs(2);
/// A limit that somebody set on a unit is moved on for as long as the work goes on (`EXTEND_TIMEOUT_USEC=`, `sd_notify(3)`).
const HEARTBEAT: Duration = Duration::from_secs(10);

/// `ExecStart=` of virt-unlock.service.
pub(super) fn volumes_up(app: &App) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    keep_configuration(&session);
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
    loop {
        let walked = ask_and_open(&session, &orders.cancel(), &events, &ready);
        match (orders.take()?, walked) {
            // Somebody at a terminal takes over. What is still closed when he is through is asked for again.
            (Some(Order::Yield), _) => {}
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

fn ask_and_open(session: &Session, cancel: &Cancel, events: &Events, ready: &Ready) -> Result<(), Failure> {
    let _lock = Session::lock(Part::Volumes, VOLUMES_UNIT, Demand::Patience, events, cancel)?;
    let facts = session.facts(None, events, cancel)?;
    let graph = session.graph(&facts)?;
    let plan = plan::up(&session.config, &facts, &graph, &Names::default())?;
    let watch = session.watch()?;
    let unlocker = unlocker(session, &plan, notes::waiting_guests(&session.config, &facts, &graph));
    ready.once_none(unlocker.unanswered(), cancel)?;
    let hands = Up::new(
        &session.config,
        &session.host,
        &watch,
        Opening::Here(Box::new(unlocker)),
        &plan,
        &facts,
    );
    walk(&plan, &hands, events, cancel);
    Ok(())
}

/// `ExecStop=` of virt-unlock.service. While guests still use a volume it waits, and closes each as soon as it is free.
pub(super) fn volumes_down(app: &App) -> Result<Verdict, Failure> {
    let session = session_of_running(app)?;
    let orders = Orders::listen(|order| order == Order::Terminate)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_volumes);
    let _heartbeat = Heartbeat::begin()?;
    close_all(&session, &report.events(), &orders.cancel())
}

fn close_all(session: &Session, events: &Events, cancel: &Cancel) -> Result<Verdict, Failure> {
    let deadline = Instant::now() + session.config.host.stop_deadline;
    // At shutdown it is on its way down already. There is no PartOf=, for that would stop the guests too when this unit only
    // crashed and is started again.
    order(session, |systemd, cancel| systemd.stop_unit(GUESTS_UNIT, cancel))?;
    let _lock = Session::lock(Part::Volumes, VOLUMES_UNIT, Demand::End, events, cancel)?;
    let facts = session.facts(None, events, cancel)?;
    let graph = session.graph(&facts)?;
    let plan = plan::down(&facts, &graph, &Names::default())?;
    let hands = Down::new(&session.config, &session.host, deadline, &facts);
    let summary = walk(&plan, &hands, events, cancel);
    say_end(events, &summary, "all volumes are closed", "not every volume is closed");
    Ok(summary.is_good().into())
}

/// Orders something of systemd, and does not wait for it: early in a boot and late in a shutdown the message bus takes its time.
fn order(session: &Session, what: fn(&Systemd, &Cancel) -> Result<(), BusError>) -> Result<(), Failure> {
    let (systemd, never) = (Arc::clone(&session.systemd), Cancel::new()?);
    // A bus that is not there yet, or not any more, is a boot or a shutdown: systemd does it by its own plan then.
    thread::Builder::new()
        .name("order".to_owned())
        .spawn(move || what(&systemd, &never))?;
    Ok(())
}

/// `ExecStart=` of virt-unlock-guests.service. The boot does not wait for it.
pub(super) fn guests_up(app: &App) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let orders = Orders::listen(|_| true)?;
    let report = Report::for_service(app.verbosity, Path::new(FOLDER), is_of_guests);
    let ready = Ready::within(Duration::ZERO)?;
    loop {
        let walked = await_and_start(&session, &orders.cancel(), &report.events());
        match (orders.take()?, walked) {
            (Some(Order::Yield), _) => {}
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
pub(super) fn guests_down(app: &App) -> Result<Verdict, Failure> {
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

fn say_end(events: &Events, summary: &Summary, good: &str, bad: &str) {
    let happened = if summary.is_good() {
        Happened::Note(good.to_owned())
    } else {
        Happened::Warning(bad.to_owned())
    };
    events.say(None, happened);
}

/// For the way down: the configuration as it is, with what is open by that of the way up and was taken out or changed since; or, if
/// somebody has just broken it, the one of the way up.
fn session_of_running(app: &App) -> Result<Session, Failure> {
    let kept = running_config();
    let failure = match Session::begin(app, false) {
        Err(failure @ Failure::Config(_)) => failure,
        other => return Ok(with_forgotten(other?, &kept)),
    };
    if !kept.exists() {
        return Err(failure);
    }
    complain(&failure.to_string());
    complain(&format!(
        "<4>the configuration is wrong: going down by the one that was in force on the way up, {}",
        kept.display()
    ));
    Session::with_config(app, Some(&kept), false)
}

fn with_forgotten(mut session: Session, kept: &Path) -> Session {
    // It was right when it was kept; one that another version of this program wrote is no help.
    let Ok(loaded) = config::load(Some(kept)) else {
        return session;
    };
    let devices = Arc::clone(&session.host.devices);
    let (config, forgotten) = in_force(session.config, &loaded.config, |volume| devices.volume_facts(volume));
    session.config = config;
    for name in forgotten {
        complain(&format!(
            "<4>volume {name} is open, but not as the configuration has it now: going down by the one of the way up, {}",
            kept.display()
        ));
    }
    session
}

fn keep_configuration(session: &Session) {
    // One after the other they are one file: a table may stand once in all of them, and nothing stands outside of a table.
    let text = session
        .files
        .iter()
        .map(|(_, text)| text.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    let (kept, new) = (running_config(), running_config().with_extension("new"));
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
    };
    let written = fs::create_dir_all(FOLDER)
        .and_then(|()| open())
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, &kept));
    if let Err(error) = written {
        complain(&format!(
            "<4>the configuration is not kept for the way down: {}: {}",
            kept.display(),
            plain(&error.to_string())
        ));
    }
}

fn running_config() -> PathBuf {
    Path::new(FOLDER).join(RUNNING_CONFIG)
}

/// `READY=1`, once: logins wait for it (systemd-user-sessions.service is ordered after virt-unlock.service).
#[derive(Clone)]
struct Ready(Arc<Monitor<Held>>);

#[derive(Clone, Copy, Default)]
struct Held {
    asked: bool,
    sent: bool,
}

impl Ready {
    /// Sent when a question has been open for as long as `limit`, if not before. Zero: at once.
    fn within(limit: Duration) -> Result<Self, Failure> {
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
    fn is_asked(&self) {
        if !self.0.look(|held| held.asked) {
            self.0.update(|held| held.asked = true);
        }
    }

    /// Sent once no question is left.
    fn once_none(&self, unanswered: Arc<Monitor<usize>>, cancel: &Cancel) -> Result<(), Failure> {
        let (ready, cancel) = (self.clone(), cancel.clone());
        thread::Builder::new().name("ready".to_owned()).spawn(move || {
            if unanswered.wait(None, &cancel, |count| (*count == 0).then_some(())).is_ok() {
                ready.send();
            }
        })?;
        Ok(())
    }

    fn send(&self) {
        let first = self.0.update(|held| !std::mem::replace(&mut held.sent, true));
        if first {
            let _ = sd_notify::notify(&[NotifyState::Ready]);
        }
    }

    fn is_sent(&self) -> bool {
        self.0.look(|held| held.sent)
    }
}

/// Sees to it, until it is dropped, that a daemon of libvirt's that is restarted just now comes back: this unit is ordered after
/// it, so systemd would wait with it for our stop, and our stop waits for the daemon.
struct Keeper(Cancel);

impl Keeper {
    fn begin(session: &Session) -> Result<Self, Failure> {
        let (stop, systemd) = (Cancel::new()?, Arc::clone(&session.systemd));
        let flag = stop.clone();
        thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            while !flag.wait(KEEPER_LOOKS) {
                for daemon in DAEMONS {
                    // No such daemon here, or a shutdown: nothing to keep.
                    let _ = systemd.start_past_order(daemon, &flag);
                }
            }
        })?;
        Ok(Self(stop))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// Says that the work goes on, until it is dropped.
struct Heartbeat(Cancel);

impl Heartbeat {
    fn begin() -> Result<Self, Failure> {
        let stop = Cancel::new()?;
        let flag = stop.clone();
        thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            loop {
                let micros = u32::try_from((HEARTBEAT * 3).as_micros()).unwrap_or(u32::MAX);
                let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
                if flag.wait(HEARTBEAT) {
                    break;
                }
            }
        })?;
        Ok(Self(stop))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.raise();
    }
}
