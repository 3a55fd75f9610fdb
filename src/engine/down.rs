//! The way down, one layer each: shut the domain down, stop the pool, unmount, close. The mirror of [`super::up`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::walk::Hands;
use super::{busy, save};
use crate::cancel::Cancel;
use crate::config::{Config, DomainConfig, OnStopTimeout, Stop, Volume};
use crate::event::{Ending, Kind, Outcome, Progress};
use crate::facts::{DomainState, Facts, Mapping, MountState};
use crate::graph::Layer;
use crate::host::{CloseError, Host, Hypervisor, HypervisorError, MountError, ShutdownMode, User};
use crate::pace::Pace;
use crate::plan::{Action, Step};
use crate::text;

/// Takes layers down.
pub struct Down<'a> {
    config: &'a Config,
    host: &'a Host,
    deadline: Instant,
    uuids: BTreeMap<String, String>,
    pace: Pace,
}

impl<'a> Down<'a> {
    /// For one plan made from `facts`; the whole way must be through at `deadline`.
    pub fn new(config: &'a Config, host: &'a Host, deadline: Instant, facts: &Facts) -> Self {
        Self {
            config,
            host,
            deadline,
            uuids: facts.domain_uuids(),
            pace: Pace::default(),
        }
    }

    /// With other limits and pauses.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn stop(&self, name: &str, hypervisor: &dyn Hypervisor, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        let Some(uuid) = self.uuids.get(name) else {
            return Outcome::Already("libvirt has no such domain".to_owned()).into();
        };
        let table = self.config.domain(name).cloned().unwrap_or_else(|| DomainConfig::new(name));
        let limit = table.stop_timeout.unwrap_or(self.config.host.stop_timeout).min(self.left());
        let patience = if table.on_stop_timeout == OnStopTimeout::Wait {
            self.left()
        } else {
            limit
        };
        if table.stop == Stop::Save {
            let words = match save::save(self.config, self.host, hypervisor, uuid, limit, progress, cancel) {
                Ok(()) => return Outcome::Done("saved; its next start goes on from there".to_owned()).of(Kind::GuestSaved),
                Err(HypervisorError::Cancelled) => return Outcome::Cancelled.into(),
                Err(error) => error.to_string(),
            };
            progress.warning(format!("is not saved: {words}; it is asked to shut down instead"));
        }
        let since = Instant::now();
        match self.shut_down(hypervisor, uuid, limit, patience, progress, cancel) {
            Ok(true) => return Outcome::Done(format!("shut down after {}", text::duration(rounded(since.elapsed())))).into(),
            Ok(false) => {}
            Err(HypervisorError::Cancelled) => return Outcome::Cancelled.into(),
            Err(error) => return Outcome::Failed(format!("{error}; it may still be running: its volumes stay open")).into(),
        }
        let asked = text::duration(rounded(since.elapsed()));
        if table.on_stop_timeout == OnStopTimeout::Wait {
            return Outcome::Failed(format!(
                "still runs after {asked}, when stop-deadline ended; not destroyed, because on-stop-timeout = \"wait\"; its volumes stay open"
            ))
            .into();
        }
        progress.warning(format!("did not shut down within {asked} (stop-timeout): its plug is pulled"));
        let outcome = match self.destroy(hypervisor, uuid, cancel) {
            Ok(true) => {
                return Outcome::Done(format!("destroyed: it did not shut down within {asked}")).of(Kind::GuestDestroyed);
            }
            Ok(false) => Outcome::Failed("did not end when it was destroyed; its volumes stay open".to_owned()),
            Err(HypervisorError::Cancelled) => Outcome::Cancelled,
            Err(error) => Outcome::Failed(format!("cannot be destroyed: {error}; its volumes stay open")),
        };
        outcome.into()
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
        progress.working("unmounting");
        self.once_free(
            volume,
            progress,
            cancel,
            &format!("umount {}", mount.at.display()),
            || match self.host.devices.volume_facts(volume).mount {
                MountState::None => Some(Outcome::Already("not mounted any more".to_owned())),
                MountState::Foreign(words) => Some(Outcome::Left(format!("not ours to unmount: {words}"))),
                MountState::Ours => match self.host.mounts.unmount(mount, cancel) {
                    Ok(()) => Some(Outcome::Done(format!("unmounted from {}", mount.at.display()))),
                    Err(MountError::Busy) => None,
                    Err(MountError::Cancelled) => Some(Outcome::Cancelled),
                    Err(error) => Some(Outcome::Failed(error.to_string())),
                },
            },
        )
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
            if busy::is_held_from_above(&users) || since.elapsed() >= self.pace.busy_limit || self.left().is_zero() {
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
            if self.left().is_zero() {
                return Some(Outcome::Failed(format!("is still in use and stays open: {words}")));
            }
            if words != said {
                progress.waiting(words.clone());
                said = words;
            }
            if cancel.wait(self.pace.busy_look.min(self.left())) {
                return Some(Outcome::Cancelled);
            }
            guests = busy::guests(&self.host.devices.users(volume));
        }
        None
    }

    /// Asks until the domain is off. False: it still runs `patience` after it was first asked, or when the whole way must be
    /// through; but nobody is given up before being asked.
    fn shut_down(
        &self,
        hypervisor: &dyn Hypervisor,
        uuid: &str,
        limit: Duration,
        patience: Duration,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<bool, HypervisorError> {
        let mut attempts = 0;
        let mut asked_since: Option<Instant> = None;
        let mut away_since: Option<Instant> = None;
        let mut next_request = Instant::now();
        progress.waiting(format!("asked to shut down; it may take {}", text::duration(limit)));
        loop {
            match hypervisor.state(uuid, cancel) {
                // A daemon that restarts loses no guest: what cannot be read now is read again.
                Err(error @ HypervisorError::Unavailable(_)) => {
                    let away = away_since.get_or_insert_with(Instant::now).elapsed();
                    if away >= self.pace.libvirt_limit || self.left().is_zero() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
                Ok(state) if !state.is_some_and(DomainState::is_active) => return Ok(true),
                Ok(state) => {
                    away_since = None;
                    let had_its_time = asked_since.is_some_and(|since| since.elapsed() >= patience);
                    if had_its_time || (attempts > 0 && self.left().is_zero()) {
                        return Ok(false);
                    }
                    if Instant::now() >= next_request {
                        attempts += 1;
                        if matches!(state, Some(DomainState::Paused | DomainState::PmSuspended)) {
                            progress.note("is paused: resumed, so that it can hear the request");
                            tolerate(hypervisor.resume(uuid, cancel))?;
                        }
                        if request(hypervisor, uuid, attempts, cancel)? {
                            asked_since.get_or_insert_with(Instant::now);
                            next_request = Instant::now() + self.pace.ask_again;
                        }
                    }
                }
            }
            if cancel.wait(self.pace.look_again) {
                return Err(HypervisorError::Cancelled);
            }
        }
    }

    /// False: it still runs after [`Pace::destroy_limit`].
    fn destroy(&self, hypervisor: &dyn Hypervisor, uuid: &str, cancel: &Cancel) -> Result<bool, HypervisorError> {
        let since = Instant::now();
        loop {
            let asked = hypervisor.destroy(uuid, cancel);
            if matches!(hypervisor.state(uuid, cancel), Ok(state) if !state.is_some_and(DomainState::is_active)) {
                return Ok(true);
            }
            if since.elapsed() >= self.pace.destroy_limit {
                return asked.map(|()| false);
            }
            if cancel.wait(self.pace.look_again) {
                return Err(HypervisorError::Cancelled);
            }
        }
    }
}

impl Hands for Down<'_> {
    fn perform(&self, step: &Step, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        let name = step.layer.name();
        let volume = self.config.volume(name);
        let outcome = match (step.action, self.host.hypervisor.as_deref(), volume) {
            (Action::Stop, Some(hypervisor), _) => return self.stop(name, hypervisor, progress, cancel),
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

/// One request. False: libvirt was not there to pass it on.
fn request(hypervisor: &dyn Hypervisor, uuid: &str, attempt: u32, cancel: &Cancel) -> Result<bool, HypervisorError> {
    // The button first: every guest has one. A guest that does not hear it may have an agent that does.
    if attempt.is_multiple_of(3) && hypervisor.request_shutdown(uuid, ShutdownMode::Agent, cancel).is_ok() {
        return Ok(true);
    }
    let pressed = hypervisor.request_shutdown(uuid, ShutdownMode::Acpi, cancel);
    let passed_on = !matches!(pressed, Err(HypervisorError::Unavailable(_)));
    tolerate(pressed).map(|()| passed_on)
}

/// Only a cancelled request ends the asking; one that failed is sent again.
fn tolerate(result: Result<(), HypervisorError>) -> Result<(), HypervisorError> {
    result.or_else(|error| {
        if error == HypervisorError::Cancelled {
            Err(error)
        } else {
            Ok(())
        }
    })
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_secs_f64(duration.as_secs_f64().round())
}
