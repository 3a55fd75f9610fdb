//! The way down: the same graph, walked backwards.

use std::collections::HashMap;

use super::{Action, Direction, Names, Plan, Step, UnknownName, Wait};
use crate::facts::{DomainFacts, Facts, Mapping, MountState, PoolState, SecretId};
use crate::graph::{Graph, Layer, Need};

/// What `down` has to do.
///
/// # Errors
/// When a name is neither a volume nor a domain.
pub fn down(facts: &Facts, graph: &Graph, names: &Names) -> Result<Plan, UnknownName> {
    Ok(of_chosen(facts, graph, chosen(facts, graph, names)?.as_deref()))
}

/// What `down --now` has to do. No secret waits for its guests to end: one that runs needs it no more. And where something else has a
/// volume's name, or its mapping is suspended, that is nothing to close here either, but the volume is not closed, so it is no success.
///
/// # Errors
/// As [`down`].
pub fn down_at_once(facts: &Facts, graph: &Graph, names: &Names) -> Result<Plan, UnknownName> {
    let chosen = chosen(facts, graph, names)?;
    let mut plan = of_chosen(facts, graph, chosen.as_deref());
    let last = plan.steps.len().saturating_sub(1);
    let mut blocked = vec![false; plan.steps.len()];
    for (place, step) in plan.steps.iter_mut().enumerate() {
        let is_asked = chosen.as_ref().is_none_or(|chosen| chosen[last - place]);
        match (&step.layer, step.action) {
            (_, Action::ForgetSecret) => step.waits_for.clear(),
            (Layer::Volume(_), Action::Leave) if is_asked => {
                step.action = Action::Blocked;
                blocked[place] = true;
            }
            _ => {}
        }
    }
    // What lies below may be free all the same.
    for wait in plan.steps.iter_mut().flat_map(|step| &mut step.waits_for) {
        wait.must_succeed &= !blocked[wait.step];
    }
    Ok(plan)
}

/// The layers that go; `None`: all.
fn chosen(facts: &Facts, graph: &Graph, names: &Names) -> Result<Option<Vec<bool>>, UnknownName> {
    Ok(names.places(graph)?.map(|places| {
        let mut chosen = graph.with_dependents(&places);
        with_secrets(facts, graph, &mut chosen);
        chosen
    }))
}

/// A secret goes with the last of the domains that need it, and stays for one that is up and stays.
pub(super) fn with_secrets(facts: &Facts, graph: &Graph, chosen: &mut [bool]) {
    let (nodes, domains) = (graph.nodes(), facts.domains_by_name());
    let (mut goes, mut stays) = (vec![false; nodes.len()], vec![false; nodes.len()]);
    for (user, node) in nodes.iter().enumerate() {
        let is_used = !chosen[user] && !node.layer.is_nameless() && judge(facts, &domains, &node.layer).0.is_work();
        for (need, _) in node.needs.iter().filter(|(_, kind)| *kind == Need::Requires) {
            goes[*need] |= chosen[user];
            stays[*need] |= is_used;
        }
    }
    for (place, node) in nodes.iter().enumerate() {
        if matches!(node.layer, Layer::Secret(_)) {
            chosen[place] = (chosen[place] || goes[place]) && !stays[place];
        }
    }
}

/// The way down of those that are marked; `None`: of everything.
pub(super) fn of_chosen(facts: &Facts, graph: &Graph, chosen: Option<&[bool]>) -> Plan {
    let nodes = graph.nodes();
    let domains = facts.domains_by_name();
    let last = nodes.len().saturating_sub(1);
    let mut steps: Vec<Step> = nodes
        .iter()
        .enumerate()
        .rev()
        .map(|(place, node)| {
            let asked = chosen.is_none_or(|chosen| chosen[place]);
            let (mut action, mut reason) = judge(facts, &domains, &node.layer);
            if action.is_work() && !asked {
                (action, reason) = (Action::Leave, format!("{reason}; not asked for"));
            }
            Step {
                layer: node.layer.clone(),
                action,
                reason,
                waits_for: Vec::new(),
            }
        })
        .collect();
    // What needed this on the way up must be gone before this goes.
    for (place, node) in nodes.iter().enumerate() {
        for (need, kind) in &node.needs {
            // A pool that does not stop, or a secret that stays, holds nothing open: it is no reason to leave a volume open.
            let must_succeed = *kind == Need::Requires && !node.layer.is_nameless();
            steps[last - need].waits_for.push(Wait {
                step: last - place,
                must_succeed,
            });
        }
    }
    for step in &mut steps {
        step.waits_for.sort_unstable_by_key(|wait| wait.step);
    }
    Plan {
        direction: Direction::Down,
        steps,
    }
}

/// Whether there is anything to be taken down of a layer.
pub fn is_up(facts: &Facts, layer: &Layer) -> bool {
    judge(facts, &facts.domains_by_name(), layer).0.is_work()
}

pub(super) fn judge(facts: &Facts, domains: &HashMap<&str, &DomainFacts>, layer: &Layer) -> (Action, String) {
    match layer {
        Layer::Volume(name) => match facts.volumes.get(&**name).map(|found| &found.mapping) {
            Some(Mapping::Open(_)) => (Action::Close, "open".to_owned()),
            Some(Mapping::Foreign(words)) => (Action::Leave, format!("not ours to close: {words}")),
            _ => (Action::Nothing, "closed already".to_owned()),
        },
        Layer::Mount(name) => match facts.volumes.get(&**name).map(|found| &found.mount) {
            Some(MountState::Ours) => (Action::Unmount, "mounted".to_owned()),
            Some(MountState::Foreign(words)) => (Action::Leave, format!("not ours to unmount: {words}")),
            _ => (Action::Nothing, "not mounted".to_owned()),
        },
        Layer::Pool(name) => match facts.libvirt.as_ref().and_then(|libvirt| libvirt.pools.get(&**name)) {
            Some(PoolState::Active | PoolState::Stale) => (Action::StopPool, "active".to_owned()),
            _ => (Action::Nothing, "not active".to_owned()),
        },
        Layer::Secret(name) => match facts.libvirt.as_ref().and_then(|libvirt| libvirt.secret(&SecretId::of(name))) {
            Some(found) if found.ephemeral => (Action::ForgetSecret, "libvirt has it in memory".to_owned()),
            Some(_) => (
                Action::Leave,
                "libvirt keeps it on this host's disk (ephemeral='no')".to_owned(),
            ),
            None => match facts.libvirt.as_ref().and_then(|libvirt| libvirt.secrets_error.as_ref()) {
                Some(_) => (
                    Action::ForgetSecret,
                    "libvirt does not say whether it has it in memory".to_owned(),
                ),
                None => (Action::Nothing, "libvirt does not have it".to_owned()),
            },
        },
        Layer::Domain(name) => match domains.get(&**name) {
            Some(domain) if domain.state.is_active() => (Action::Stop, format!("is {}", domain.state.word())),
            Some(domain) => (Action::Nothing, format!("is {} already", domain.state.word())),
            None => (Action::Nothing, "libvirt has no such domain".to_owned()),
        },
    }
}
