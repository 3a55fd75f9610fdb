//! Whose question is open: one at a time on the whole host, and of those that wait the first in dependency order.

use std::collections::BTreeSet;

use crate::cancel::Cancel;
use crate::monitor::{Ended, Monitor};

#[derive(Default)]
struct Queue {
    taken: bool,
    waiting: BTreeSet<usize>,
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

    /// Waits for the turn. `rank` is the volume's place in the plan; each waits once.
    pub fn take(&self, rank: usize, cancel: &Cancel) -> Result<Taken<'_>, Ended> {
        self.0.update(|queue| queue.waiting.insert(rank));
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
    use std::time::Duration;

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
    fn who_is_cancelled_leaves_the_queue() {
        let (turn, cancel) = (Turn::new(), Cancel::new().unwrap());
        let cancelled = Cancel::new().unwrap();
        cancelled.raise();
        assert!(turn.take(1, &cancelled).is_err());
        assert!(turn.take(2, &cancel).is_ok());
    }
}
