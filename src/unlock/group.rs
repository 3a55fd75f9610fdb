//! Volumes that share a passphrase: one of them asks, the others wait for what comes of it. Only a passphrase that opened one
//! of them is offered to the rest; one that opened nothing is offered to nobody.

use std::sync::Arc;
use std::time::Duration;

use super::kept::Kept;
use crate::cancel::Cancel;
use crate::monitor::{Ended, Monitor};
use crate::secret::Secret;

struct State {
    to_open: usize,
    somebody_asks: bool,
    /// Passphrases that opened a member.
    proven: Vec<Kept>,
    proofs: usize,
}

impl State {
    fn forget_old(&mut self) {
        self.proven.retain(|proof| !proof.is_over());
    }
}

/// One passphrase group.
pub struct Group {
    state: Arc<Monitor<State>>,
    keep: Duration,
}

/// What a member of the group is to do next.
pub enum Next<'a> {
    /// Try this passphrase, which opened another member.
    Try(Secret),
    /// Ask; nobody else of the group does meanwhile.
    Ask(Lead<'a>),
}

/// The right to ask for the group, until it is dropped.
pub struct Lead<'a>(&'a Group);

impl Group {
    /// A group of which `to_open` volumes are to be opened, and which keeps a passphrase for `keep` at most.
    pub fn new(to_open: usize, keep: Duration) -> Self {
        let state = State {
            to_open,
            somebody_asks: false,
            proven: Vec::new(),
            proofs: 0,
        };
        Self {
            state: Arc::new(Monitor::new(state)),
            keep,
        }
    }

    /// Keeps the passphrases that come from now on for another time.
    pub fn keep_for(&mut self, keep: Duration) {
        self.keep = keep;
    }

    /// Waits until there is something to do. `seen` counts what this member was told to try already; `limit` is how long it
    /// waits (`None`: for ever).
    pub fn next(&self, seen: &mut usize, limit: Option<Duration>, cancel: &Cancel) -> Result<Next<'_>, Ended> {
        self.state.wait(limit, cancel, |state| {
            state.forget_old();
            // The newest proofs stand at the end; those that were dropped for their age count as seen.
            let first = state.proofs - state.proven.len();
            *seen = (*seen).max(first);
            if let Some(proof) = state.proven.get(*seen - first) {
                *seen += 1;
                return Some(Next::Try(proof.secret().clone()));
            }
            (!state.somebody_asks).then(|| {
                state.somebody_asks = true;
                Next::Ask(Lead(self))
            })
        })
    }

    /// A passphrase opened a member: the others may try it.
    pub fn proven(&self, secret: Secret, seen: &mut usize) {
        // What nobody would forget in time is not kept: the others are asked for theirs.
        let kept = Kept::begin(secret, self.keep, &self.state, State::forget_old);
        self.state.update(|state| {
            if let Some(kept) = kept {
                state.proofs += 1;
                state.proven.push(kept);
            }
            *seen = state.proofs;
        });
    }

    /// One more is to be opened.
    pub fn expect_another(&self) {
        self.state.update(|state| state.to_open += 1);
    }

    /// How many other volumes the answer may open.
    pub fn others(&self) -> usize {
        self.state.look(|state| state.to_open.saturating_sub(1))
    }

    /// A member is through, opened or given up. After the last one nothing is kept.
    pub fn member_is_through(&self) {
        self.state.update(|state| {
            state.to_open = state.to_open.saturating_sub(1);
            if state.to_open == 0 {
                state.proven.clear();
            }
        });
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.state.update(|state| state.somebody_asks = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(3600);

    #[test]
    fn one_asks_and_the_others_try_only_what_was_proven() {
        let (group, cancel) = (Group::new(2, KEEP), Cancel::new().unwrap());
        let (mut first, mut second) = (0, 0);
        let Next::Ask(lead) = group.next(&mut first, None, &cancel).unwrap() else {
            panic!("nothing to try yet")
        };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                group
                    .next(&mut second, None, &cancel)
                    .map(|next| matches!(next, Next::Try(_)))
            });
            group.proven(Secret::copy_of(b"right"), &mut first);
            drop(lead);
            assert_eq!(waiter.join().unwrap(), Ok(true));
        });
        // It did not fit the second volume: now that one asks for itself, and what it proves is not tried on it again.
        let Next::Ask(lead) = group.next(&mut second, None, &cancel).unwrap() else {
            panic!("tried twice")
        };
        group.proven(Secret::copy_of(b"other"), &mut second);
        drop(lead);
        assert!(matches!(group.next(&mut second, None, &cancel), Ok(Next::Ask(_))));
    }

    #[test]
    fn a_passphrase_is_forgotten_in_time_though_nobody_looks() {
        let (group, cancel) = (Group::new(2, Duration::from_millis(5)), Cancel::new().unwrap());
        group.proven(Secret::copy_of(b"right"), &mut 0);
        let forgotten = group.state.wait(Some(Duration::from_secs(60)), &cancel, |state| {
            state.proven.is_empty().then_some(())
        });
        assert_eq!(forgotten, Ok(()));
    }

    #[test]
    fn nothing_keeps_a_passphrase_longer_than_its_group() {
        let group = Group::new(1, KEEP);
        group.proven(Secret::copy_of(b"right"), &mut 0);
        let state = Arc::downgrade(&group.state);
        drop(group);
        assert!(state.upgrade().is_none(), "the passphrase outlives its group");
    }

    #[test]
    fn nothing_is_kept_once_the_last_member_is_through() {
        let (group, cancel) = (Group::new(1, KEEP), Cancel::new().unwrap());
        let mut seen = 0;
        group.proven(Secret::copy_of(b"right"), &mut seen);
        group.member_is_through();
        assert!(group.state.look(|state| state.proven.is_empty()));
        assert!(matches!(group.next(&mut 0, None, &cancel), Ok(Next::Ask(_))));
    }
}
