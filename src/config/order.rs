//! What must come before what, and orders that go in a circle.

use std::collections::{HashMap, HashSet, VecDeque};

use super::problem::{Complaints, Place, quoted};
use super::relations::outer_mounts;
use super::tables::Tables;
use super::value::Located;
use super::volume::VolumeTable;

/// What must come before what.
pub(super) struct Order<'a> {
    names: Vec<&'a str>,
    edges: Vec<Vec<Edge<'a>>>,
    /// What each reaches by `after` alone, itself only in a circle.
    reached: Vec<HashSet<usize>>,
}

struct Edge<'a> {
    to: usize,
    place: &'a Place,
    is_after: bool,
}

impl<'a> Order<'a> {
    pub(super) fn of_volumes(volumes: &'a [VolumeTable]) -> Self {
        let mut order = Self::of(volumes.iter().map(|read| (read.volume.name.as_str(), read.after.as_slice())));
        for (this, read) in volumes.iter().enumerate() {
            if let (Some(mount), Some(place)) = (&read.volume.mount, &read.mount) {
                let outer = outer_mounts(volumes, &mount.at).into_iter().map(|(to, ..)| Edge {
                    to,
                    place,
                    is_after: false,
                });
                order.edges[this].extend(outer);
            }
        }
        order
    }

    pub(super) fn of_domains(tables: &'a Tables) -> Self {
        Self::of(
            tables
                .domains
                .iter()
                .map(|read| (read.domain.name.as_str(), read.after.as_slice())),
        )
    }

    fn of(named: impl Iterator<Item = (&'a str, &'a [Located<String>])>) -> Self {
        let named: Vec<(&str, &[Located<String>])> = named.collect();
        let places: HashMap<&str, usize> = named.iter().enumerate().map(|(place, (name, _))| (*name, place)).collect();
        let edge = |after: &'a Located<String>| {
            Some(Edge {
                to: *places.get(after.value.as_str())?,
                place: &after.place,
                is_after: true,
            })
        };
        let edges: Vec<Vec<Edge<'a>>> = named
            .iter()
            .map(|(_, after)| after.iter().filter_map(edge).collect())
            .collect();
        let reached = (0..edges.len()).map(|start| reached_from(&edges, start)).collect();
        Self {
            names: named.iter().map(|(name, _)| *name).collect(),
            edges,
            reached,
        }
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.reached[from].contains(&to)
    }

    /// Complains of circles, each member of one in one complaint alone.
    pub(super) fn check_circles(&self, kind: &str, complaints: &mut Complaints) {
        let mut reported = vec![false; self.names.len()];
        for start in 0..self.names.len() {
            let Some(circle) = self.circle(start, &reported) else {
                continue;
            };
            for (member, _) in &circle {
                reported[*member] = true;
            }
            self.complain(kind, &circle, complaints);
        }
    }

    fn complain(&self, kind: &str, circle: &[(usize, &Edge<'a>)], complaints: &mut Complaints) {
        let [(start, first), rest @ ..] = circle else { return };
        if rest.is_empty() {
            let message = format!("the {kind} {} cannot come after itself", quoted(self.names[*start]));
            complaints.at(first.place, message);
            return;
        }
        let words = |(from, edge): &(usize, &Edge<'a>)| {
            let how = if edge.is_after { "comes after" } else { "is mounted below" };
            format!("{} {how} {}", quoted(self.names[*from]), quoted(self.names[edge.to]))
        };
        let all: Vec<String> = circle.iter().map(words).collect();
        let message = format!("these {kind}s wait for each other in a circle: {}", all.join(", "));
        let also = rest.iter().map(|step| (step.1.place.clone(), words(step))).collect();
        complaints.at_with(first.place, message, also);
    }

    /// The shortest way from `start` back to itself around all `closed`: each member with the edge to the next.
    fn circle(&self, start: usize, closed: &[bool]) -> Option<Vec<(usize, &Edge<'a>)>> {
        if closed[start] {
            return None;
        }
        let mut came_by: HashMap<usize, (usize, &Edge<'a>)> = HashMap::new();
        let mut waiting = VecDeque::from([start]);
        while let Some(from) = waiting.pop_front() {
            for edge in &self.edges[from] {
                if !closed[edge.to] && !came_by.contains_key(&edge.to) {
                    came_by.insert(edge.to, (from, edge));
                    waiting.push_back(edge.to);
                }
            }
            if let Some(mut step) = came_by.get(&start).copied() {
                let mut circle = vec![step];
                while step.0 != start {
                    step = *came_by.get(&step.0)?;
                    circle.push(step);
                }
                circle.reverse();
                return Some(circle);
            }
        }
        None
    }
}

fn reached_from(edges: &[Vec<Edge<'_>>], start: usize) -> HashSet<usize> {
    let mut reached = HashSet::new();
    let mut waiting = vec![start];
    while let Some(from) = waiting.pop() {
        let new = edges[from].iter().map(|edge| edge.to).filter(|to| reached.insert(*to));
        waiting.extend(new);
    }
    reached
}
