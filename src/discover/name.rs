//! What each volume is to be called: as it is called now, or as a guest expects it, or after its device.

use std::collections::{BTreeMap, BTreeSet};

use super::candidate::{Candidate, Fate};
use super::guests;
use crate::config;
use crate::facts::DomainFacts;
use crate::facts::survey::Survey;

/// Gives every candidate its name.
pub(super) fn give(candidates: &mut [Candidate<'_>], survey: &Survey, domains: &[DomainFacts]) {
    let expected = guests::expected_names(survey, domains);
    let mut taken: BTreeSet<String> = survey.other_names.clone();
    taken.extend(candidates.iter().filter_map(|candidate| known(candidate).map(str::to_owned)));
    // Two devices may have one name of their own, in two volume groups.
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| known(candidate).is_none()) {
        for name in own_names(candidate) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    for candidate in candidates {
        if let Some(name) = known(candidate) {
            take_known(candidate, name, &mut taken, domains);
            continue;
        }
        let wanted = own_names(candidate)
            .find(|name| expected.contains_key(*name) && config::check_volume(name).is_ok())
            .map(str::to_owned);
        let Some(name) = wanted else {
            candidate.volume.name = free_name(candidate, &mut taken);
            continue;
        };
        let guests = expected[&name].join(", ");
        if counts[&name] > 1 {
            // Nobody but the person gives one of them this name.
            taken.insert(name.clone());
            candidate.volume.name = free_name(candidate, &mut taken);
            candidate.fate = unless_left(
                candidate,
                format!(
                    "guest {guests} expects /dev/mapper/{name}, and several devices are called {name}: name the right one so"
                ),
            );
        } else {
            candidate.doubts.push(format!(
                "guest {guests} expects /dev/mapper/{name}; that it is this device is told by its name alone, it is closed now"
            ));
            candidate.volume.name.clone_from(&name);
            taken.insert(name);
        }
    }
}

/// The name that it has now, or that crypttab(5) gives it.
fn known<'a>(candidate: &Candidate<'a>) -> Option<&'a str> {
    let open = candidate.mapping.map(|mapping| mapping.name.as_str());
    open.or_else(|| candidate.line.map(|line| line.name.as_str()))
}

/// The names that the device itself has.
fn own_names<'a>(candidate: &'a Candidate<'_>) -> impl Iterator<Item = &'a str> {
    let label = candidate.label().filter(|label| candidate.logical_volume() != Some(label));
    candidate.logical_volume().into_iter().chain(label)
}

fn take_known(candidate: &mut Candidate<'_>, name: &str, taken: &mut BTreeSet<String>, domains: &[DomainFacts]) {
    if let (Some(_), Some(line)) = (candidate.mapping, candidate.line)
        && line.name != name
    {
        candidate.doubts.push(format!(
            "it is open as /dev/mapper/{name}, but /etc/crypttab calls it {}; the guests' XML tells which is right",
            line.name
        ));
    }
    let Err(why) = config::check_volume(name) else {
        name.clone_into(&mut candidate.volume.name);
        return;
    };
    candidate.volume.name = free_name(candidate, taken);
    let users: Vec<&str> = domains
        .iter()
        .filter(|domain| {
            domain
                .sources
                .iter()
                .any(|source| guests::mapper_name(&source.path) == Some(name))
        })
        .map(|domain| domain.name.as_str())
        .collect();
    if users.is_empty() {
        candidate.doubts.push(format!("{why}; so it has another name here"));
        if candidate.mapping.is_some() {
            let words = format!("it is open as /dev/mapper/{name} now: close it once, and virt-unlock opens it by its new name");
            candidate.doubts.push(words);
        }
    } else {
        let (new, users) = (&candidate.volume.name, users.join(", "));
        let why = format!("{why}; change the disk of guest {users} to /dev/mapper/{new} first (virsh edit)");
        candidate.fate = unless_left(candidate, why);
    }
}

/// A suggestion with this reason, unless there is no table at all.
fn unless_left(candidate: &Candidate<'_>, why: String) -> Fate {
    if candidate.is_left() {
        candidate.fate.clone()
    } else {
        Fate::Suggested(why)
    }
}

/// A name that nothing has yet, after the device.
fn free_name(candidate: &Candidate<'_>, taken: &mut BTreeSet<String>) -> String {
    let fitting = |text: &str| {
        let text: String = text
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let text = text.trim_start_matches("luks-").trim_matches('-').to_owned();
        (text.chars().any(char::is_alphanumeric) && config::check_volume(&text).is_ok()).then_some(text)
    };
    let uuid = candidate.luks.and_then(|luks| luks.uuid.as_deref());
    let by_uuid = uuid.and_then(|uuid| fitting(&format!("volume-{}", uuid.get(..8)?)));
    // Fedora's luks-UUID says no more than the UUID.
    let is_uuid = |name: &&str| uuid.is_some_and(|uuid| name.ends_with(uuid));
    let base = own_names(candidate)
        .chain(known(candidate).filter(|name| !is_uuid(name)))
        .find_map(fitting)
        .or(by_uuid)
        .unwrap_or_else(|| "volume".to_owned());
    // A name at its longest still has room for a number.
    let base = &base[..base.len().min(120)];
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    let name = std::iter::once(base.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .unwrap_or_default();
    taken.insert(name.clone());
    name
}
