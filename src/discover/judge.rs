//! What becomes of each candidate: a table, a table behind a `#`, or no table because the host itself needs it.

use std::path::PathBuf;

use super::candidate::{Candidate, Fate};
use super::{guests, mount};
use crate::config::{self, Config};
use crate::facts::survey::{BlockDevice, Survey};
use crate::facts::{DomainFacts, Mapping, VolumeFacts};
use crate::graph::Placement;

/// Leaves out what the host needs for itself. `domains` empty: libvirt did not say.
pub(super) fn leave_to_host(candidates: &mut [Candidate<'_>], survey: &Survey, domains: &[DomainFacts]) {
    for candidate in candidates.iter_mut().filter(|candidate| !candidate.is_left()) {
        if let Some(why) = host_use(candidate, survey, domains) {
            candidate.fate = Fate::Left(why);
        }
    }
}

/// What the host itself uses an open volume, or one of fstab(5), for.
fn host_use(candidate: &mut Candidate<'_>, survey: &Survey, domains: &[DomainFacts]) -> Option<String> {
    let of_host = |at: &PathBuf| mount::is_of_host(at).then(|| format!("has the host's own filesystem of {}", at.display()));
    if let Some(line) = candidate.fstab {
        if line.fstype == "swap" {
            return Some("is swap of this host".to_owned());
        }
        if let Some(why) = of_host(&line.at) {
            return Some(why);
        }
    }
    let mapping = candidate.mapping?;
    if survey.swaps.contains(&mapping.number) {
        return Some("is swap of this host".to_owned());
    }
    if let Some(why) = mount::mounts(candidate, survey).iter().find_map(|mount| of_host(&mount.at)) {
        return Some(why);
    }
    if mapping.on_top.is_empty() {
        return None;
    }
    let uses = |domain: &&DomainFacts| {
        let mut sources = domain.sources.iter();
        sources.any(|source| source.number == Some(mapping.number) || guests::mapper_name(&source.path) == Some(&mapping.name))
    };
    let inside: Vec<String> = mapping
        .on_top
        .iter()
        .map(|device| device.path.display().to_string())
        .collect();
    if domains.iter().any(|domain| uses(&domain)) {
        candidate.doubts.push(format!(
            "what belongs to its guest has woken up on this host ({}), and it cannot be closed before that sleeps again: \
             vgchange -an VG, or kpartx -d; virt-unlock opens it so that this does not happen",
            inside.join(", ")
        ));
        return None;
    }
    if let Some(why) = mapping.on_top.iter().find_map(|device| used_on_top(device, survey, domains)) {
        return Some(why);
    }
    candidate.doubts.push(format!(
        "{} is on top of it now, and it cannot be closed before that is gone",
        inside.join(", ")
    ));
    None
}

/// What this host has on a device on top of a volume.
fn used_on_top(device: &BlockDevice, survey: &Survey, domains: &[DomainFacts]) -> Option<String> {
    let path = device.path.display();
    if let Some(mount) = survey.mounts.iter().find(|mount| mount.number == device.number) {
        return Some(format!(
            "has a filesystem of this host in it ({path} at {})",
            mount.at.display()
        ));
    }
    if survey.swaps.contains(&device.number) {
        return Some(format!("has swap of this host in it ({path})"));
    }
    let has = |domain: &&DomainFacts| domain.sources.iter().any(|source| source.number == Some(device.number));
    let domain = domains.iter().find(has)?;
    Some(format!(
        "has a volume group of this host in it ({path} is a disk of guest {}), and LVM between a volume and its guests is not supported",
        domain.name
    ))
}

/// Which guests lie on which candidate, as the program itself will see it.
pub(super) fn placed<'a>(candidates: &[Candidate<'_>], domains: &'a [DomainFacts]) -> Vec<Vec<&'a DomainFacts>> {
    let config = Config {
        volumes: candidates
            .iter()
            .filter(|candidate| !candidate.is_left())
            .map(|candidate| candidate.volume.clone())
            .collect(),
        ..Config::default()
    };
    let volumes = candidates
        .iter()
        .map(|candidate| (candidate.volume.name.clone(), facts(candidate)))
        .collect();
    let placement = Placement::new(&config, &volumes);
    let on = |candidate: &Candidate<'_>| {
        let here = domains
            .iter()
            .filter(|domain| placement.volumes_of(domain).contains(&&*candidate.volume.name));
        if candidate.is_left() { Vec::new() } else { here.collect() }
    };
    candidates.iter().map(on).collect()
}

/// What counts for the places of guests.
pub(super) fn facts(candidate: &Candidate<'_>) -> VolumeFacts {
    let open = candidate.mapping.map(|mapping| Mapping::Open(mapping.number));
    VolumeFacts {
        mapping: open.unwrap_or_default(),
        ..VolumeFacts::default()
    }
}

/// Decides on those that nothing was decided on yet. `known`: libvirt told its guests.
pub(super) fn decide(candidates: &mut [Candidate<'_>], placed: &[Vec<&DomainFacts>], known: bool) {
    let used = used(candidates, placed);
    for ((candidate, guests), is_used) in candidates.iter_mut().zip(placed).zip(used) {
        if !candidate.is_written() {
            continue;
        }
        let is_idle = guests.is_empty() && candidate.volume.pools.is_empty();
        let is_chosen = candidate.mapping.is_some() || candidate.line.is_some();
        let device = candidate.shown();
        let doubts = &mut candidate.doubts;
        if candidate.has_twin && is_chosen {
            doubts.push(format!(
                "another device has the same LUKS UUID (a snapshot, or a copy): is {device} the right one?"
            ));
        }
        if candidate.luks.is_none() && candidate.volume.header.is_none() && candidate.mapping.is_none() {
            doubts.push(format!("its device {device} is not there now, or has no LUKS header"));
        }
        if candidate.has_twin && !is_chosen {
            candidate.fate = Fate::Suggested("another device has the same LUKS UUID (a snapshot, or a copy)".to_owned());
        } else if !known {
            doubts.push("libvirt did not answer: whether a guest lies on it is not known".to_owned());
        } else if !is_used {
            candidate.fate = Fate::Suggested("no guest lies on it, as far as libvirt's definitions tell".to_owned());
        } else if is_idle {
            doubts.push("no guest lies on it, but a key file, a header or a mount point of another volume does".to_owned());
        }
    }
}

/// Whether each has guests or pools, or is needed by one that has.
fn used(candidates: &[Candidate<'_>], placed: &[Vec<&DomainFacts>]) -> Vec<bool> {
    let has =
        |(candidate, guests): (&Candidate<'_>, &Vec<&DomainFacts>)| !guests.is_empty() || !candidate.volume.pools.is_empty();
    let mut used: Vec<bool> = candidates.iter().zip(placed).map(has).collect();
    let mut waiting: Vec<usize> = (0..used.len()).filter(|place| used[*place]).collect();
    while let Some(place) = waiting.pop() {
        for (other, candidate) in candidates.iter().enumerate() {
            if !used[other] && candidates[place].volume.after.contains(&candidate.volume.name) {
                used[other] = true;
                waiting.push(other);
            }
        }
    }
    used
}

/// Writes a table only where the parser takes it together with those before; any other one becomes a suggestion with the parser's
/// own words. So the whole is a configuration, whatever the host has.
pub(super) fn accept(candidates: &mut [Candidate<'_>], head: &str) {
    let mut taken: Vec<bool> = vec![false; candidates.len()];
    let tables: Vec<Option<String>> = candidates
        .iter()
        .map(|candidate| config::volume_table(&candidate.volume))
        .collect();
    let parse = |taken: &[bool], also: usize| {
        let chosen = tables.iter().enumerate().filter(|(place, _)| taken[*place] || *place == also);
        let text: String = chosen.filter_map(|(_, table)| table.as_deref()).collect();
        config::parse(&[("discover".into(), format!("{head}{text}"))])
    };
    // A table may need one that comes later (`after`): until nothing changes any more.
    loop {
        let mut progress = false;
        for place in 0..candidates.len() {
            let is_left_over = candidates[place].is_written() && !taken[place] && tables[place].is_some();
            if is_left_over && parse(&taken, place).is_ok() {
                taken[place] = true;
                progress = true;
            }
        }
        if !progress {
            break;
        }
    }
    for place in 0..candidates.len() {
        if !candidates[place].is_written() || taken[place] {
            continue;
        }
        let why = match parse(&taken, place) {
            Err(problems) => problems
                .iter()
                .map(|found| found.message.to_owned())
                .collect::<Vec<_>>()
                .join("; "),
            Ok(_) => "a path of it is not UTF-8".to_owned(),
        };
        candidates[place].fate = Fate::Suggested(why);
    }
}
