//! From a locked volume to an open one: its device, its ways to a key, the question, the derivation. What is shared between
//! volumes that are unlocked side by side is here too: whose question is open, which passphrase a group has, how much memory
//! is promised to derivations.

mod ask;
mod gate;
mod group;
mod turn;
mod volume;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::host::Host;
use crate::monitor::Monitor;
use crate::pace::Pace;

use gate::Gate;
use group::Group;
use turn::Turn;

/// Everything that volumes share while they are unlocked.
pub struct Unlocker {
    host: Host,
    turn: Turn,
    groups: BTreeMap<String, Group>,
    gate: Gate,
    waiting_guests: BTreeMap<String, Vec<String>>,
    unanswered: Arc<Monitor<usize>>,
    pace: Pace,
}

impl Unlocker {
    /// `waiting_guests`: for each volume the guests that wait for it, for the words of the questions. `to_open`: the volumes
    /// that are going to be unlocked.
    pub fn new(config: &Config, host: &Host, waiting_guests: BTreeMap<String, Vec<String>>, to_open: &[&str]) -> Self {
        let of_group = |group: &str| {
            config
                .volumes
                .iter()
                .filter(|v| v.passphrase_group.as_deref() == Some(group) && to_open.contains(&v.name.as_str()))
                .count()
        };
        let groups = config.volumes.iter().filter_map(|volume| volume.passphrase_group.clone());
        let groups = groups.map(|name| (name.clone(), Group::new(of_group(&name)))).collect();
        let pace = Pace::default();
        let asked = |name: &&&str| config.volume(name).is_some_and(volume::is_asked_for);
        Self {
            turn: Turn::new(),
            groups,
            gate: Gate::new(Arc::clone(&host.devices), pace),
            waiting_guests,
            unanswered: Arc::new(Monitor::new(to_open.iter().filter(asked).count())),
            host: host.clone(),
            pace,
        }
    }

    /// With other limits and pauses.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.gate = Gate::new(Arc::clone(&self.host.devices), pace);
        self.pace = pace;
        self
    }

    /// How many volumes still wait for an answer, or may have to be asked for again. Zero: every question is answered.
    pub fn unanswered(&self) -> Arc<Monitor<usize>> {
        Arc::clone(&self.unanswered)
    }
}
