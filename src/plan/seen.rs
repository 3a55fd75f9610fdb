//! What one run has seen up. What was up in this run and is down now was taken down by somebody, and it is not this run that brings
//! it up again: who wants it says so by name, or begins another run.

use std::collections::BTreeSet;

use super::{Action, Plan, Step, Wait};
use crate::graph::Layer;

const TAKEN_DOWN: &str = "was up, and was taken down since";

/// The layers that this run has seen up, or has done its part for.
#[derive(Clone, Debug, Default)]
pub struct Seen(BTreeSet<Layer>);

impl Seen {
    /// This layer is up, or was tried.
    pub fn note(&mut self, layer: &Layer) {
        self.0.insert(layer.clone());
    }

    /// The plan without the volumes that were open before.
    #[must_use]
    pub fn without_volumes(&mut self, plan: Plan) -> Plan {
        self.note_up(&plan);
        plan.without(
            |layer| matches!(layer, Layer::Volume(_)) && self.0.contains(layer),
            TAKEN_DOWN,
        )
    }

    /// The plan without the domains that ran before. One whose volume is not there is another matter: whoever brings the volume up
    /// again wants what lies on it.
    #[must_use]
    pub fn without_domains(&mut self, plan: Plan) -> Plan {
        self.note_up(&plan);
        let is_there = |step: &Step| {
            let is_secret = |wait: &&Wait| matches!(plan.steps[wait.step].layer, Layer::Secret(_));
            let needs = step.waits_for.iter().filter(|wait| wait.must_succeed);
            // A secret is set again for each start.
            needs
                .filter(|wait| !is_secret(wait))
                .all(|wait| plan.steps[wait.step].action == Action::Nothing)
        };
        for step in plan.steps.iter().filter(|step| !is_there(step)) {
            self.0.remove(&step.layer);
        }
        plan.without(
            |layer| matches!(layer, Layer::Domain(_)) && self.0.contains(layer),
            TAKEN_DOWN,
        )
    }

    fn note_up(&mut self, plan: &Plan) {
        for step in plan.steps.iter().filter(|step| step.action.is_up_already()) {
            self.note(&step.layer);
        }
    }
}
