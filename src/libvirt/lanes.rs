//! The connections to one libvirt. Its daemon serves only a few calls of one client at a time (`max_client_requests` in
//! libvirtd.conf, 5 where nothing else is said), and those that come after them wait: many guests that start would start five by
//! five, and what is only read would wait behind them until its limit. So what does not fit into one connection goes by another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use virt::connect::Connect;
use virt::error::Error;

/// As many as keep all workers of the daemon busy (`max_workers`, 20).
const LANES: usize = 4;
/// How many calls go by one connection before the next is used: one fewer than the daemon serves.
const CALLS: usize = 4;

/// All connections; each is made when it is first needed, and again when its daemon has gone.
pub struct Lanes {
    uri: String,
    connections: [Mutex<Option<Arc<Connect>>>; LANES],
    /// How many calls go by each.
    calls: Mutex<[usize; LANES]>,
}

/// A call's place, until it is dropped.
pub struct Lane {
    lanes: Arc<Lanes>,
    number: usize,
}

impl Lanes {
    /// To the libvirt at `uri`.
    pub fn new(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            connections: Default::default(),
            calls: Mutex::default(),
        }
    }

    /// Which libvirt.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// A place for one more call.
    pub fn take(self: &Arc<Self>) -> Lane {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let number = choose(&calls);
        calls[number] += 1;
        Lane {
            lanes: Arc::clone(self),
            number,
        }
    }

    /// Forgets all connections, as if the daemon had gone.
    #[cfg(test)]
    pub fn disconnect(&self) {
        (0..LANES).for_each(|number| *self.lock(number) = None);
    }

    fn lock(&self, number: usize) -> MutexGuard<'_, Option<Arc<Connect>>> {
        // It holds a connection or none at every step.
        self.connections[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self, number: usize) {
        if let Some(connection) = self.lock(number).take() {
            // Closing asks the daemon, which may not answer. Where there is no thread for it, it stays open.
            let keep = std::mem::ManuallyDrop::new(connection);
            let _ = thread::Builder::new()
                .name("libvirt".to_owned())
                .spawn(move || drop(std::mem::ManuallyDrop::into_inner(keep)));
        }
    }
}

/// The first that has room; where none has, the one that has the least to do.
fn choose(calls: &[usize; LANES]) -> usize {
    let least = || (0..LANES).min_by_key(|number| calls[*number]).unwrap_or(0);
    calls.iter().position(|count| *count < CALLS).unwrap_or_else(least)
}

impl Lane {
    /// The connection that is there, or a new one. Not locked meanwhile, so that one that hangs holds up nobody else.
    pub fn connect(&self) -> Result<Arc<Connect>, Error> {
        if let Some(connection) = &*self.lanes.lock(self.number) {
            return Ok(Arc::clone(connection));
        }
        let new = Arc::new(Connect::open(Some(&self.lanes.uri))?);
        let mut place = self.lanes.lock(self.number);
        let kept = Arc::clone(place.get_or_insert_with(|| Arc::clone(&new)));
        // Unlocked before the one that came second is closed, as closing asks the daemon.
        drop(place);
        Ok(kept)
    }

    /// Gives up this connection. Closes it, so only for a thread of a call.
    pub fn forget(&self, broken: &Arc<Connect>) {
        let mut place = self.lanes.lock(self.number);
        let taken = place.take_if(|connection| Arc::ptr_eq(connection, broken));
        drop(place);
        drop(taken);
    }

    /// Gives up the connection without waiting until it is closed.
    pub fn retire(&self) {
        self.lanes.retire(self.number);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.lanes.calls.lock().unwrap_or_else(PoisonError::into_inner)[self.number] -= 1;
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        (0..LANES).for_each(|number| self.retire(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_calls_share_a_connection_and_many_do_not() {
        let lanes = Arc::new(Lanes::new("test:///default"));
        let few: Vec<Lane> = (0..CALLS).map(|_| lanes.take()).collect();
        assert!(few.iter().all(|lane| lane.number == 0));
        let mut many: Vec<Lane> = (CALLS..LANES * CALLS + 2).map(|_| lanes.take()).collect();
        let by = |number| many.iter().filter(|lane| lane.number == number).count();
        assert_eq!([by(0), by(1), by(2), by(3)], [1, CALLS + 1, CALLS, CALLS]);
        // Those that are through make room again.
        drop(few);
        many.clear();
        assert_eq!(lanes.take().number, 0);
        assert_eq!(*lanes.calls.lock().unwrap(), [0; LANES]);
    }
}
