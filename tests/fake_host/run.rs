//! Runs of the engine on the fake host, as the commands make them: read facts, plan, walk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virt_unlock::cancel::Cancel;
use virt_unlock::config::{Config, DeviceSpec, DomainConfig, Mount, SecretConfig, Volume};
use virt_unlock::engine::down::Down;
use virt_unlock::engine::up::{Opening, Up};
use virt_unlock::engine::{self, Summary, walk};
use virt_unlock::event::{Event, Events, Happened, Outcome};
use virt_unlock::facts::Facts;
use virt_unlock::graph::{self, Layer};
use virt_unlock::host::watch::{self, Watch};
use virt_unlock::monitor::Monitor;
use virt_unlock::pace::Pace;
use virt_unlock::plan::{self, Action, Names};
use virt_unlock::unlock::Unlocker;

use super::{FakeHost, PATIENCE};

/// A configuration with volumes at `/dev/vg0/NAME`.
pub fn config(volumes: &[&str]) -> Config {
    let volume = |name: &&str| Volume::new(name, DeviceSpec::Path(format!("/dev/vg0/{name}").into()));
    Config {
        volumes: volumes.iter().map(volume).collect(),
        ..Config::default()
    }
}

/// Adds the table of a secret.
pub fn secret<'a>(config: &'a mut Config, name: &str) -> &'a mut SecretConfig {
    config.secrets.push(SecretConfig::new(name));
    config.secrets.last_mut().unwrap()
}

/// Where the image lies that a secret opens.
pub fn image_of(secret: &str) -> PathBuf {
    format!("/images/{secret}.qcow2").into()
}

/// Gives a volume its mount at `/srv/NAME`.
pub fn mount(config: &mut Config, volume: &str) {
    edit(config, volume).mount = Some(Mount {
        at: format!("/srv/{volume}").into(),
        fstype: None,
        options: None,
    });
}

/// A volume's table.
pub fn edit<'a>(config: &'a mut Config, volume: &str) -> &'a mut Volume {
    config.volumes.iter_mut().find(|found| found.name == volume).unwrap()
}

/// A domain's table, new where it has none.
pub fn table<'a>(config: &'a mut Config, domain: &str) -> &'a mut DomainConfig {
    if config.domain(domain).is_none() {
        config.domains.push(DomainConfig::new(domain));
    }
    config.domains.iter_mut().find(|found| found.name == domain).unwrap()
}

/// Limits that are over at once where a test waits for the limit, and never where it waits for what comes before.
pub fn quick() -> Pace {
    let tick = Duration::from_millis(2);
    Pace {
        look_again: tick,
        ask_again: Duration::ZERO,
        busy_look: tick,
        busy_limit: 10 * tick,
        destroy_limit: 10 * tick,
        least_to_stop: 10 * tick,
        libvirt_limit: PATIENCE,
        libvirt_pause: tick,
        late_volume_limit: 10 * tick,
        device_grace: 5 * tick,
        order_patience: PATIENCE,
        machine: Duration::ZERO,
        machine_pause: tick,
        machine_pause_longest: 2 * tick,
        memory_look: tick,
        memory_limit: 10 * tick,
        ..Pace::default()
    }
}

/// How a run is made.
pub struct Run<'a> {
    host: &'a FakeHost,
    config: &'a Config,
    names: Names,
    pace: Pace,
    /// Raised, it cancels the run.
    pub cancel: Cancel,
    elsewhere: bool,
    libvirt: bool,
    deadline: Duration,
    unanswered: Mutex<Option<Arc<Monitor<usize>>>>,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    pub summary: Summary,
    pub events: Vec<Event>,
}

impl<'a> Run<'a> {
    pub fn new(host: &'a FakeHost, config: &'a Config) -> Self {
        Self {
            host,
            config,
            names: Names::default(),
            pace: quick(),
            cancel: Cancel::new().unwrap(),
            elsewhere: false,
            libvirt: true,
            // Far enough for every guest's stop-timeout; what hangs is ended by the guard.
            deadline: 60 * PATIENCE,
            unanswered: Mutex::new(None),
        }
    }

    pub fn names(mut self, names: &[&str]) -> Self {
        self.names = Names::new(names.iter().map(|name| (*name).to_owned()));
        self
    }

    pub fn pace(mut self, change: impl FnOnce(&mut Pace)) -> Self {
        change(&mut self.pace);
        self
    }

    /// Somebody else opens the volumes.
    pub fn elsewhere(mut self) -> Self {
        self.elsewhere = true;
        self
    }

    pub fn without_libvirt(mut self) -> Self {
        self.libvirt = false;
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub fn up(&self) -> Report {
        let ports = self.ports();
        let facts = self.facts();
        let graph = graph::of(self.config, &facts).unwrap();
        let plan = plan::up(self.config, &facts, &graph, &self.names).unwrap();
        let watch = Watch::begin(self.config, Arc::clone(&ports.devices)).unwrap();
        let to_open: Vec<&str> = plan
            .work()
            .filter(|step| step.action == Action::Open)
            .map(|step| step.layer.name())
            .collect();
        let to_set: Vec<&str> = plan
            .work()
            .filter(|step| step.action == Action::SetSecret)
            .map(|step| step.layer.name())
            .collect();
        let opening = if self.elsewhere {
            let unlocker = Unlocker::new(self.config, &ports, BTreeMap::new(), &[]);
            Opening::Elsewhere(Box::new(unlocker.with_secrets(self.config, &to_set).with_pace(self.pace)))
        } else {
            let unlocker = Unlocker::new(self.config, &ports, BTreeMap::new(), &to_open);
            let unlocker = unlocker.with_secrets(self.config, &to_set).with_pace(self.pace);
            *self.unanswered.lock().unwrap() = Some(unlocker.unanswered());
            Opening::Here(Box::new(unlocker))
        };
        let hands = Up::new(self.config, &ports, &watch, opening, &plan, &facts).with_pace(self.pace);
        self.guarded(|events| walk(&plan, &hands, events, &self.cancel))
    }

    pub fn down(&self) -> Report {
        let ports = self.ports();
        let facts = self.facts();
        let graph = graph::of(self.config, &facts).unwrap();
        let plan = plan::down(&facts, &graph, &self.names).unwrap();
        let hands = Down::new(self.config, &ports, Instant::now() + self.deadline, &plan, &facts).with_pace(self.pace);
        self.guarded(|events| walk(&plan, &hands, events, &self.cancel))
    }

    /// The way down of an emergency.
    pub fn down_at_once(&self) -> Report {
        let ports = self.ports();
        let facts = self.facts();
        let graph = graph::of(self.config, &facts).unwrap();
        let plan = plan::down_at_once(&facts, &graph, &self.names).unwrap();
        let plan = plan.only(|layer| !matches!(layer, Layer::Pool(_)), "it holds nothing open");
        let hands = Down::new(self.config, &ports, Instant::now() + self.deadline, &plan, &facts);
        let hands = hands.with_pace(self.pace).at_once();
        let limit = self.deadline + self.pace.destroy_limit;
        self.guarded(|events| engine::down_at_once(&plan, &hands, limit, events, &self.cancel).unwrap())
    }

    /// The end of what `up` of these names began.
    pub fn stop(&self) -> Report {
        let ports = self.ports();
        let facts = self.facts();
        let graph = graph::of(self.config, &facts).unwrap();
        let plan = plan::stop(self.config, &facts, &graph, &self.names, |_| false).unwrap();
        let hands = Down::new(self.config, &ports, Instant::now() + self.deadline, &plan, &facts).with_pace(self.pace);
        self.guarded(|events| walk(&plan, &hands, events, &self.cancel))
    }

    /// Waits until exactly this many volumes may still need an answer.
    pub fn wait_unanswered(&self, count: usize) {
        let unanswered = Arc::clone(self.unanswered.lock().unwrap().as_ref().unwrap());
        let never = Cancel::new().unwrap();
        let waited = unanswered.wait(Some(PATIENCE), &never, |now| (*now == count).then_some(()));
        assert!(waited.is_ok(), "{} unanswered, not {count}", unanswered.look(|now| *now));
    }

    fn ports(&self) -> virt_unlock::host::Host {
        if self.libvirt {
            self.host.ports()
        } else {
            self.host.ports_without_libvirt()
        }
    }

    /// What a command reads before it plans.
    pub fn facts(&self) -> Facts {
        let ports = self.ports();
        let never = Cancel::new().unwrap();
        Facts {
            volumes: watch::read(self.config, ports.devices.as_ref()),
            libvirt: ports.hypervisor.and_then(|hypervisor| hypervisor.facts(&never).ok()),
            libvirt_error: None,
        }
    }

    /// A run that hangs is cancelled and fails its test.
    fn guarded(&self, run: impl FnOnce(&Events) -> Summary) -> Report {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let events = Events::new(move |event| sink.lock().unwrap().push(event.clone()));
        let (done, watched) = channel::<()>();
        let (hung, summary) = std::thread::scope(|scope| {
            let guard = scope.spawn(move || {
                let hung = watched.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Timeout);
                if hung {
                    self.cancel.raise();
                }
                hung
            });
            let summary = run(&events);
            drop(done);
            (guard.join().unwrap(), summary)
        });
        let events = std::mem::take(&mut *seen.lock().unwrap());
        assert!(!hung, "hung: {events:#?}\n{}", self.host.log().join("\n"));
        Report { summary, events }
    }
}

impl Report {
    pub fn of(&self, layer: &Layer) -> &Outcome {
        self.summary
            .outcome(layer)
            .unwrap_or_else(|| panic!("{layer} is not in the plan: {:?}", self.summary))
    }

    pub fn volume(&self, name: &str) -> &Outcome {
        self.of(&Layer::Volume(name.into()))
    }

    pub fn mount(&self, name: &str) -> &Outcome {
        self.of(&Layer::Mount(name.into()))
    }

    pub fn domain(&self, name: &str) -> &Outcome {
        self.of(&Layer::Domain(name.into()))
    }

    pub fn secret(&self, name: &str) -> &Outcome {
        self.of(&Layer::Secret(name.into()))
    }

    /// The words of all warnings.
    pub fn warnings(&self) -> Vec<&str> {
        let warning = |event: &'_ Event| matches!(event.happened, Happened::Warning(_));
        self.events.iter().filter(|event| warning(event)).map(words).collect()
    }

    /// Whether some event has these words.
    pub fn says(&self, part: &str) -> bool {
        self.count(part) > 0
    }

    /// How many events have these words.
    pub fn count(&self, part: &str) -> usize {
        self.events.iter().filter(|event| words(event).contains(part)).count()
    }

    #[track_caller]
    pub fn assert_good(&self) -> &Self {
        assert!(self.summary.is_good(), "{:#?}", self.summary);
        self
    }
}

fn words(event: &Event) -> &str {
    match &event.happened {
        Happened::Working(words)
        | Happened::Waiting(words)
        | Happened::Asking(words)
        | Happened::Note(words)
        | Happened::Warning(words)
        | Happened::Ended(
            Outcome::Done(words)
            | Outcome::Already(words)
            | Outcome::Left(words)
            | Outcome::Skipped(words)
            | Outcome::Failed(words),
        ) => words,
        Happened::Begun(phase) | Happened::Over(phase) => phase.word(),
        Happened::Ended(Outcome::Cancelled) => "cancelled",
    }
}

/// The words of an outcome that must be a failure.
#[track_caller]
pub fn failure(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed(words) => words,
        other => panic!("did not fail: {other:?}"),
    }
}
