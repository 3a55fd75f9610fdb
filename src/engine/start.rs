//! The way up of a domain: its definition, its disks, its start. Until it is ready: [`super::ready`].

use std::collections::BTreeMap;

use super::up::{Opening, Up, is_ready};
use crate::cancel::Cancel;
use crate::event::{Outcome, Phase, Progress};
use crate::facts::{DomainFacts, VolumeFacts};
use crate::graph::{Layer, Placement};
use crate::host::watch;
use crate::host::{Hypervisor, HypervisorError};

impl Up<'_> {
    /// Starts a domain as soon as its disks are there, and waits until it is ready.
    pub(super) fn start(&self, layer: &Layer, hypervisor: &dyn Hypervisor, progress: Progress<'_>, cancel: &Cancel) -> Outcome {
        let name = layer.name();
        let Some(uuid) = self.uuids.get(name) else {
            return Outcome::Failed("libvirt has no such domain".to_owned());
        };
        let mut before = watch::read(self.config, self.host.devices.as_ref());
        let found = loop {
            // Read again: its definition may have changed while it waited, and each image of a backing chain can be read only once
            // the volume that it lies on is mounted.
            let read = || hypervisor.domain(uuid, cancel);
            let found = match progress.during(Phase::Definition, || self.patiently(progress, cancel, read)) {
                Ok(Some(found)) => found,
                Ok(None) => return Outcome::Failed("libvirt has no such domain any more".to_owned()),
                Err(HypervisorError::Cancelled) => return Outcome::Cancelled,
                Err(error) => return Outcome::Failed(error.to_string()),
            };
            match self.await_disks(&found, &before, progress, cancel) {
                Ok(Some(now)) => before = now,
                Ok(None) => break found,
                Err(outcome) => return outcome,
            }
        };
        progress.working("starting");
        let start = || {
            start_networks(uuid, hypervisor, progress, cancel)?;
            hypervisor.start(uuid, cancel)
        };
        let mut refused = 0;
        let started = loop {
            match progress.during(Phase::Start, || self.patiently(progress, cancel, start)) {
                Err(HypervisorError::WrongSecret(words)) => {
                    refused += 1;
                    if let Err(outcome) = self.set_again(name, refused, &words, hypervisor, progress, cancel) {
                        return outcome;
                    }
                    progress.working("starting");
                }
                started => break started,
            }
        };
        match started {
            Ok(restored) => self.await_started(layer, found.is_saved || restored, &found, hypervisor, progress, cancel),
            Err(HypervisorError::Cancelled) => {
                // The lock is held until it is known what became of it: the way down that waits for it must see this guest.
                if let Ok(never) = Cancel::new() {
                    let _ = hypervisor.state(uuid, &never);
                }
                Outcome::Cancelled
            }
            Err(error) => Outcome::Failed(format!("{error}; `virsh start {name}` tries again")),
        }
    }

    /// The last look before a domain starts: every volume that it needs is open, and mounted by device number. Nothing of a
    /// guest may ever be written into an empty mount point. Where one of them was not ready `before` its definition was read, that
    /// may have more to say now: then the facts as they are now.
    fn await_disks(
        &self,
        found: &DomainFacts,
        before: &BTreeMap<String, VolumeFacts>,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<Option<BTreeMap<String, VolumeFacts>>, Outcome> {
        let facts = watch::read(self.config, self.host.devices.as_ref());
        let (mut is_new, mut waited) = (false, false);
        for name in Placement::new(self.config, &facts).volumes_of(found) {
            let Some(volume) = self.config.volume(name) else { continue };
            let ready_by = |facts: &BTreeMap<String, VolumeFacts>| facts.get(name).is_some_and(|facts| is_ready(volume, facts));
            if ready_by(&facts) {
                is_new |= !ready_by(before);
                continue;
            }
            progress.waiting(format!("waiting for volume {name}, which its disk lies on"));
            let limit = matches!(self.opening, Opening::Here(_)).then_some(self.pace.late_volume_limit);
            match self.await_volume(volume, limit, cancel, |facts| is_ready(volume, facts), "ready") {
                Outcome::Done(_) => waited = true,
                outcome => return Err(outcome),
            }
        }
        if waited {
            return Ok(Some(watch::read(self.config, self.host.devices.as_ref())));
        }
        Ok(is_new.then_some(facts))
    }
}

/// Starts the networks that the domain is on. Where one does not start, the domain's own start says what that means.
fn start_networks(
    uuid: &str,
    hypervisor: &dyn Hypervisor,
    progress: Progress<'_>,
    cancel: &Cancel,
) -> Result<(), HypervisorError> {
    match hypervisor.start_networks(uuid, cancel) {
        Ok(started) => {
            for name in started {
                progress.note(format!("libvirt's network {name}, which it is on, was not active: started"));
            }
        }
        Err(error @ (HypervisorError::Cancelled | HypervisorError::Unavailable(_))) => return Err(error),
        Err(error) => progress.warning(format!(
            "a network that it is on is not active and cannot be started: {error}"
        )),
    }
    Ok(())
}
