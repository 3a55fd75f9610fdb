//! How the time up to `stop-deadline` is shared out among the domains that are still to be stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Config, DomainConfig, OnStopTimeout};
use crate::plan::{Action, Plan};

/// What each domain of a plan wants for itself, and what those want that can be stopped only after it.
pub(super) struct Shares(BTreeMap<String, Wants>);

#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    /// Its `stop-timeout`.
    own: Duration,
    /// The longest chain of those that come after it.
    behind: Duration,
    /// Its plug is never pulled, so it may have all that the others leave.
    waits: bool,
}

/// What a domain gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// How long it may take to shut down.
    pub limit: Duration,
    /// How long it is waited for; longer than the limit where its plug is never pulled.
    pub patience: Duration,
    /// The limit that it should have had, where that is noticeably longer.
    pub cut_from: Option<Duration>,
}

impl Shares {
    /// For this plan.
    pub fn of(config: &Config, plan: &Plan) -> Self {
        let mut shares = BTreeMap::new();
        let mut behind = vec![Duration::ZERO; plan.steps.len()];
        // What waits for a step stands after it in the plan.
        for (place, step) in plan.steps.iter().enumerate().rev() {
            let mut chain = behind[place];
            if step.action == Action::Stop {
                let table = config.domain(step.layer.name());
                let wants = Wants {
                    own: table.and_then(|table| table.stop_timeout).unwrap_or(config.host.stop_timeout),
                    behind: chain,
                    waits: table.is_some_and(|table: &DomainConfig| table.on_stop_timeout == OnStopTimeout::Wait),
                };
                chain = chain.saturating_add(wants.own);
                shares.insert(step.layer.name().to_owned(), wants);
            }
            for wait in &step.waits_for {
                behind[wait.step] = behind[wait.step].max(chain);
            }
        }
        Self(shares)
    }

    /// What a domain gets that is asked now, with so much time `left` to all: what it wants while all of its chain can have that,
    /// else the same part of it as the others. Never less than `least`, or than it wants: nobody is asked and cut off a moment later.
    pub fn share(&self, domain: &str, left: Duration, least: Duration) -> Share {
        let Wants { own, behind, waits } = self.0.get(domain).copied().unwrap_or_default();
        let all = own.saturating_add(behind);
        let fair = if all <= left {
            own
        } else {
            own.mul_f64(left.div_duration_f64(all))
        };
        let limit = fair.max(least).min(own);
        let patience = if waits {
            limit.max(left.saturating_sub(behind))
        } else {
            limit
        };
        Share {
            limit,
            patience,
            // A tenth less is nobody's affair: to read the plan takes a second too.
            cut_from: (limit < own.mul_f64(0.9)).then_some(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Layer;
    use crate::plan::{Direction, Step, Wait};

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A chain of guests, the first one stopped first, each with its `stop-timeout`; and one beside it, alone, that is waited for.
    fn shares(timeouts: &[(&str, u64)]) -> Shares {
        let mut config = Config::default();
        for (name, timeout) in timeouts {
            let mut table = DomainConfig::new(name);
            table.stop_timeout = Some(secs(*timeout));
            config.domains.push(table);
        }
        config.domains[0].on_stop_timeout = OnStopTimeout::Wait;
        let steps = timeouts.iter().enumerate().map(|(place, (name, _))| Step {
            layer: Layer::Domain((*name).into()),
            action: Action::Stop,
            reason: String::new(),
            waits_for: (place > 1)
                .then(|| Wait {
                    step: place - 1,
                    must_succeed: false,
                })
                .into_iter()
                .collect(),
        });
        let plan = Plan {
            direction: Direction::Down,
            steps: steps.collect(),
        };
        Shares::of(&config, &plan)
    }

    #[test]
    fn what_is_left_is_shared_out_among_those_of_a_chain() {
        let shares = shares(&[("alone", 60), ("first", 180), ("second", 180), ("third", 60)]);
        let limit = |name: &str, left: u64| shares.share(name, secs(left), secs(10)).limit.as_secs();
        // Enough for all.
        assert_eq!(
            (limit("first", 900), limit("second", 420), limit("third", 60)),
            (180, 180, 60)
        );
        // Half of what they want: each gets half. The one that stands alone is not concerned.
        assert_eq!((limit("first", 210), limit("alone", 210)), (90, 60));
        assert_eq!((limit("second", 120), limit("third", 30)), (90, 30));
        // The first one did not need its part: the others have it.
        assert_eq!(limit("second", 205), 153);
        // Nothing is left: asked all the same, and not cut off at once.
        assert_eq!((limit("first", 0), limit("third", 0)), (10, 10));
    }

    #[test]
    fn what_is_cut_is_known() {
        let shares = shares(&[("alone", 60), ("first", 180), ("second", 180)]);
        let cut = |name: &str, left: u64| shares.share(name, secs(left), secs(10)).cut_from;
        assert_eq!((cut("first", 360), cut("first", 350)), (None, None));
        assert_eq!((cut("first", 180), cut("alone", 58)), (Some(secs(180)), None));
    }

    #[test]
    fn one_whose_plug_is_never_pulled_leaves_the_others_their_time() {
        let mut shares = shares(&[("alone", 60), ("first", 60), ("second", 60)]);
        let patience = |shares: &Shares, name: &str, left: u64| shares.share(name, secs(left), secs(10)).patience;
        assert_eq!(patience(&shares, "alone", 900), secs(900));
        assert_eq!(patience(&shares, "first", 900), secs(60));
        shares.0.get_mut("first").unwrap().waits = true;
        assert_eq!(patience(&shares, "first", 900), secs(840));
        assert_eq!(patience(&shares, "first", 60), secs(30));
    }

    #[test]
    fn no_figure_is_too_large_or_too_small() {
        let mut shares = shares(&[("alone", 0), ("first", 60), ("second", u64::MAX), ("third", u64::MAX)]);
        assert_eq!(shares.share("alone", secs(900), secs(10)).patience, secs(900));
        assert_eq!(shares.share("first", secs(900), secs(10)).limit, secs(10));
        shares.0.get_mut("second").unwrap().own = Duration::MAX;
        assert!(shares.share("second", secs(900), secs(10)).limit <= secs(900));
        assert_eq!(shares.share("nobody", secs(900), secs(10)).limit, Duration::ZERO);
    }
}
