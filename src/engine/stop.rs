//! The way down of a domain: it is asked until it is off, and where it does not hear, its plug is pulled.

use std::time::Instant;

use super::down::Down;
use super::save;
use super::share::Share;
use crate::cancel::Cancel;
use crate::config::{DomainConfig, OnStopTimeout, Stop};
use crate::event::{Ending, Kind, Outcome, Progress};
use crate::facts::{DomainState, Pause};
use crate::host::{Hypervisor, HypervisorError, ShutdownMode};
use crate::text;

/// A domain on its way down.
struct Guest<'a> {
    name: &'a str,
    uuid: &'a str,
    hypervisor: &'a dyn Hypervisor,
    progress: Progress<'a>,
    cancel: &'a Cancel,
}

/// How the asking ended.
enum Asked {
    /// It is off.
    Off,
    /// It still runs after all the time that it had.
    StillRuns(Share),
    /// It has crashed, and hears nothing any more.
    Crashed,
}

impl Down<'_> {
    pub(super) fn stop(&self, name: &str, hypervisor: &dyn Hypervisor, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        let Some(uuid) = self.uuids.get(name) else {
            return Outcome::Already("libvirt has no such domain".to_owned()).into();
        };
        let guest = Guest {
            name,
            uuid,
            hypervisor,
            progress,
            cancel,
        };
        if self.at_once {
            return self.pull_plug(&guest, "at once");
        }
        let table = self.config.domain(name).cloned().unwrap_or_else(|| DomainConfig::new(name));
        if table.stop == Stop::Save {
            let limit = self.share(name).limit;
            let words = match save::save(self.config, self.host, hypervisor, uuid, limit, progress, cancel) {
                Ok(()) => return Outcome::Done("saved; its next start goes on from there".to_owned()).of(Kind::GuestSaved),
                Err(HypervisorError::Cancelled) => return Outcome::Cancelled.into(),
                Err(error) => error.to_string(),
            };
            progress.warning(format!("is not saved: {words}; it is asked to shut down instead"));
        }
        let since = Instant::now();
        let asked = self.shut_down(&guest);
        let took = text::seconds(since.elapsed());
        let never_pulled = table.on_stop_timeout == OnStopTimeout::Wait;
        let (why, share) = match asked {
            Ok(Asked::Off) => return Outcome::Done(format!("shut down after {took}")).into(),
            Ok(Asked::Crashed) => ("has crashed and cannot shut down".to_owned(), None),
            Ok(Asked::StillRuns(_)) if never_pulled => {
                (format!("still runs after {took}, all that stop-deadline leaves it"), None)
            }
            Ok(Asked::StillRuns(share)) => (format!("did not shut down within {took}"), Some(share)),
            Err(HypervisorError::Cancelled) => return Outcome::Cancelled.into(),
            Err(error) => return Outcome::Failed(format!("{error}; it may still be running: its volumes stay open")).into(),
        };
        if never_pulled {
            return Outcome::Failed(format!(
                "{why}; not destroyed, because on-stop-timeout = \"wait\"; its volumes stay open"
            ))
            .into();
        }
        let limit = share.map(|share| match share.cut_from {
            Some(own) => format!(
                ", all that stop-deadline leaves of its stop-timeout of {}",
                text::duration(own)
            ),
            None => " (stop-timeout)".to_owned(),
        });
        progress.warning(format!("{why}{}: its plug is pulled", limit.unwrap_or_default()));
        let why = share.map_or_else(|| "it had crashed".to_owned(), |_| format!("it {why}"));
        self.pull_plug(&guest, &why)
    }

    fn pull_plug(&self, guest: &Guest<'_>, why: &str) -> Ending {
        let outcome = match self.destroy(guest) {
            Ok(true) => return Outcome::Done(format!("destroyed: {why}")).of(Kind::GuestDestroyed),
            Ok(false) => Outcome::Failed("did not end when it was destroyed; its volumes stay open".to_owned()),
            Err(HypervisorError::Cancelled) => Outcome::Cancelled,
            Err(error) => Outcome::Failed(format!("cannot be destroyed: {error}; its volumes stay open")),
        };
        outcome.into()
    }

    /// What it has from now on.
    fn share(&self, name: &str) -> Share {
        self.shares.share(name, self.left(), self.pace.least_to_stop)
    }

    /// Asks until the domain is off, or has had its time since it was first asked; nobody is given up before being asked.
    fn shut_down(&self, guest: &Guest<'_>) -> Result<Asked, HypervisorError> {
        let mut share = self.share(guest.name);
        let mut attempts = 0;
        let mut asked_since: Option<Instant> = None;
        let mut away_since: Option<Instant> = None;
        let mut next_request = Instant::now();
        let mut paused = Paused::default();
        guest.tell(share);
        loop {
            match guest.hypervisor.state(guest.uuid, guest.cancel) {
                // A daemon that restarts loses no guest: what cannot be read now is read again.
                Err(error @ (HypervisorError::Unavailable(_) | HypervisorError::Passing(_))) => {
                    let away = away_since.get_or_insert_with(Instant::now).elapsed();
                    if away >= self.pace.libvirt_limit || self.left().is_zero() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
                Ok(state) => {
                    away_since = None;
                    let Some(state) = state.filter(|state| state.is_active()) else {
                        return Ok(Asked::Off);
                    };
                    if state == DomainState::Paused(Pause::Crashed) {
                        return Ok(Asked::Crashed);
                    }
                    let had_its_time = match asked_since {
                        Some(since) => since.elapsed() >= share.patience,
                        None => attempts > 0 && self.left().is_zero(),
                    };
                    if had_its_time {
                        return Ok(Asked::StillRuns(share));
                    }
                    if Instant::now() >= next_request {
                        attempts += 1;
                        paused.wake(guest, state)?;
                        if guest.request(attempts)? {
                            if asked_since.is_none() {
                                // libvirt may have been away for as long as all of it.
                                share = self.share(guest.name);
                                asked_since = Some(Instant::now());
                            }
                            next_request = Instant::now() + self.pace.ask_again;
                        }
                    }
                }
            }
            if guest.cancel.wait(self.pace.look_again) {
                return Err(HypervisorError::Cancelled);
            }
        }
    }

    /// False: it still runs after [`crate::pace::Pace::destroy_limit`].
    fn destroy(&self, guest: &Guest<'_>) -> Result<bool, HypervisorError> {
        let since = Instant::now();
        loop {
            let asked = guest.hypervisor.destroy(guest.uuid, guest.cancel);
            let state = guest.hypervisor.state(guest.uuid, guest.cancel);
            if matches!(state, Ok(state) if !state.is_some_and(DomainState::is_active)) {
                return Ok(true);
            }
            if since.elapsed() >= self.pace.destroy_limit {
                return asked.map(|()| false);
            }
            if guest.cancel.wait(self.pace.look_again) {
                return Err(HypervisorError::Cancelled);
            }
        }
    }
}

impl Guest<'_> {
    fn tell(&self, share: Share) {
        let limit = text::seconds(share.limit);
        if let Some(own) = share.cut_from {
            let own = text::duration(own);
            let words = format!("stop-deadline is near: it has {limit} to shut down, and not the {own} of its stop-timeout");
            self.progress.warning_of(Kind::GuestCutShort, words);
        }
        self.progress.waiting(format!("asked to shut down; it may take {limit}"));
    }

    /// One request. False: libvirt was not there to pass it on.
    fn request(&self, attempt: u32) -> Result<bool, HypervisorError> {
        let ask = |mode| self.hypervisor.request_shutdown(self.uuid, mode, self.cancel);
        // The button first: every guest has one. A guest that does not hear it may have an agent that does.
        if attempt.is_multiple_of(3) && ask(ShutdownMode::Agent).is_ok() {
            return Ok(true);
        }
        let pressed = ask(ShutdownMode::Acpi);
        let passed_on = !matches!(pressed, Err(HypervisorError::Unavailable(_)));
        tolerate(pressed).map(|()| passed_on)
    }
}

/// What was done about a guest that is paused and so hears nothing.
#[derive(Default)]
struct Paused {
    said: bool,
    tried_again: bool,
}

impl Paused {
    fn wake(&mut self, guest: &Guest<'_>, state: DomainState) -> Result<(), HypervisorError> {
        let words = match state {
            DomainState::PmSuspended => "is suspended: woken, so that it can hear the request",
            DomainState::Paused(Pause::Ordered) => "is paused: resumed, so that it can hear the request",
            // Once: what was full or away may be there again. Each further try meets the same error.
            DomainState::Paused(Pause::IoError) if !self.tried_again => {
                self.tried_again = true;
                guest
                    .progress
                    .note("is paused by an error of its disk: resumed, so that it tries that again");
                return tolerate(guest.hypervisor.resume(guest.uuid, guest.cancel));
            }
            DomainState::Paused(Pause::IoError) => {
                if !std::mem::replace(&mut self.said, true) {
                    guest.progress.warning(format!(
                        "is paused by an error of its disk again, and cannot shut down: make room or mend the disk, then `virsh resume {}`",
                        guest.name
                    ));
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !std::mem::replace(&mut self.said, true) {
            guest.progress.note(words);
        }
        tolerate(guest.hypervisor.resume(guest.uuid, guest.cancel))
    }
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
