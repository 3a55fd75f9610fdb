//! The walk through a plan: each step begins as soon as what it waits for is through, in a thread of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::cancel::Cancel;
use crate::event::{Ending, Events, Happened, Kind, Outcome, Progress};
use crate::graph::Layer;
use crate::plan::{Action, Plan, Step};

/// Does the work of one step.
pub trait Hands: Sync {
    /// Does what `step.action` says, which is always work, and comes back soon after `cancel` is raised.
    fn perform(&self, step: &Step, progress: Progress<'_>, cancel: &Cancel) -> Ending;

    /// The kind of a step's end that has not been given one.
    fn kind(&self, step: &Step, outcome: &Outcome) -> Option<Kind>;

    /// Told of each step in the plan's order, before its thread begins; must not block.
    fn announce(&self, _step: &Step) {}

    /// Told of each step that would be work and is never performed: it lost what it needs, or was cancelled; must not block.
    fn pass_over(&self, _step: &Step) {}
}

/// How each step of a plan ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// In the plan's order.
    pub ended: Vec<(Layer, Outcome)>,
}

impl Summary {
    /// Whether everything is as asked.
    pub fn is_good(&self) -> bool {
        !self.ended.iter().any(|(_, outcome)| outcome.is_bad())
    }

    /// How a layer ended.
    pub fn outcome(&self, layer: &Layer) -> Option<&Outcome> {
        self.ended
            .iter()
            .find(|(found, _)| found == layer)
            .map(|(_, outcome)| outcome)
    }
}

/// Walks the whole plan and says how each step ended. Once `cancel` is raised nothing new begins.
pub fn walk(plan: &Plan, hands: &dyn Hands, events: &Events, cancel: &Cancel) -> Summary {
    let mut walker = Walker::new(plan, hands, events, cancel);
    thread::scope(|scope| {
        let (ended, ends) = channel();
        walker.begin_what_can(|place| spawn(scope, plan, place, hands, events, cancel, &ended));
        while walker.running > 0 {
            // A running step always sends: its thread holds a sender and catches its own panic.
            let Ok((place, ending)) = ends.recv() else { break };
            walker.running -= 1;
            walker.settle(place, ending);
            walker.begin_what_can(|place| spawn(scope, plan, place, hands, events, cancel, &ended));
        }
    });
    let outcomes = walker
        .outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or(Outcome::Cancelled));
    Summary {
        ended: plan.steps.iter().map(|step| step.layer.clone()).zip(outcomes).collect(),
    }
}

fn spawn<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    plan: &'env Plan,
    place: usize,
    hands: &'env dyn Hands,
    events: &'env Events,
    cancel: &'env Cancel,
    ended: &Sender<(usize, Ending)>,
) -> bool {
    let ended = ended.clone();
    hands.announce(&plan.steps[place]);
    let begun = thread::Builder::new().spawn_scoped(scope, move || {
        let step = &plan.steps[place];
        let ending =
            catch_unwind(AssertUnwindSafe(|| hands.perform(step, events.of(&step.layer), cancel))).unwrap_or_else(|_| {
                Outcome::Failed("an error in virt-unlock itself; please report it with the lines above".to_owned()).into()
            });
        // The receiver outlives every sender.
        let _ = ended.send((place, ending));
    });
    begun.is_ok()
}

struct Walker<'a> {
    plan: &'a Plan,
    hands: &'a dyn Hands,
    events: &'a Events,
    cancel: &'a Cancel,
    outcomes: Vec<Option<Outcome>>,
    open_waits: Vec<usize>,
    waited_by: Vec<Vec<usize>>,
    /// Earlier in the plan first: the questions come in that order.
    ready: BinaryHeap<Reverse<usize>>,
    running: usize,
}

impl<'a> Walker<'a> {
    fn new(plan: &'a Plan, hands: &'a dyn Hands, events: &'a Events, cancel: &'a Cancel) -> Self {
        let mut waited_by = vec![Vec::new(); plan.steps.len()];
        for (place, step) in plan.steps.iter().enumerate() {
            for wait in &step.waits_for {
                waited_by[wait.step].push(place);
            }
        }
        let open_waits: Vec<usize> = plan.steps.iter().map(|step| step.waits_for.len()).collect();
        let ready = (0..plan.steps.len())
            .filter(|place| open_waits[*place] == 0)
            .map(Reverse)
            .collect();
        Self {
            plan,
            hands,
            events,
            cancel,
            outcomes: vec![None; plan.steps.len()],
            open_waits,
            waited_by,
            ready,
            running: 0,
        }
    }

    /// Begins every step whose waits are over. What needs no work, or has lost what it needs, ends on the spot.
    fn begin_what_can(&mut self, mut spawn: impl FnMut(usize) -> bool) {
        while let Some(Reverse(place)) = self.ready.pop() {
            match self.without_work(place) {
                Some(outcome) => self.pass_over(place, outcome),
                None if spawn(place) => self.running += 1,
                None => self.pass_over(
                    place,
                    Outcome::Failed("no thread can be started; is memory or TasksMax used up?".to_owned()),
                ),
            }
        }
    }

    fn without_work(&self, place: usize) -> Option<Outcome> {
        let step = &self.plan.steps[place];
        match step.action {
            Action::Nothing => return Some(Outcome::Already(step.reason.clone())),
            Action::Leave => return Some(Outcome::Left(step.reason.clone())),
            Action::Blocked => return Some(Outcome::Failed(step.reason.clone())),
            _ => {}
        }
        let lost = step.waits_for.iter().filter(|wait| wait.must_succeed).find_map(|wait| {
            let outcome = self.outcomes[wait.step].as_ref()?;
            (!outcome.is_good() && !matches!(outcome, Outcome::Left(_))).then_some((&self.plan.steps[wait.step].layer, outcome))
        });
        match lost {
            _ if self.cancel.is_raised() => Some(Outcome::Cancelled),
            Some((_, Outcome::Cancelled)) => Some(Outcome::Cancelled),
            Some((layer, outcome)) => Some(Outcome::Skipped(format!("{layer} {}", lost_words(outcome)))),
            None => None,
        }
    }

    fn pass_over(&mut self, place: usize, outcome: Outcome) {
        let step = &self.plan.steps[place];
        if step.action.is_work() {
            self.hands.pass_over(step);
        }
        self.settle(place, outcome.into());
    }

    fn settle(&mut self, place: usize, Ending { outcome, kind }: Ending) {
        let step = &self.plan.steps[place];
        let kind = kind.or_else(|| self.hands.kind(step, &outcome));
        self.events.tell(Some(&step.layer), kind, Happened::Ended(outcome.clone()));
        self.outcomes[place] = Some(outcome);
        for waiting in std::mem::take(&mut self.waited_by[place]) {
            self.open_waits[waiting] -= 1;
            if self.open_waits[waiting] == 0 {
                self.ready.push(Reverse(waiting));
            }
        }
    }
}

/// The root of a chain of failures is said once, where it happened; what hangs on it names only its neighbour.
fn lost_words(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Skipped(_) => "is not there",
        _ => "failed",
    }
}
