//! The way down, one layer each: forget the secret, stop the pool, unmount, close. The mirror of [`super::up`]. Domains: [`super::stop`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::busy;
use super::share::Shares;
use super::walk::Hands;
use crate::cancel::Cancel;
use crate::config::{Config, Mount, Stop, Volume};
use crate::event::{Ending, Kind, Outcome, Progress};
use crate::facts::{Facts, Mapping, MountState, SecretId};
use crate::graph::Layer;
use crate::host::{CloseError, Host, Hypervisor, HypervisorError, MountError, User};
use crate::pace::Pace;
use crate::plan::{Action, Plan, Step};
use crate::text;

/// Takes layers down.
pub struct Down<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a Host,
    deadline: Instant,
    pub(super) uuids: BTreeMap<String, String>,
    pub(super) shares: Shares,
    pub(super) pace: Pace,
    pub(super) at_once: bool,
}

impl<'a> Down<'a> {
    /// For one plan made from `facts`; the whole way must be through at `deadline`.
    pub fn new(config: &'a Config, host: &'a Host, deadline: Instant, plan: &Plan, facts: &Facts) -> Self {
        Self {
            config,
            host,
            deadline,
            uuids: facts.domain_uuids(),
            shares: Shares::of(config, plan),
            pace: Pace::default(),
            at_once: false,
        }
    }

    /// Domains are not asked: their plugs are pulled.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// With other limits and pauses.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// A guest whose plug is pulled at the deadline takes a moment to be gone, and its volume is to be closed all the same.
    fn left_to_close(&self) -> Duration {
        (self.deadline + self.pace.destroy_limit).saturating_duration_since(Instant::now())
    }

    fn forget(&self, name: &str, hypervisor: &dyn Hypervisor, cancel: &Cancel) -> Outcome {
        let forget = |cancel: &Cancel| hypervisor.forget_secret(&SecretId::of(name), cancel);
        let forgotten = if self.at_once {
            let limit = self.pace.libvirt_limit;
            let hung = || format!("libvirt does not answer within {}", text::duration(limit));
            match cancel.within(limit, forget) {
                Ok(Err(HypervisorError::Cancelled)) if !cancel.is_raised() => Err(HypervisorError::Unavailable(hung())),
                Ok(forgotten) => forgotten,
                Err(error) => Err(HypervisorError::Unavailable(error.to_string())),
            }
        } else {
            forget(cancel)
        };
        match forgotten {
            Ok(()) => Outcome::Done("forgotten".to_owned()),
            Err(HypervisorError::Cancelled) => Outcome::Cancelled,
            Err(error) => {
                // virsh takes nothing but the UUID.
                let by_hand = match SecretId::of(name) {
                    SecretId::Uuid(uuid) => format!("`virsh secret-undefine {uuid}`"),
                    SecretId::Usage(_) => "`virsh secret-undefine` with its UUID from `virsh secret-list`".to_owned(),
                };
                Outcome::Failed(format!("{error}; {by_hand} makes libvirt forget it"))
            }
        }
    }

    fn stop_pool(name: &str, hypervisor: &dyn Hypervisor, cancel: &Cancel) -> Outcome {
        match hypervisor.stop_pool(name, cancel) {
            Ok(()) => Outcome::Done("stopped".to_owned()),
            Err(HypervisorError::Cancelled) => Outcome::Cancelled,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    fn unmount(&self, volume: &Volume, progress: Progress<'_>, cancel: &Cancel) -> Outcome {
        let Some(mount) = &volume.mount else {
            return Outcome::Already("has no mount".to_owned());
        };
        if let Some(outcome) = self.await_saved(mount, progress, cancel) {
            return outcome;
        }
        progress.working("unmounting");
        self.once_free(
            volume,
            progress,
            cancel,
            &format!("umount {}", mount.at.display()),
            || match self.host.devices.volume_facts(volume).mount {
                MountState::None => Some(Outcome::Already("not mounted any more".to_owned())),
                MountState::Foreign(words) => Some(Outcome::Left(format!("not ours to unmount: {words}"))),
                MountState::Ours => self.unmount_once(mount, cancel),
            },
        )
    }

    /// Waits until the guests are off whose memory is saved below this mount: until then nothing of theirs is there that would keep it
    /// busy, and the half that closes volumes knows of no guest otherwise.
    fn await_saved(&self, mount: &Mount, progress: Progress<'_>, cancel: &Cancel) -> Option<Outcome> {
        let is_saved_to = self
            .config
            .host
            .save_folder()
            .is_some_and(|folder| folder.starts_with(&mount.at));
        let saved = self
            .config
            .domains
            .iter()
            .filter(|table| is_saved_to && table.stop == Stop::Save);
        let saved: BTreeSet<String> = saved.map(|table| table.name.clone()).collect();
        let mut said = String::new();
        while !saved.is_empty() && !self.at_once {
            let running = self.host.devices.running_guests(&saved);
            if running.is_empty() {
                break;
            }
            let words = format!("{}: its memory is saved here", busy::waiting_for_guests(&running));
            if self.left_to_close().is_zero() {
                return Some(Outcome::Failed(format!("is still in use and stays mounted: {words}")));
            }
            if words != said {
                progress.waiting(words.clone());
                said = words;
            }
            if cancel.wait(self.pace.busy_look.min(self.left_to_close())) {
                return Some(Outcome::Cancelled);
            }
        }
        None
    }

    /// Writing out what is dirty takes as long as it takes, and on a disk that hangs for ever: not longer than the whole way may.
    fn unmount_once(&self, mount: &Mount, cancel: &Cancel) -> Option<Outcome> {
        let (at, limit) = (mount.at.display(), self.left_to_close().max(self.pace.busy_limit));
        let unmounted = match cancel.within(limit, |limited| self.host.mounts.unmount(mount, limited)) {
            Ok(unmounted) => unmounted,
            Err(error) => Err(MountError::Other(error.to_string())),
        };
        match unmounted {
            Ok(()) => Some(Outcome::Done(format!("unmounted from {at}"))),
            Err(MountError::Busy) => None,
            Err(MountError::Cancelled) if cancel.is_raised() => Some(Outcome::Cancelled),
            Err(MountError::Cancelled) => Some(Outcome::Failed(format!(
                "{at} is still being unmounted after {}: its disk does not take what is to be written",
                text::seconds(limit)
            ))),
            Err(error) => Some(Outcome::Failed(error.to_string())),
        }
    }

    fn close(&self, volume: &Volume, progress: Progress<'_>, cancel: &Cancel) -> Outcome {
        progress.working("closing");
        self.once_free(
            volume,
            progress,
            cancel,
            &format!("cryptsetup close {}", volume.name),
            || match self.host.devices.volume_facts(volume).mapping {
                Mapping::None => Some(Outcome::Already("closed already".to_owned())),
                Mapping::Foreign(words) => Some(Outcome::Left(format!("not ours to close: {words}"))),
                Mapping::Open(_) => match self.host.volumes.close(&volume.name, cancel) {
                    Ok(()) => Some(Outcome::Done("closed".to_owned())),
                    Err(CloseError::Busy) => None,
                    Err(CloseError::Cancelled) => Some(Outcome::Cancelled),
                    Err(error) => Some(Outcome::Failed(format!("cannot be closed: {error}"))),
                },
            },
        )
    }

    /// Tries until it is not busy any more: while a guest uses it, as long as the whole way may take; otherwise a little. Each
    /// `attempt` looks first whether it is still ours: guests have taken their time since the plan was made.
    fn once_free(
        &self,
        volume: &Volume,
        progress: Progress<'_>,
        cancel: &Cancel,
        by_hand: &str,
        attempt: impl Fn() -> Option<Outcome>,
    ) -> Outcome {
        let mut busy_since: Option<Instant> = None;
        let mut said = String::new();
        let mut pause = self.pace.look_again;
        loop {
            if let Some(outcome) = attempt() {
                return outcome;
            }
            let users = self.host.devices.users(volume);
            if !busy::guests(&users).is_empty() {
                if let Some(outcome) = self.await_guests(volume, &users, progress, cancel) {
                    return outcome;
                }
                (busy_since, pause) = (None, self.pace.look_again);
                continue;
            }
            let words = busy::explain(&users, by_hand);
            let since = *busy_since.get_or_insert_with(Instant::now);
            if busy::is_held_from_above(&users) || since.elapsed() >= self.pace.busy_limit || self.left_to_close().is_zero() {
                return Outcome::Failed(format!("is still in use and stays open: {words}"));
            }
            if words != said {
                progress.waiting(words.clone());
                said = words;
            }
            if cancel.wait(pause) {
                return Outcome::Cancelled;
            }
            pause = (pause * 2).min(self.pace.busy_look);
        }
    }

    /// Waits until no guest is among the users. Nothing is tried meanwhile: each try would be a failed job of systemd, for minutes.
    fn await_guests(&self, volume: &Volume, users: &[User], progress: Progress<'_>, cancel: &Cancel) -> Option<Outcome> {
        let mut guests = busy::guests(users);
        let mut said = String::new();
        while !guests.is_empty() {
            let words = busy::waiting_for_guests(&guests);
            if self.left_to_close().is_zero() {
                return Some(Outcome::Failed(format!("is still in use and stays open: {words}")));
            }
            if words != said {
                progress.waiting(words.clone());
                said = words;
            }
            if cancel.wait(self.pace.busy_look.min(self.left_to_close())) {
                return Some(Outcome::Cancelled);
            }
            guests = busy::guests(&self.host.devices.users(volume));
        }
        None
    }
}

impl Hands for Down<'_> {
    fn perform(&self, step: &Step, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        let name = step.layer.name();
        let volume = self.config.volume(name);
        let outcome = match (step.action, self.host.hypervisor.as_deref(), volume) {
            (Action::Stop, Some(hypervisor), _) => return self.stop(name, hypervisor, progress, cancel),
            (Action::ForgetSecret, Some(hypervisor), _) => self.forget(name, hypervisor, cancel),
            (Action::StopPool, Some(hypervisor), _) => Self::stop_pool(name, hypervisor, cancel),
            (Action::Unmount, _, Some(volume)) => self.unmount(volume, progress, cancel),
            (Action::Close, _, Some(volume)) => self.close(volume, progress, cancel),
            (action, _, _) => Outcome::Failed(format!("{} is not a step of the way down", action.word())),
        };
        outcome.into()
    }

    fn kind(&self, step: &Step, outcome: &Outcome) -> Option<Kind> {
        match (&step.layer, outcome) {
            (Layer::Volume(_), Outcome::Done(_)) => Some(Kind::VolumeClosed),
            (Layer::Volume(_) | Layer::Mount(_), Outcome::Failed(_) | Outcome::Skipped(_)) => Some(Kind::VolumeStaysOpen),
            (Layer::Domain(_), Outcome::Done(_)) => Some(Kind::GuestShutDown),
            (Layer::Domain(_), Outcome::Failed(_) | Outcome::Skipped(_)) => Some(Kind::GuestStillRuns),
            _ => None,
        }
    }
}
