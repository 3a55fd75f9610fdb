//! The way up of a secret: its value, as ways and people give it, and libvirt that keeps it. The way back is in [`super::down`].

use std::collections::{BTreeMap, BTreeSet};

use super::up::Up;
use crate::cancel::Cancel;
use crate::config::{Config, SecretConfig};
use crate::event::{Outcome, Progress};
use crate::facts::Facts;
use crate::graph::Layer;
use crate::host::{Hypervisor, HypervisorError, Image};
use crate::plan::{Action, Plan};
use crate::unlock::Wanted;

/// What the domains that are to be started need of one secret.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    guests: Vec<String>,
    images: Vec<Image>,
    /// Whether it opens a disk besides that nobody can look at before its guest starts.
    blind: bool,
}

/// For each secret, by its name in the configuration, what the domains need that are to be started.
pub(super) fn uses(config: &Config, plan: &Plan, facts: &Facts) -> BTreeMap<String, Use> {
    let mut found: BTreeMap<String, Use> = BTreeMap::new();
    let starting = plan.steps.iter().filter(|step| step.action == Action::Start);
    let starting: BTreeSet<&str> = starting.map(|step| step.layer.name()).collect();
    let domains = facts.libvirt.iter().flat_map(|libvirt| &libvirt.domains);
    for domain in domains.filter(|domain| starting.contains(domain.name.as_str())) {
        for needed in &domain.secrets {
            let Some(secret) = config.secret_of(&needed.id) else {
                continue;
            };
            let here = found.entry(secret.name.clone()).or_default();
            if !here.guests.contains(&domain.name) {
                here.guests.push(domain.name.clone());
            }
            let qcow2 = match needed.format.as_deref() {
                Some("qcow2") => Some(true),
                None | Some("raw" | "luks") => Some(false),
                Some(_) => None,
            };
            match needed.image.clone().zip(qcow2) {
                Some((path, qcow2)) => here.images.push(Image { path, qcow2 }),
                None => here.blind = true,
            }
        }
    }
    found
}

impl Up<'_> {
    /// Asks for a secret, and gives it to libvirt.
    pub(super) fn set_secret(
        &self,
        secret: &SecretConfig,
        rank: usize,
        hypervisor: &dyn Hypervisor,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Outcome {
        match self.give(secret, 0, rank, hypervisor, progress, cancel) {
            Ok(()) => Outcome::Done("set".to_owned()),
            Err(outcome) => outcome,
        }
    }

    /// Asks again for the secrets of a domain whose disk does not open with what libvirt has, for the time `refused`. `words`: QEMU's.
    pub(super) fn set_again(
        &self,
        domain: &str,
        refused: u32,
        words: &str,
        hypervisor: &dyn Hypervisor,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Outcome> {
        let use_of = |secret: &&SecretConfig| {
            let needed = self.uses.get(&secret.name)?;
            needed.guests.iter().any(|guest| guest == domain).then_some(needed)
        };
        let of_it: Vec<&SecretConfig> = (self.config.secrets.iter())
            .filter(|secret| use_of(secret).is_some())
            .collect();
        // QEMU does not say which of them it is: hardly one that has opened its images.
        let is_blind = |secret: &&SecretConfig| use_of(secret).is_some_and(|needed| needed.blind);
        let any_blind = of_it.iter().any(is_blind);
        let secrets: Vec<&SecretConfig> = (of_it.into_iter()).filter(|secret| !any_blind || is_blind(secret)).collect();
        if secrets.is_empty() {
            return Err(Outcome::Failed(format!(
                "{words}; libvirt has a wrong passphrase for its disk: `virsh secret-list` shows which secrets it has"
            )));
        }
        progress.note(format!("a passphrase of its disks is wrong: {words}"));
        let rank = self.rank_of(&Layer::Domain(domain.into()));
        for secret in secrets {
            if secret.tries > 0 && refused >= secret.tries {
                return Err(Outcome::Failed(format!(
                    "given up after {refused} wrong passphrases for its disk: {words}; `virt-unlock up {domain}` tries again"
                )));
            }
            self.give(secret, refused, rank, hypervisor, progress, cancel)?;
        }
        Ok(())
    }

    fn give(
        &self,
        secret: &SecretConfig,
        refused: u32,
        rank: usize,
        hypervisor: &dyn Hypervisor,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Result<(), Outcome> {
        let nothing = Use::default();
        let needed = self.uses.get(&secret.name).unwrap_or(&nothing);
        let wanted = Wanted {
            secret,
            images: &needed.images,
            guests: &needed.guests,
            refused,
            rank,
        };
        let value = self.opening.unlocker().value_of(wanted, progress, cancel)?;
        progress.working("giving it to libvirt");
        let set = || hypervisor.set_secret(&secret.id, &value, cancel);
        match self.patiently(progress, cancel, set) {
            Ok(()) => Ok(()),
            Err(HypervisorError::Cancelled) => Err(Outcome::Cancelled),
            Err(error) => Err(Outcome::Failed(error.to_string())),
        }
    }
}
