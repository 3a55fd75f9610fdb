//! What tables say of each other: names that must be there, things that two cannot have, and orders that go in a circle.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;

use super::problem::{Complaints, Place, header, quoted, short};
use super::tables::Tables;
use super::value::{Located, normal};
use super::volume::VolumeTable;
use super::{device, near};

/// Checks all tables against each other.
pub(super) fn check(tables: &Tables, complaints: &mut Complaints) {
    check_names(tables, complaints);
    check_devices(&tables.volumes, complaints);
    check_mounts(&tables.volumes, complaints);
    check_pools(&tables.volumes, complaints);
    check_noauto(&tables.volumes, complaints);

    let volumes = Order::of_volumes(&tables.volumes);
    volumes.check_circles("volume", complaints);
    if !tables.is_incomplete() {
        check_below(&tables.volumes, &volumes, complaints);
    }
    Order::of_domains(tables).check_circles("domain", complaints);
    check_initramfs(&tables.volumes, complaints);
}

/// In the initramfs nothing is mounted, and no other volume is open but those that are opened there too.
fn check_initramfs(volumes: &[VolumeTable], complaints: &mut Complaints) {
    for read in volumes {
        let Some(place) = &read.initramfs else { continue };
        if read.volume.noauto {
            let message = "`initramfs = true` cannot be together with `noauto = true`, which opens a volume by its name alone";
            complaints.at(place, message);
        }
        let also = vec![(place.clone(), "this one is opened in the initramfs".to_owned())];
        for named in &read.after {
            let later = |other: &&VolumeTable| other.volume.name == named.value && !other.volume.initramfs;
            if volumes.iter().any(|other| later(&other)) {
                let message = format!(
                    "volume {} is opened later than the initramfs: give it `initramfs = true` too, or take it out of this one",
                    quoted(&named.value)
                );
                complaints.at_with(&named.place, message, also.clone());
            }
        }
        for (what, file) in &read.files {
            if let Some((_, outer, _)) = outer_mounts(volumes, &normal(&file.value)).first() {
                let message = format!(
                    "this {what} lies on volume {}, which is not mounted in the initramfs: move the {what}, or take out `initramfs`",
                    quoted(&outer.volume.name)
                );
                complaints.at_with(&file.place, message, also.clone());
            }
        }
    }
}

/// Volumes that are named must be there. A domain needs no table, so any name of a domain may be right.
fn check_names(tables: &Tables, complaints: &mut Complaints) {
    let known: HashSet<&str> = tables.volumes.iter().map(|read| read.volume.name.as_str()).collect();
    let mut check = |named: &Located<String>, title: &str| {
        if !known.contains(named.value.as_str()) && !tables.may_have(&named.value) {
            let all = tables.volumes.iter().map(|read| read.volume.name.as_str());
            let hint = near::hint(&named.value, all, "volumes");
            complaints.at(
                &named.place,
                format!("unknown volume {} in {title}; {hint}", quoted(&named.value)),
            );
        }
    };
    for read in &tables.volumes {
        let title = format!("`after` of {}", header("volume", &read.volume.name));
        read.after.iter().for_each(|named| check(named, &title));
    }
    for read in &tables.domains {
        let title = format!("`volumes` of {}", header("domain", &read.domain.name));
        read.volumes.iter().for_each(|named| check(named, &title));
    }
}

fn check_devices(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let mut known: HashMap<String, (&VolumeTable, &Place)> = HashMap::new();
    for read in volumes {
        let Some(place) = &read.device else { continue };
        match known.entry(device::identity(&read.volume.device)) {
            Entry::Occupied(first) => {
                let (first, also) = first.get();
                let (this, other) = (quoted(&read.volume.name), quoted(&first.volume.name));
                let message = format!("the volumes {other} and {this} have the same device; a device can be only one volume");
                complaints.at_with(place, message, vec![((*also).clone(), format!("the device of {other}"))]);
            }
            Entry::Vacant(free) => {
                free.insert((read, place));
            }
        }
    }
}

fn check_mounts(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let mut known: HashMap<&Path, (&VolumeTable, &Place)> = HashMap::new();
    for (read, place, at) in mounts(volumes) {
        match known.entry(at) {
            Entry::Occupied(first) => {
                let (first, also) = first.get();
                let (this, other) = (quoted(&read.volume.name), quoted(&first.volume.name));
                let message = format!("the volumes {other} and {this} have the same mount point; each needs its own");
                let also = vec![((*also).clone(), format!("the mount point of {other}"))];
                complaints.at_with(place, message, also);
            }
            Entry::Vacant(free) => {
                free.insert((read, place));
            }
        }
    }
}

fn check_pools(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let mut known: HashMap<&str, (&VolumeTable, &Place)> = HashMap::new();
    for read in volumes {
        for pool in &read.pools {
            match known.entry(&pool.value) {
                Entry::Occupied(first) => {
                    let (first, also) = first.get();
                    let other = quoted(&first.volume.name);
                    let message = format!(
                        "the pool {} is named by volume {other} too; a pool lies on one volume",
                        quoted(&pool.value)
                    );
                    let also = vec![((*also).clone(), format!("the pool of {other}"))];
                    complaints.at_with(&pool.place, message, also);
                }
                Entry::Vacant(free) => {
                    free.insert((read, &pool.place));
                }
            }
        }
    }
}

/// What waits for a volume that nobody opens by itself would never be opened at boot.
fn check_noauto(volumes: &[VolumeTable], complaints: &mut Complaints) {
    for read in volumes.iter().filter(|read| !read.volume.noauto && !read.noauto_unread) {
        for after in &read.after {
            let Some(other) = volumes.iter().find(|other| other.volume.name == after.value) else {
                continue;
            };
            if other.volume.noauto {
                let (this, other) = (header("volume", &read.volume.name), header("volume", &other.volume.name));
                let message = format!(
                    "{other} has `noauto = true`, so {this}, which waits for it, would never be opened at boot: write \
                     `noauto = true` there too, or take one of the two out"
                );
                complaints.at(&after.place, message);
            }
        }
    }
}

/// A mount below another's needs that other to be open first, and so does a key file or a header that lies there.
fn check_below(volumes: &[VolumeTable], order: &Order<'_>, complaints: &mut Complaints) {
    let must_be_after = |this: usize, place: &Place, what: &str, path: &Path, complaints: &mut Complaints| {
        for (other, outer, at) in outer_mounts(volumes, path) {
            let name = quoted(&outer.volume.name);
            let message = match (other == this, order.reaches(this, other), order.reaches(other, this)) {
                (true, ..) if what == "mount point" => continue,
                (true, ..) => format!("the {what} of volume {name} lies on that volume itself: it could never be opened"),
                // The other way round it is a circle, and complained of as one.
                (false, true, _) => continue,
                (false, _, true) if what == "mount point" => continue,
                (false, _, true) => format!(
                    "the {what} lies on volume {name}, which is opened after this one: take the `after` out there, or move the {what}"
                ),
                (false, false, false) => {
                    let written = format!("after = [\"{}\"]", short(&outer.volume.name));
                    format!(
                        "this {what} lies on the mount of volume {name}: {} needs `{written}`",
                        header("volume", &volumes[this].volume.name)
                    )
                }
            };
            let also = vec![(at.clone(), format!("the mount of {name}"))];
            complaints.at_with(place, message, also);
        }
    };
    for (this, read) in volumes.iter().enumerate() {
        if let (Some(mount), Some(place)) = (&read.volume.mount, &read.mount) {
            must_be_after(this, place, "mount point", &mount.at, complaints);
        }
        for (what, file) in &read.files {
            must_be_after(this, &file.place, what, &normal(&file.value), complaints);
        }
    }
}

/// The volumes on whose mounts `path` lies; a mount point at the very same place is another matter.
fn outer_mounts<'a>(volumes: &'a [VolumeTable], path: &Path) -> Vec<(usize, &'a VolumeTable, &'a Place)> {
    let found = volumes.iter().enumerate().filter_map(|(other, outer)| {
        let (mount, place) = (outer.volume.mount.as_ref()?, outer.mount.as_ref()?);
        (path != mount.at && path.starts_with(&mount.at)).then_some((other, outer, place))
    });
    found.collect()
}

fn mounts(volumes: &[VolumeTable]) -> impl Iterator<Item = (&VolumeTable, &Place, &Path)> {
    volumes.iter().filter_map(|read| {
        let at = &read.volume.mount.as_ref()?.at;
        Some((read, read.mount.as_ref()?, at.as_path()))
    })
}

/// What must come before what.
struct Order<'a> {
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
    fn of_volumes(volumes: &'a [VolumeTable]) -> Self {
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

    fn of_domains(tables: &'a Tables) -> Self {
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

    fn reaches(&self, from: usize, to: usize) -> bool {
        self.reached[from].contains(&to)
    }

    /// Complains of circles, each member of one in one complaint alone.
    fn check_circles(&self, kind: &str, complaints: &mut Complaints) {
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
