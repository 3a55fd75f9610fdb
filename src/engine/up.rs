//! The way up, one layer each: open, mount, start the pool, set the secret, start the domain. The way back is in [`super::down`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::secret::{self, Use};
use super::walk::Hands;
use crate::cancel::Cancel;
use crate::config::{Config, Volume};
use crate::event::{Ending, Kind, Outcome, Phase, Progress};
use crate::facts::{Facts, Mapping, MountState, VolumeFacts};
use crate::graph::Layer;
use crate::host::watch::Watch;
use crate::host::{Host, Hypervisor, HypervisorError, MountError};
use crate::monitor::Ended;
use crate::pace::Pace;
use crate::plan::{Action, Plan, Step};
use crate::text;
use crate::unlock::Unlocker;

/// How many times the first pause between two tries the longest is.
const GROWTH: u32 = 16;

/// Who opens the volumes.
pub enum Opening {
    /// This run does: it asks, opens and mounts.
    Here(Box<Unlocker>),
    /// Somebody else does, at any time; this run waits for it, and asks for nothing but the secrets.
    Elsewhere(Box<Unlocker>),
}

impl Opening {
    pub(super) fn unlocker(&self) -> &Unlocker {
        let (Self::Here(unlocker) | Self::Elsewhere(unlocker)) = self;
        unlocker
    }
}

/// Brings layers up.
pub struct Up<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a Host,
    watch: &'a Watch,
    pub(super) opening: Opening,
    ranks: BTreeMap<Layer, usize>,
    pub(super) uuids: BTreeMap<String, String>,
    pub(super) uses: BTreeMap<String, Use>,
    /// For each domain those that come after it and are still to be started.
    pub(super) followers: BTreeMap<Layer, Vec<Layer>>,
    /// The volumes whose name a mapping of somebody else's had when the plan was made.
    foreign: BTreeSet<String>,
    pub(super) pace: Pace,
}

impl<'a> Up<'a> {
    /// For one plan made from `facts`.
    pub fn new(config: &'a Config, host: &'a Host, watch: &'a Watch, opening: Opening, plan: &Plan, facts: &Facts) -> Self {
        let ranks = plan
            .steps
            .iter()
            .enumerate()
            .map(|(rank, step)| (step.layer.clone(), rank))
            .collect();
        Self {
            config,
            host,
            watch,
            opening,
            ranks,
            uuids: facts.domain_uuids(),
            uses: secret::uses(config, plan, facts),
            followers: followers(plan),
            foreign: facts
                .volumes
                .iter()
                .filter(|(_, facts)| matches!(facts.mapping, Mapping::Foreign(_)))
                .map(|(name, _)| name.clone())
                .collect(),
            pace: Pace::default(),
        }
    }

    /// With other limits and pauses. Those of opening are the [`Unlocker`]'s own.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    fn volume_of(&self, step: &Step) -> Option<&'a Volume> {
        self.config.volume(step.layer.name())
    }

    pub(super) fn rank_of(&self, layer: &Layer) -> usize {
        self.ranks.get(layer).copied().unwrap_or(usize::MAX)
    }

    fn open(&self, volume: &Volume, step: &Step, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        match &self.opening {
            Opening::Here(unlocker) => unlocker.unlock(volume, self.rank_of(&step.layer), self.watch, progress, cancel),
            Opening::Elsewhere(_) => {
                progress.waiting("waiting until it is opened");
                self.await_volume(volume, None, cancel, VolumeFacts::is_open, "open").into()
            }
        }
    }

    fn mount(&self, volume: &Volume, progress: Progress<'_>, cancel: &Cancel) -> Outcome {
        let Some(mount) = &volume.mount else {
            return Outcome::Already("has no mount".to_owned());
        };
        if matches!(self.opening, Opening::Elsewhere(_)) {
            progress.waiting("waiting until it is mounted");
            return self.await_volume(volume, None, cancel, |facts| facts.mount == MountState::Ours, "mounted");
        }
        let at = mount.at.display();
        let hidden = self.host.devices.entries_below(&mount.at);
        if hidden > 0 {
            let files = if hidden == 1 {
                "1 file or folder".to_owned()
            } else {
                format!("{hidden} files and folders")
            };
            progress.warning(format!(
                "{files} in {at} lie on the disk below, unencrypted, and are hidden by the mount: move or delete them while it is not mounted"
            ));
        }
        progress.working("checking the filesystem and mounting it");
        match progress.during(Phase::Mount, || self.host.mounts.mount(volume, mount, cancel)) {
            Ok(()) => {}
            Err(MountError::Cancelled) => return Outcome::Cancelled,
            Err(error) => return Outcome::Failed(error.to_string()),
        }
        match self.host.devices.volume_facts(volume).mount {
            MountState::Ours => Outcome::Done(format!("mounted at {at}")),
            MountState::None => Outcome::Failed(format!("systemd mounted it at {at}, but nothing is mounted there now")),
            MountState::Foreign(words) => Outcome::Failed(words),
        }
    }

    fn start_pool(&self, name: &str, hypervisor: &dyn Hypervisor, progress: Progress<'_>, cancel: &Cancel) -> Outcome {
        progress.working("starting and reading its volumes");
        let start = || hypervisor.start_pool(name, cancel);
        match progress.during(Phase::Pool, || self.patiently(progress, cancel, start)) {
            Ok(()) => Outcome::Done("started".to_owned()),
            Err(HypervisorError::Cancelled) => Outcome::Cancelled,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    pub(super) fn await_volume(
        &self,
        volume: &Volume,
        limit: Option<Duration>,
        cancel: &Cancel,
        ready: impl Fn(&VolumeFacts) -> bool,
        done: &str,
    ) -> Outcome {
        match self
            .watch
            .wait(&volume.name, limit, cancel, |facts| ready(facts).then_some(()))
        {
            Ok(()) => Outcome::Done(done.to_owned()),
            Err(Ended::Cancelled) => Outcome::Cancelled,
            Err(Ended::TimedOut) => Outcome::Failed(format!(
                "volume {} is not {done}; `virt-unlock up {}` opens it",
                volume.name, volume.name
            )),
        }
    }

    /// Repeats a call while libvirt does not answer, or says no for a reason that may pass, within [`Pace::libvirt_limit`] and with
    /// pauses that grow.
    pub(super) fn patiently<T>(
        &self,
        progress: Progress<'_>,
        cancel: &Cancel,
        mut call: impl FnMut() -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let limit = self.pace.libvirt_limit;
        let since = Instant::now();
        let mut pause = self.pace.libvirt_pause;
        loop {
            let error = match call() {
                Err(error @ (HypervisorError::Unavailable(_) | HypervisorError::Passing(_))) if since.elapsed() < limit => error,
                result => return result,
            };
            let left = limit.saturating_sub(since.elapsed());
            let again = pause.min(left);
            let words = format!(
                "{error}; trying again in {}, and for {} at most",
                text::duration(again),
                text::seconds(left)
            );
            if matches!(error, HypervisorError::Unavailable(_)) {
                progress.waiting_for_libvirt(words);
            } else {
                progress.waiting(words);
            }
            if cancel.wait(again) {
                return Err(HypervisorError::Cancelled);
            }
            pause = (pause * 2).min(self.pace.libvirt_pause * GROWTH);
        }
    }
}

impl Hands for Up<'_> {
    fn announce(&self, step: &Step) {
        if let (Action::Open, Opening::Here(unlocker), Some(volume)) = (step.action, &self.opening, self.volume_of(step)) {
            unlocker.announce(volume, self.rank_of(&step.layer));
        }
        if let (Action::SetSecret, Some(secret)) = (step.action, self.config.secret(step.layer.name())) {
            self.opening.unlocker().announce_secret(secret, self.rank_of(&step.layer));
        }
    }

    fn pass_over(&self, step: &Step) {
        if let (Action::Open, Opening::Here(unlocker), Some(volume)) = (step.action, &self.opening, self.volume_of(step)) {
            unlocker.pass_over(volume);
        }
        if let (Action::SetSecret, Some(secret)) = (step.action, self.config.secret(step.layer.name())) {
            self.opening.unlocker().pass_over_secret(secret);
        }
    }

    fn perform(&self, step: &Step, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        let name = step.layer.name();
        let outcome = match (step.action, self.volume_of(step), self.host.hypervisor.as_deref()) {
            (Action::Open, Some(volume), _) => return self.open(volume, step, progress, cancel),
            (Action::Mount, Some(volume), _) => self.mount(volume, progress, cancel),
            (Action::Open | Action::Mount, None, _) => Outcome::Failed("is not configured".to_owned()),
            (Action::StartPool, _, Some(hypervisor)) => self.start_pool(name, hypervisor, progress, cancel),
            (Action::SetSecret, _, Some(hypervisor)) => match self.config.secret(name) {
                Some(secret) => self.set_secret(secret, self.rank_of(&step.layer), hypervisor, progress, cancel),
                None => Outcome::Failed("is not configured".to_owned()),
            },
            (Action::Start, _, Some(hypervisor)) => self.start(&step.layer, hypervisor, progress, cancel),
            (Action::Await, _, Some(hypervisor)) => self.await_running(step, hypervisor, progress, cancel),
            (action, ..) => Outcome::Failed(format!("{} is not a step of the way up", action.word())),
        };
        outcome.into()
    }

    fn kind(&self, step: &Step, outcome: &Outcome) -> Option<Kind> {
        match (&step.layer, outcome) {
            (Layer::Volume(_), Outcome::Done(_) | Outcome::Already(_)) => Some(Kind::VolumeOpen),
            (Layer::Volume(name), Outcome::Failed(_)) if step.action == Action::Blocked && self.foreign.contains(&**name) => {
                Some(Kind::ForeignMapping)
            }
            (Layer::Volume(_), Outcome::Failed(_) | Outcome::Skipped(_)) => Some(Kind::VolumeNotOpened),
            (Layer::Mount(_), Outcome::Done(_)) => Some(Kind::Mounted),
            (Layer::Mount(_), Outcome::Failed(_) | Outcome::Skipped(_)) => Some(Kind::NotMounted),
            (Layer::Domain(_), Outcome::Done(_)) => Some(Kind::GuestStarted),
            (Layer::Domain(_), Outcome::Failed(_) | Outcome::Skipped(_)) => Some(Kind::GuestNotStarted),
            _ => None,
        }
    }
}

fn followers(plan: &Plan) -> BTreeMap<Layer, Vec<Layer>> {
    let mut followers: BTreeMap<Layer, Vec<Layer>> = BTreeMap::new();
    for step in plan.work() {
        for before in step.waits_for.iter().map(|wait| &plan.steps[wait.step].layer) {
            if matches!(before, Layer::Domain(_)) {
                followers.entry(before.clone()).or_default().push(step.layer.clone());
            }
        }
    }
    followers
}

/// Whether what lies on the volume can be used.
pub fn is_ready(volume: &Volume, facts: &VolumeFacts) -> bool {
    facts.is_open() && (volume.mount.is_none() || facts.mount == MountState::Ours)
}
