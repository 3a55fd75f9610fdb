//! The way down of a part: a name with all that was brought up for it alone.

use super::down::{down, judge, of_chosen, with_secrets};
use super::{Names, Plan, UnknownName};
use crate::config::Config;
use crate::facts::Facts;
use crate::graph::{Graph, Layer, Need};

/// What it takes to end what `up` of these names began: they go down with all that depends on them, and so do the volumes that they
/// needed, where those are `noauto`, nothing else that is up needs them, and `is_kept` does not hold for their names.
///
/// # Errors
/// When a name is neither a volume nor a domain.
pub fn stop(
    config: &Config,
    facts: &Facts,
    graph: &Graph,
    names: &Names,
    is_kept: impl Fn(&str) -> bool,
) -> Result<Plan, UnknownName> {
    let Some(places) = names.places(graph)? else {
        return down(facts, graph, names);
    };
    let (depend, needed) = (graph.with_dependents(&places), graph.with_required(&places));
    let tables = config.by_name();
    let is_own = |layer: &Layer| {
        let of_volume = matches!(layer, Layer::Volume(_) | Layer::Mount(_));
        of_volume && tables.volume(layer.name()).is_some_and(|volume| volume.noauto) && !is_kept(layer.name())
    };
    let goes = |layer: &Layer| {
        graph
            .place(layer)
            .is_some_and(|place| depend[place] || (needed[place] && is_own(layer)))
    };
    Ok(release(facts, graph, goes))
}

/// The way down of the layers for which `is_chosen` holds and of no others, without those that something else that is up needs. A
/// pool goes with the filesystem that it lies on, and a secret with the last of the domains that need it.
pub fn release(facts: &Facts, graph: &Graph, is_chosen: impl Fn(&Layer) -> bool) -> Plan {
    let (nodes, domains) = (graph.nodes(), facts.domains_by_name());
    let (mut goes, mut needed) = (vec![false; nodes.len()], vec![false; nodes.len()]);
    // What needs a layer stands after it, so from the end every use of a layer is known when it is its turn.
    for (place, node) in nodes.iter().enumerate().rev() {
        if node.layer.is_nameless() {
            continue;
        }
        goes[place] = is_chosen(&node.layer) && !needed[place];
        if !goes[place] && judge(facts, &domains, &node.layer).0.is_work() {
            for (need, _) in node.needs.iter().filter(|(_, kind)| *kind == Need::Requires) {
                needed[*need] = true;
            }
        }
    }
    for (place, node) in nodes.iter().enumerate() {
        match node.layer {
            Layer::Pool(_) => goes[place] = node.needs.iter().any(|(need, _)| goes[*need]),
            Layer::Secret(_) => goes[place] = is_chosen(&node.layer),
            _ => {}
        }
    }
    with_secrets(facts, graph, &mut goes);
    of_chosen(facts, graph, Some(&goes))
}
