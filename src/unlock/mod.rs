//! From a locked volume to an open one: its device, its ways to a key, the question, the derivation; and the same ways to the value of
//! a secret. What is shared between volumes that are unlocked side by side is here too: whose question is open, which passphrase a group has, which master is open,
//! how much memory is promised to derivations.

mod ahead;
mod ask;
pub mod derived;
pub mod enrolled;
pub mod enrolment;
mod gate;
mod group;
mod kept;
pub mod key_file;
mod master;
mod secret;
mod token;
mod turn;
mod volume;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::config::{Config, Master, Unlock, Volume};
use crate::host::Host;
use crate::monitor::Monitor;
use crate::pace::Pace;

use gate::Gate;
use group::Group;
use master::Shared;
use turn::Turn;

pub use secret::Wanted;

/// Everything that volumes share while they are unlocked.
pub struct Unlocker {
    host: Host,
    turn: Turn,
    /// Who is at a token: a stick serves one at a time, and a person touches one thing at a time.
    at_token: Turn,
    groups: BTreeMap<String, Group>,
    masters: BTreeMap<String, Shared>,
    gate: Gate,
    waiting_guests: BTreeMap<String, Vec<String>>,
    /// The masters that somebody may be asked for.
    asked_masters: BTreeSet<String>,
    /// The volumes that may have to be asked for.
    asked_for: BTreeSet<String>,
    /// Those of them that may still have to be asked for; their number is in `unanswered`.
    to_ask: Mutex<BTreeSet<String>>,
    unanswered: Arc<Monitor<usize>>,
    /// By volume, those that are directly after it.
    followers: BTreeMap<String, Vec<String>>,
    /// Since when key files, or their devices, have been waited for.
    awaited: Mutex<BTreeMap<String, Instant>>,
    pace: Pace,
}

impl Unlocker {
    /// `waiting_guests`: for each volume the guests that wait for it, for the words of the questions. `to_open`: the volumes
    /// that are going to be unlocked.
    pub fn new(config: &Config, host: &Host, waiting_guests: BTreeMap<String, Vec<String>>, to_open: &[&str]) -> Self {
        let pace = Pace::default();
        let to_open: HashSet<&str> = to_open.iter().copied().collect();
        let (mut groups, mut pending) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, Vec<String>>::new());
        for group in config.secrets.iter().filter_map(|secret| secret.passphrase_group.as_ref()) {
            groups.entry(group).or_default();
        }
        for volume in &config.volumes {
            let is_to_open = to_open.contains(volume.name.as_str());
            if let Some(group) = &volume.passphrase_group {
                *groups.entry(group).or_default() += usize::from(is_to_open);
            }
            for way in volume.unlock.iter().filter(|_| is_to_open) {
                if let Unlock::Master { name } = way {
                    pending.entry(name).or_default().push(volume.name.clone());
                }
            }
        }
        let groups = groups
            .into_iter()
            .map(|(name, members)| (name.to_owned(), Group::new(members, pace.keep_passphrase)))
            .collect();
        let masters = config.masters.iter().map(|master| {
            let mut pending = pending.remove(master.name.as_str()).unwrap_or_default();
            // A volume that names it twice is one volume.
            pending.dedup();
            (master.name.clone(), Shared::new(master, pending, pace.keep_passphrase))
        });
        let is_asked = |master: &&Master| asks(&BTreeSet::new(), &master.unlock);
        let asked_masters: BTreeSet<String> = config
            .masters
            .iter()
            .filter(is_asked)
            .map(|master| master.name.clone())
            .collect();
        let is_asked = |volume: &Volume| asks(&asked_masters, &volume.unlock);
        let is_to_open = |volume: &&Volume| to_open.contains(volume.name.as_str()) && is_asked(volume);
        let asked_for: BTreeSet<String> = config
            .volumes
            .iter()
            .filter(is_to_open)
            .map(|volume| volume.name.clone())
            .collect();
        Self {
            turn: Turn::new(),
            at_token: Turn::new(),
            groups,
            masters: masters.collect(),
            gate: Gate::new(Arc::clone(&host.devices), &pace),
            waiting_guests,
            unanswered: Arc::new(Monitor::new(asked_for.len())),
            to_ask: Mutex::new(asked_for.clone()),
            asked_for,
            asked_masters,
            followers: followers(config),
            awaited: Mutex::default(),
            host: host.clone(),
            pace,
        }
    }

    /// With other limits and pauses.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.gate = Gate::new(Arc::clone(&self.host.devices), &pace);
        for group in self.groups.values_mut() {
            group.keep_for(pace.keep_passphrase);
        }
        for master in self.masters.values_mut() {
            master.keep_for(pace.keep_passphrase);
        }
        self.pace = pace;
        self
    }

    /// Soon [`Unlocker::unlock`] is called for this volume: questions come in the order of `rank`, not of luck.
    pub fn announce(&self, volume: &Volume, rank: usize) {
        if self.asked_for.contains(&volume.name) {
            self.turn.announce(rank);
        }
    }

    /// [`Unlocker::unlock`] will not be called for this volume: nobody is to wait for it.
    pub fn pass_over(&self, volume: &Volume) {
        self.settle(&volume.name);
        if let Some(group) = self.group_of(volume) {
            group.member_is_through();
        }
        for way in &volume.unlock {
            if let Unlock::Master { name } = way
                && let Some(master) = self.masters.get(name)
            {
                master.leave(&volume.name);
            }
        }
    }

    /// Whether one of these ways may ask somebody.
    fn asks(&self, ways: &[Unlock]) -> bool {
        asks(&self.asked_masters, ways)
    }

    /// Nobody has to answer for this volume any more.
    fn settle(&self, name: &str) {
        let mut to_ask = self.to_ask.lock().unwrap_or_else(PoisonError::into_inner);
        if to_ask.remove(name) {
            self.unanswered.update(|count| *count = to_ask.len());
        }
    }

    /// It has to be asked for after all.
    fn unsettle(&self, name: &str) {
        let mut to_ask = self.to_ask.lock().unwrap_or_else(PoisonError::into_inner);
        if self.asked_for.contains(name) && to_ask.insert(name.to_owned()) {
            self.unanswered.update(|count| *count = to_ask.len());
        }
    }

    /// This volume may never come, nor then those that are after it.
    fn settle_with_followers(&self, name: &str) {
        self.settle(name);
        let (mut seen, mut next) = (BTreeSet::new(), vec![name]);
        while let Some(name) = next.pop() {
            for follower in self.followers.get(name).into_iter().flatten() {
                if seen.insert(follower.as_str()) {
                    self.settle(follower);
                    next.push(follower);
                }
            }
        }
    }

    /// How many volumes still wait for an answer, or may have to be asked for again. Zero: every question is answered.
    pub fn unanswered(&self) -> Arc<Monitor<usize>> {
        Arc::clone(&self.unanswered)
    }
}

/// Whether one of these ways may ask somebody, where `masters` are those that somebody may be asked for.
fn asks(masters: &BTreeSet<String>, ways: &[Unlock]) -> bool {
    ways.iter().any(|way| match way {
        // A token may want a PIN.
        Unlock::Passphrase | Unlock::Token => true,
        Unlock::KeyFile(_) | Unlock::Credential { .. } => false,
        Unlock::Master { name } => masters.contains(name),
    })
}

/// For each volume those that are directly after it.
fn followers(config: &Config) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for volume in &config.volumes {
        for after in &volume.after {
            found.entry(after.clone()).or_default().push(volume.name.clone());
        }
    }
    found
}
