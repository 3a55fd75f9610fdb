//! The way up.

use std::collections::HashMap;

use super::{Action, Direction, Names, Plan, Step, UnknownName, Wait, needs};
use crate::config::{ByName, Config, DomainConfig, Start, Unlock};
use crate::facts::{DomainFacts, Facts, Mapping, MountState, PoolState};
use crate::graph::{Graph, Layer, Need};

/// Why a volume is left alone unless somebody names it.
const NOAUTO: &str = "noauto: only by its name";

/// What `up` has to do.
///
/// # Errors
/// When a name is neither a volume nor a domain.
pub fn up(config: &Config, facts: &Facts, graph: &Graph, names: &Names) -> Result<Plan, UnknownName> {
    let chosen = names
        .places(graph)?
        .map(|places| with_pools(graph, graph.with_required(&places)));
    let known = Known {
        tables: config.by_name(),
        domains: facts.domains_by_name(),
        facts,
        names,
        config,
    };
    let mut steps: Vec<Step> = Vec::with_capacity(graph.nodes().len());
    // The one that each is left alone for: a long chain tells its root, and not every link in every link.
    let mut roots: Vec<usize> = Vec::with_capacity(graph.nodes().len());
    for (place, node) in graph.nodes().iter().enumerate() {
        let asked = match &chosen {
            Some(chosen) => chosen[place],
            None => !known.is_noauto(&node.layer),
        };
        let (mut action, mut reason) = known.judge(&node.layer);
        if action == Action::StartPool && is_active(facts, &node.layer) {
            // Only one that became active before its mount has to look again.
            let settled = node.needs.iter().all(|(need, _)| steps[*need].action == Action::Nothing);
            action = if settled { Action::Nothing } else { action };
        }
        // What cannot be done is no failure where nobody asked for it.
        if (action.is_work() || action == Action::Blocked) && !asked {
            let why = if names.is_all() { NOAUTO } else { "not asked for" };
            (action, reason) = (Action::Leave, format!("{reason}; {why}"));
        }
        // Nobody asked for what is left alone, so what needs it has not failed, whatever else it needs.
        let mut root = place;
        for lacking in [Action::Blocked, Action::Leave] {
            let lost = node
                .needs
                .iter()
                .find(|(need, kind)| *kind == Need::Requires && steps[*need].action == lacking);
            if let Some((need, _)) = lost
                && (action.is_work() || action == Action::Blocked)
            {
                root = roots[*need];
                (action, reason) = (lacking, needs(&steps[root]));
            }
        }
        roots.push(root);
        let waits_for = node
            .needs
            .iter()
            .map(|(step, kind)| Wait {
                step: *step,
                must_succeed: *kind == Need::Requires,
            })
            .collect();
        steps.push(Step {
            layer: node.layer.clone(),
            action,
            reason,
            waits_for,
        });
    }
    let mut plan = Plan {
        direction: Direction::Up,
        steps,
    };
    plan.only_for_those_that_start();
    Ok(plan)
}

/// A volume's pools come with it: they are no use of it but a part of it.
fn with_pools(graph: &Graph, mut marked: Vec<bool>) -> Vec<bool> {
    for (place, node) in graph.nodes().iter().enumerate() {
        if matches!(node.layer, Layer::Pool(_)) {
            marked[place] = node.needs.iter().all(|(need, _)| marked[*need]);
        }
    }
    marked
}

/// What each layer is judged by.
struct Known<'a> {
    tables: ByName<'a>,
    domains: HashMap<&'a str, &'a DomainFacts>,
    facts: &'a Facts,
    names: &'a Names,
    config: &'a Config,
}

impl Known<'_> {
    /// A volume that waits until it is named, or its mount.
    fn is_noauto(&self, layer: &Layer) -> bool {
        let is_of_volume = matches!(layer, Layer::Volume(_) | Layer::Mount(_));
        is_of_volume && self.tables.volume(layer.name()).is_some_and(|volume| volume.noauto)
    }

    fn judge(&self, layer: &Layer) -> (Action, String) {
        match layer {
            Layer::Volume(name) => self.volume(name),
            Layer::Mount(name) => self.mount(name),
            Layer::Pool(name) => pool(self.facts, name),
            Layer::Secret(name) => secret(self.config, self.facts, name),
            Layer::Domain(name) => self.domains.get(&**name).map_or_else(
                || (Action::Blocked, "libvirt has no such domain".to_owned()),
                |found| self.domain(found),
            ),
        }
    }

    fn volume(&self, name: &str) -> (Action, String) {
        let Some(found) = self.facts.volumes.get(name) else {
            return (Action::Blocked, "its facts are not known".to_owned());
        };
        let unlock = self.tables.volume(name).map_or(&[][..], |volume| &volume.unlock);
        match (&found.mapping, &found.device) {
            (Mapping::Open(_), _) => (Action::Nothing, "open already".to_owned()),
            (Mapping::Foreign(words), _) => (Action::Blocked, words.clone()),
            (Mapping::None, Some(device)) => (Action::Open, format!("{} is locked{}", device.path.display(), ways(unlock))),
            (Mapping::None, None) => (Action::Open, format!("its device is not there yet{}", ways(unlock))),
        }
    }

    fn mount(&self, name: &str) -> (Action, String) {
        let mount = self.tables.volume(name).and_then(|volume| volume.mount.as_ref());
        let at = mount.map(|mount| mount.at.display().to_string()).unwrap_or_default();
        match self.facts.volumes.get(name).map(|found| &found.mount) {
            Some(MountState::Ours) => (Action::Nothing, format!("mounted at {at} already")),
            Some(MountState::Foreign(words)) => (Action::Blocked, words.clone()),
            _ => (Action::Mount, format!("nothing is mounted at {at}")),
        }
    }

    fn domain(&self, found: &DomainFacts) -> (Action, String) {
        let can_be_asked = |table: &DomainConfig| table.ready.can_be_asked();
        if found.state.is_active() && self.tables.domain(&found.name).is_some_and(can_be_asked) {
            return (Action::Await, format!("is {}", found.state.word()));
        }
        if found.state.is_active() {
            return (Action::Nothing, format!("is {}", found.state.word()));
        }
        let state = found.state.word();
        let restored = if found.is_saved {
            "; restored from its managed save"
        } else {
            ""
        };
        if self.names.names_domain(&found.name) {
            return (Action::Start, format!("is {state} and asked for by name{restored}"));
        }
        match self.tables.domain(&found.name).map_or(Start::Autostart, |table| table.start) {
            Start::Always => (Action::Start, format!("is {state} and start = true{restored}")),
            Start::Never => (Action::Leave, format!("is {state} and start = false")),
            Start::Autostart if found.autostart => (Action::Start, format!("is {state} and set to autostart{restored}")),
            Start::Autostart => (Action::Leave, format!("is {state} and not set to autostart")),
        }
    }
}

/// How it will be opened, where that is not by its passphrase alone.
fn ways(ways: &[Unlock]) -> String {
    if matches!(ways, [] | [Unlock::Passphrase]) {
        return String::new();
    }
    let words: Vec<String> = ways.iter().map(Unlock::to_string).collect();
    format!("; by {}", words.join(", or else "))
}

fn pool(facts: &Facts, name: &str) -> (Action, String) {
    match facts.libvirt.as_ref().and_then(|libvirt| libvirt.pools.get(name)) {
        Some(PoolState::Active) => (Action::StartPool, "is active".to_owned()),
        Some(PoolState::Stale) => (Action::StartPool, "has read its folder before the mount".to_owned()),
        Some(PoolState::Inactive) => (Action::StartPool, "is not active".to_owned()),
        None => (
            Action::Blocked,
            match facts.libvirt.as_ref().and_then(|libvirt| libvirt.pools_error.as_ref()) {
                Some(error) => format!("libvirt's storage pools do not answer: {error}"),
                None => "libvirt has no such pool (virsh pool-list --all)".to_owned(),
            },
        ),
    }
}

/// Whether it is needed is known once it is known what becomes of the domains.
fn secret(config: &Config, facts: &Facts, name: &str) -> (Action, String) {
    let (Some(secret), Some(libvirt)) = (config.secret(name), &facts.libvirt) else {
        return (Action::Blocked, "its facts are not known".to_owned());
    };
    match (libvirt.secret(&secret.id), &libvirt.secrets_error) {
        (_, Some(error)) => (Action::Blocked, format!("libvirt's secrets do not answer: {error}")),
        (Some(found), _) if !found.ephemeral => (
            Action::Nothing,
            "libvirt keeps it on this host's disk (ephemeral='no')".to_owned(),
        ),
        _ => {
            let ways = ways(&secret.unlock);
            (Action::SetSecret, format!("a guest needs it to start{ways}"))
        }
    }
}

fn is_active(facts: &Facts, pool: &Layer) -> bool {
    facts
        .libvirt
        .as_ref()
        .is_some_and(|libvirt| libvirt.pools.get(pool.name()) == Some(&PoolState::Active))
}
