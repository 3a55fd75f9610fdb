//! What must come before what, and orders that go in a circle.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};

use super::problem::{Complaints, Place, quoted};
use super::relations::Mounts;
use super::tables::Tables;
use super::value::Located;
use super::volume::VolumeTable;

/// What must come before what.
pub(super) struct Order<'a> {
    names: Vec<&'a str>,
    edges: Vec<Vec<Edge<'a>>>,
    /// Those that name each in their `after`.
    named_by: Vec<Vec<usize>>,
    /// What comes after each by `after` alone, directly or not, itself only in a circle; only of those that were asked for: of all of
    /// a long chain it would be the square of its length.
    followers: RefCell<HashMap<usize, HashSet<usize>>>,
}

struct Edge<'a> {
    to: usize,
    place: &'a Place,
    is_after: bool,
}

impl<'a> Order<'a> {
    pub(super) fn of_volumes(volumes: &'a [VolumeTable], mounts: &Mounts<'a>) -> Self {
        let mut order = Self::of(volumes.iter().map(|read| (read.volume.name.as_str(), read.after.as_slice())));
        for (this, read) in volumes.iter().enumerate() {
            if let (Some(mount), Some(place)) = (&read.volume.mount, &read.mount) {
                let outer = mounts.outside_of(&mount.at).into_iter().map(|(to, ..)| Edge {
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
        let mut named_by: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
        for (from, edges) in edges.iter().enumerate() {
            for edge in edges {
                named_by[edge.to].push(from);
            }
        }
        Self {
            names: named.iter().map(|(name, _)| *name).collect(),
            edges,
            named_by,
            followers: RefCell::default(),
        }
    }

    /// Whether `from` comes after `to`, directly or not, by `after` alone.
    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        let is_direct = self.edges[from].iter().any(|edge| edge.is_after && edge.to == to);
        is_direct || {
            let mut followers = self.followers.borrow_mut();
            followers.entry(to).or_insert_with(|| self.followers_of(to)).contains(&from)
        }
    }

    fn followers_of(&self, start: usize) -> HashSet<usize> {
        let (mut found, mut waiting) = (HashSet::new(), vec![start]);
        while let Some(place) = waiting.pop() {
            waiting.extend(self.named_by[place].iter().copied().filter(|from| found.insert(*from)));
        }
        found
    }

    /// Complains of circles, each member of one in one complaint alone.
    pub(super) fn check_circles(&self, kind: &str, complaints: &mut Complaints) {
        // Who is in no circle is not looked at again.
        let mut reported = self.outside_of_circles();
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

    /// Those that wait for nobody in the end, whoever they wait for on the way: they are in no circle.
    fn outside_of_circles(&self) -> Vec<bool> {
        let mut waits: Vec<usize> = self.edges.iter().map(Vec::len).collect();
        let mut waited_by: Vec<Vec<usize>> = vec![Vec::new(); self.edges.len()];
        for (from, edges) in self.edges.iter().enumerate() {
            for edge in edges {
                waited_by[edge.to].push(from);
            }
        }
        let mut free: Vec<usize> = (0..waits.len()).filter(|place| waits[*place] == 0).collect();
        let mut outside = vec![false; waits.len()];
        while let Some(place) = free.pop() {
            outside[place] = true;
            for from in &waited_by[place] {
                waits[*from] -= 1;
                free.extend((waits[*from] == 0).then_some(*from));
            }
        }
        outside
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
