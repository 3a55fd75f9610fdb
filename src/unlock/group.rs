//! Volumes that share a passphrase: one of them asks, the others wait for what comes of it. Only a passphrase that opened one
//! of them is offered to the rest; one that opened nothing is offered to nobody.

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::monitor::{Ended, Monitor};
use crate::secret::Secret;

/// How long a passphrase is kept at most: as long as systemd keeps one in the kernel keyring
/// (`KEYRING_TIMEOUT_USEC`, systemd src/shared/ask-password-api.c).
const KEEP: Duration = Duration::from_secs(150);

struct State {
    to_open: usize,
    somebody_asks: bool,
    proven: Vec<(Secret, Instant)>,
    proofs: usize,
}

/// One passphrase group.
pub struct Group(Monitor<State>);

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
    /// A group of which `to_open` volumes are to be opened.
    pub fn new(to_open: usize) -> Self {
        Self(Monitor::new(State {
            to_open,
            somebody_asks: false,
            proven: Vec::new(),
            proofs: 0,
        }))
    }

    /// Waits until there is something to do. `seen` counts what this member was told to try already; `limit` is how long it
    /// waits (`None`: for ever).
    pub fn next(&self, seen: &mut usize, limit: Option<Duration>, cancel: &Cancel) -> Result<Next<'_>, Ended> {
        self.0.wait(limit, cancel, |state| {
            state.proven.retain(|(_, since)| since.elapsed() < KEEP);
            // The newest proofs stand at the end; those that were dropped for their age count as seen.
            let first = state.proofs - state.proven.len();
            *seen = (*seen).max(first);
            if let Some((secret, _)) = state.proven.get(*seen - first) {
                *seen += 1;
                return Some(Next::Try(secret.clone()));
            }
            (!state.somebody_asks).then(|| {
                state.somebody_asks = true;
                Next::Ask(Lead(self))
            })
        })
    }

    /// A passphrase opened a member: the others may try it.
    pub fn proven(&self, secret: Secret, seen: &mut usize) {
        self.0.update(|state| {
            state.proven.push((secret, Instant::now()));
            state.proofs += 1;
            *seen = state.proofs;
        });
    }

    /// How many other volumes the answer may open.
    pub fn others(&self) -> usize {
        self.0.look(|state| state.to_open.saturating_sub(1))
    }

    /// A member is through, opened or given up. After the last one nothing is kept.
    pub fn member_is_through(&self) {
        self.0.update(|state| {
            state.to_open = state.to_open.saturating_sub(1);
            if state.to_open == 0 {
                state.proven.clear();
            }
        });
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.0.update(|state| state.somebody_asks = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_and_the_others_try_only_what_was_proven() {
        let (group, cancel) = (Group::new(2), Cancel::new().unwrap());
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
    fn nothing_is_kept_once_the_last_member_is_through() {
        let (group, cancel) = (Group::new(1), Cancel::new().unwrap());
        let mut seen = 0;
        group.proven(Secret::copy_of(b"right"), &mut seen);
        group.member_is_through();
        assert!(group.0.look(|state| state.proven.is_empty()));
        assert!(matches!(group.next(&mut 0, None, &cancel), Ok(Next::Ask(_))));
    }
}
