//! The way up.

use super::{Action, Direction, Names, Plan, Step, UnknownName, Wait, needs};
use crate::config::{Config, DomainConfig, Start, Unlock};
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
    let mut steps: Vec<Step> = Vec::with_capacity(graph.nodes().len());
    for (place, node) in graph.nodes().iter().enumerate() {
        let asked = match &chosen {
            Some(chosen) => chosen[place],
            None => !is_noauto(config, &node.layer),
        };
        let (mut action, mut reason) = judge(config, facts, &node.layer, names);
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
        for lacking in [Action::Blocked, Action::Leave] {
            let lost = node
                .needs
                .iter()
                .find(|(need, kind)| *kind == Need::Requires && steps[*need].action == lacking);
            if let Some((need, _)) = lost
                && (action.is_work() || action == Action::Blocked)
            {
                (action, reason) = (lacking, needs(&steps[*need]));
            }
        }
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
    plan.await_for_those_that_start();
    Ok(plan)
}

/// A volume that waits until it is named, or its mount.
fn is_noauto(config: &Config, layer: &Layer) -> bool {
    matches!(layer, Layer::Volume(_) | Layer::Mount(_)) && config.volume(layer.name()).is_some_and(|volume| volume.noauto)
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

fn judge(config: &Config, facts: &Facts, layer: &Layer, names: &Names) -> (Action, String) {
    match layer {
        Layer::Volume(name) => volume(config, facts, name),
        Layer::Mount(name) => mount(config, facts, name),
        Layer::Pool(name) => pool(facts, name),
        Layer::Domain(name) => {
            let found = facts
                .libvirt
                .iter()
                .flat_map(|libvirt| &libvirt.domains)
                .find(|domain| *domain.name == **name);
            found.map_or_else(
                || (Action::Blocked, "libvirt has no such domain".to_owned()),
                |found| domain(config, found, names),
            )
        }
    }
}

fn volume(config: &Config, facts: &Facts, name: &str) -> (Action, String) {
    let Some(found) = facts.volumes.get(name) else {
        return (Action::Blocked, "its facts are not known".to_owned());
    };
    match (&found.mapping, &found.device) {
        (Mapping::Open(_), _) => (Action::Nothing, "open already".to_owned()),
        (Mapping::Foreign(words), _) => (Action::Blocked, words.clone()),
        (Mapping::None, Some(device)) => (
            Action::Open,
            format!("{} is locked{}", device.path.display(), ways(config, name)),
        ),
        (Mapping::None, None) => (Action::Open, format!("its device is not there yet{}", ways(config, name))),
    }
}

/// How a volume will be opened, where that is not by its passphrase alone.
fn ways(config: &Config, name: &str) -> String {
    let ways = config.volume(name).map_or(&[][..], |volume| &volume.unlock);
    if matches!(ways, [] | [Unlock::Passphrase]) {
        return String::new();
    }
    let words: Vec<String> = ways.iter().map(Unlock::to_string).collect();
    format!("; by {}", words.join(", or else "))
}

fn mount(config: &Config, facts: &Facts, name: &str) -> (Action, String) {
    let at = config
        .volume(name)
        .and_then(|volume| volume.mount.as_ref())
        .map(|mount| mount.at.display().to_string());
    let at = at.unwrap_or_default();
    match facts.volumes.get(name).map(|found| &found.mount) {
        Some(MountState::Ours) => (Action::Nothing, format!("mounted at {at} already")),
        Some(MountState::Foreign(words)) => (Action::Blocked, words.clone()),
        _ => (Action::Mount, format!("nothing is mounted at {at}")),
    }
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

fn is_active(facts: &Facts, pool: &Layer) -> bool {
    facts
        .libvirt
        .as_ref()
        .is_some_and(|libvirt| libvirt.pools.get(pool.name()) == Some(&PoolState::Active))
}

fn domain(config: &Config, found: &DomainFacts, names: &Names) -> (Action, String) {
    let can_be_asked = |table: &DomainConfig| table.ready.can_be_asked();
    if found.state.is_active() && config.domain(&found.name).is_some_and(can_be_asked) {
        return (Action::Await, format!("is {}", found.state.word()));
    }
    if found.state.is_active() {
        return (Action::Nothing, format!("is {}", found.state.word()));
    }
    if names.names_domain(&found.name) {
        return (Action::Start, format!("is {} and asked for by name", found.state.word()));
    }
    match config.domain(&found.name).map_or(Start::Autostart, |table| table.start) {
        Start::Always => (Action::Start, format!("is {} and start = true", found.state.word())),
        Start::Never => (Action::Leave, format!("is {} and start = false", found.state.word())),
        Start::Autostart if found.autostart => (Action::Start, format!("is {} and set to autostart", found.state.word())),
        Start::Autostart => (Action::Leave, format!("is {} and not set to autostart", found.state.word())),
    }
}
