//! Whose question is open: one at a time on the whole host, and of those that wait the first in dependency order.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::monitor::{Ended, Monitor};

#[derive(Default)]
struct Queue {
    taken: bool,
    waiting: BTreeSet<usize>,
    /// Those that may wait for the turn in a moment.
    coming: BTreeSet<usize>,
}

/// The turn to ask.
pub struct Turn(Monitor<Queue>);

/// The right to have a question open, until it is dropped.
pub struct Taken<'a>(&'a Turn);

impl Turn {
    /// Nobody has it.
    pub fn new() -> Self {
        Self(Monitor::new(Queue::default()))
    }

    /// This one may ask in a moment: until it waits for the turn, or [`Turn::not_now`], those after it let it go first.
    pub fn announce(&self, rank: usize) {
        self.0.update(|queue| queue.coming.insert(rank));
    }

    /// It does not ask in a moment after all: it waits for something else first.
    pub fn not_now(&self, rank: usize) {
        if self.0.look(|queue| queue.coming.contains(&rank)) {
            self.0.update(|queue| queue.coming.remove(&rank));
        }
    }

    /// Waits until nobody before this one may ask in a moment, but not longer than `patience`.
    ///
    /// # Errors
    /// When `cancel` is raised.
    pub fn in_order(&self, rank: usize, patience: Duration, cancel: &Cancel) -> Result<(), Ended> {
        let alone = self.0.wait(Some(patience), cancel, |queue| {
            queue.coming.range(..rank).next().is_none().then_some(())
        });
        if alone == Err(Ended::Cancelled) { alone } else { Ok(()) }
    }

    /// Whether somebody has it now.
    pub fn is_taken(&self) -> bool {
        self.0.look(|queue| queue.taken)
    }

    /// Waits for the turn. `rank` is the volume's place in the plan; each waits once.
    pub fn take(&self, rank: usize, cancel: &Cancel) -> Result<Taken<'_>, Ended> {
        self.0.update(|queue| {
            queue.coming.remove(&rank);
            queue.waiting.insert(rank)
        });
        let taken = self.0.wait(None, cancel, |queue| {
            let mine = !queue.taken && queue.waiting.first() == Some(&rank);
            mine.then(|| {
                queue.taken = true;
                queue.waiting.remove(&rank);
            })
        });
        match taken {
            Ok(()) => Ok(Taken(self)),
            Err(ended) => {
                self.0.update(|queue| queue.waiting.remove(&rank));
                Err(ended)
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.0.update(|queue| queue.taken = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn the_first_in_order_is_next_whoever_came_first() {
        let (turn, cancel, asked) = (Turn::new(), Cancel::new().unwrap(), Mutex::new(Vec::new()));
        let first = turn.take(9, &cancel).unwrap();
        std::thread::scope(|scope| {
            for rank in [5, 3, 7] {
                let (turn, cancel, asked) = (&turn, &cancel, &asked);
                scope.spawn(move || {
                    let _taken = turn.take(rank, cancel).unwrap();
                    asked.lock().unwrap().push(rank);
                });
            }
            turn.0
                .wait(Some(Duration::from_secs(60)), &cancel, |queue| {
                    (queue.waiting.len() == 3).then_some(())
                })
                .unwrap();
            drop(first);
        });
        assert_eq!(*asked.lock().unwrap(), [3, 5, 7]);
    }

    #[test]
    fn who_is_announced_goes_first_but_keeps_nobody_for_ever() {
        let (turn, cancel) = (Turn::new(), Cancel::new().unwrap());
        let patience = Duration::from_secs(60);
        turn.announce(1);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turn.in_order(2, patience, &cancel).map(|()| turn.0.look(|queue| queue.taken)));
            let first = turn.take(1, &cancel).unwrap();
            assert_eq!(second.join().unwrap(), Ok(true));
            drop(first);
        });
        turn.announce(1);
        assert_eq!(turn.in_order(2, Duration::ZERO, &cancel), Ok(()));
        turn.not_now(1);
        assert_eq!(turn.in_order(2, patience, &cancel), Ok(()));
    }

    #[test]
    fn who_is_cancelled_leaves_the_queue() {
        let (turn, cancel) = (Turn::new(), Cancel::new().unwrap());
        let cancelled = Cancel::new().unwrap();
        cancelled.raise();
        assert!(turn.take(1, &cancelled).is_err());
        assert!(turn.take(2, &cancel).is_ok());
    }
}
