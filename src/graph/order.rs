//! Puts layers in order: each after what it needs, and otherwise as they came.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;

use super::{Graph, Layer, Need, Node};

/// Layers that need each other in a circle, in the order in which each needs the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<Layer>);

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for layer in &self.0 {
            write!(f, "{layer} needs ")?;
        }
        match self.0.first() {
            Some(first) => write!(f, "{first}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Cycle {}

/// The graph of `nodes`, whose needs are places in that list (the stronger of two counts).
pub(super) fn sort(nodes: &[Node]) -> Result<Graph, Cycle> {
    let mut missing: Vec<usize> = vec![0; nodes.len()];
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut needs: Vec<HashMap<usize, Need>> = Vec::with_capacity(nodes.len());
    for (place, node) in nodes.iter().enumerate() {
        let mut strongest: HashMap<usize, Need> = HashMap::new();
        for (need, kind) in &node.needs {
            let known = strongest.entry(*need).or_insert(*kind);
            *known = (*known).max(*kind);
        }
        missing[place] = strongest.len();
        for need in strongest.keys() {
            needed_by[*need].push(place);
        }
        needs.push(strongest);
    }

    let mut free: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|place| missing[*place] == 0).map(Reverse).collect();
    let mut new_place: Vec<Option<usize>> = vec![None; nodes.len()];
    let mut order: Vec<usize> = Vec::with_capacity(nodes.len());
    while let Some(Reverse(place)) = free.pop() {
        new_place[place] = Some(order.len());
        order.push(place);
        for waiting in &needed_by[place] {
            missing[*waiting] -= 1;
            if missing[*waiting] == 0 {
                free.push(Reverse(*waiting));
            }
        }
    }
    if order.len() < nodes.len() {
        return Err(cycle(nodes, &missing));
    }

    let mut graph = Graph::default();
    for place in order {
        let mut found: Vec<(usize, Need)> = needs[place]
            .iter()
            .filter_map(|(need, kind)| Some((new_place[*need]?, *kind)))
            .collect();
        found.sort_unstable();
        let layer = nodes[place].layer.clone();
        graph.index.insert(layer.clone(), graph.nodes.len());
        graph.nodes.push(Node { layer, needs: found });
    }
    Ok(graph)
}

/// Walks from need to need among what is left over until it meets itself.
fn cycle(nodes: &[Node], missing: &[usize]) -> Cycle {
    let mut path: Vec<usize> = Vec::new();
    let mut at = missing.iter().position(|count| *count > 0);
    while let Some(place) = at {
        if let Some(start) = path.iter().position(|seen| *seen == place) {
            return Cycle(path[start..].iter().map(|place| nodes[*place].layer.clone()).collect());
        }
        path.push(place);
        // Whatever is left over needs at least one other that is left over.
        at = nodes[place]
            .needs
            .iter()
            .map(|(need, _)| *need)
            .find(|need| missing[*need] > 0);
    }
    Cycle(Vec::new())
}
