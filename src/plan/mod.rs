//! Configuration and facts in, a plan out: for every layer what is to be done and why, or why not. Pure: same input, same plan.

mod down;
mod release;
mod seen;
mod up;

use std::collections::BTreeSet;

pub use down::{down, down_at_once, is_up};
pub use release::{release, stop};
pub use seen::Seen;
pub use up::up;

use crate::graph::{Graph, Layer};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Open, mount, start.
    Up,
    /// Stop, unmount, close.
    Down,
}

/// What is to be done with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open the volume.
    Open,
    /// Mount its filesystem.
    Mount,
    /// Start and refresh the pool.
    StartPool,
    /// Give libvirt the secret's value.
    SetSecret,
    /// Start the domain.
    Start,
    /// Shut the domain down.
    Stop,
    /// Let libvirt forget the secret.
    ForgetSecret,
    /// Stop the pool.
    StopPool,
    /// Unmount the filesystem.
    Unmount,
    /// Close the volume.
    Close,
    /// The domain runs: wait until it is ready, for those that come after it.
    Await,
    /// It is as it should be.
    Nothing,
    /// It is not asked for: not among the names, or not wanted up.
    Leave,
    /// It cannot be done, and nothing that needs it will be.
    Blocked,
}

impl Action {
    /// The word for people and for JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Mount => "mount",
            Self::StartPool => "start pool",
            Self::SetSecret => "set secret",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::ForgetSecret => "forget secret",
            Self::StopPool => "stop pool",
            Self::Unmount => "unmount",
            Self::Close => "close",
            Self::Await => "await",
            Self::Nothing => "nothing",
            Self::Leave => "leave",
            Self::Blocked => "blocked",
        }
    }

    /// Whether it changes anything.
    pub fn is_work(self) -> bool {
        !matches!(self, Self::Await | Self::Nothing | Self::Leave | Self::Blocked)
    }

    /// Whether the layer is up already.
    pub fn is_up_already(self) -> bool {
        matches!(self, Self::Nothing | Self::Await)
    }
}

/// One layer's part of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which layer.
    pub layer: Layer,
    /// What is to be done.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
    /// Steps that must be through before: places in the plan. Up: what it needs. Down: what needs it.
    pub waits_for: Vec<Wait>,
}

/// A step that another waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its place in the plan.
    pub step: usize,
    /// Whether it must have worked out. Otherwise it is only an order.
    pub must_succeed: bool,
}

/// What to do, in an order in which it can be done one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which way.
    pub direction: Direction,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The steps that change something.
    pub fn work(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.action.is_work())
    }

    /// The same plan with the work on all other layers left to somebody else, for the reason `why`.
    #[must_use]
    pub fn only(mut self, ours: impl Fn(&Layer) -> bool, why: &str) -> Self {
        for step in self
            .steps
            .iter_mut()
            .filter(|step| step.action.is_work() && !ours(&step.layer))
        {
            step.action = Action::Leave;
            step.reason = format!("{}; {why}", step.reason);
        }
        self.only_for_those_that_start();
        self
    }

    /// The same plan of a way up without the work on some layers, and without that on what cannot be up without them.
    #[must_use]
    pub fn without(mut self, left: impl Fn(&Layer) -> bool, why: &str) -> Self {
        let (mut gone, mut roots) = (vec![false; self.steps.len()], vec![0; self.steps.len()]);
        for place in 0..self.steps.len() {
            let step = &self.steps[place];
            if !step.action.is_work() {
                continue;
            }
            let lost = step.waits_for.iter().find(|wait| wait.must_succeed && gone[wait.step]);
            let reason = match lost {
                _ if left(&step.layer) => {
                    roots[place] = place;
                    format!("{}; {why}", step.reason)
                }
                Some(wait) => {
                    roots[place] = roots[wait.step];
                    needs(&self.steps[roots[place]])
                }
                None => continue,
            };
            gone[place] = true;
            (self.steps[place].action, self.steps[place].reason) = (Action::Leave, reason);
        }
        self.only_for_those_that_start();
        self
    }

    /// A secret is set only where a domain that needs it is to be started, and a domain that runs is waited for only where one that is
    /// to be started comes after it.
    fn only_for_those_that_start(&mut self) {
        let mut users: Vec<Vec<Action>> = vec![Vec::new(); self.steps.len()];
        for step in &self.steps {
            for wait in step.waits_for.iter().filter(|wait| wait.must_succeed) {
                users[wait.step].push(step.action);
            }
        }
        for (step, users) in self.steps.iter_mut().zip(users) {
            if step.action != Action::SetSecret || users.contains(&Action::Start) {
                continue;
            }
            (step.action, step.reason) = if !users.is_empty() && users.iter().all(|action| action.is_up_already()) {
                (Action::Nothing, "each guest that needs it runs".to_owned())
            } else {
                (Action::Leave, "no guest that needs it is to be started".to_owned())
            };
        }
        let mut awaited = vec![false; self.steps.len()];
        for wait in self.work().flat_map(|step| &step.waits_for) {
            awaited[wait.step] = true;
        }
        for (step, awaited) in self.steps.iter_mut().zip(awaited) {
            if step.action == Action::Await && !awaited {
                step.action = Action::Nothing;
            }
        }
    }

    /// The step of a layer.
    pub fn step(&self, layer: &Layer) -> Option<&Step> {
        self.steps.iter().find(|step| &step.layer == layer)
    }
}

/// Why something is not done that needs, directly or not, what this step leaves alone for a reason of its own.
fn needs(step: &Step) -> String {
    format!("needs {}: {}", step.layer, step.reason)
}

/// Which layers are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeSet<String>);

/// A name that is neither a volume nor a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no volume and no guest named {name:?}; known are: {known}")]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// All the known ones.
    pub known: String,
}

impl Names {
    /// These names; none: everything.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// Whether everything is meant.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether this layer is one that is named.
    pub fn mean(&self, layer: &Layer) -> bool {
        // A volume's name means its mount too.
        !layer.is_nameless() && self.0.contains(layer.name())
    }

    /// The places that are named; `None`: everything.
    fn places(&self, graph: &Graph) -> Result<Option<Vec<usize>>, UnknownName> {
        if self.is_all() {
            return Ok(None);
        }
        let nodes = graph.nodes();
        let known: BTreeSet<&str> = nodes
            .iter()
            .filter(|node| !node.layer.is_nameless())
            .map(|node| node.layer.name())
            .collect();
        if let Some(name) = self.0.iter().find(|name| !known.contains(name.as_str())) {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(UnknownName {
                name: name.clone(),
                known,
            });
        }
        Ok(Some(
            (0..nodes.len()).filter(|place| self.mean(&nodes[*place].layer)).collect(),
        ))
    }

    fn names_domain(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}
