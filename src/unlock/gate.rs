//! How many derivations run side by side: as many as the memory that is free now allows (less a reserve) and the cores can feed.
//! Argon2 takes up to 1 GiB for each keyslot; two at once have killed boots (systemd issue 13383), always one at a time is slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::host::{Devices, Keyslot};
use crate::monitor::{Ended, Monitor};
use crate::pace::Pace;

/// Left free for everything else on the host, in bytes.
const RESERVE: u64 = 128 << 20;
/// What a worker takes besides the derivation, in bytes.
const WORKER: u64 = 16 << 20;

#[derive(Default)]
struct Running {
    derivations: usize,
    promised: u64,
    /// Those that wait, by rank, and what each takes, in bytes.
    waiting: BTreeMap<usize, u64>,
}

/// Lets derivations through.
pub struct Gate {
    running: Monitor<Running>,
    devices: Arc<dyn Devices>,
    pace: Pace,
    cores: usize,
}

/// A derivation that may run, until it is dropped.
pub struct Pass<'a> {
    gate: &'a Gate,
    bytes: u64,
}

/// What a derivation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Others, which run now or come first.
    Others,
    /// Memory that is not ours: even alone it does not fit; in bytes.
    Memory {
        /// What it takes.
        needed: u64,
        /// What is free.
        free: u64,
    },
}

/// Why a derivation may not run.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Cancelled.
    Cancelled,
    /// Even alone it does not fit; in bytes.
    TooLittle {
        /// What it takes.
        needed: u64,
        /// What is free.
        free: u64,
    },
}

/// What opening with any of these keyslots may take, in bytes: the costliest one.
pub fn memory_of<'a>(keyslots: impl IntoIterator<Item = &'a Keyslot>) -> u64 {
    keyslots.into_iter().map(|slot| slot.memory_kib * 1024).max().unwrap_or(0)
}

impl Running {
    /// Whether a derivation that takes `needed` could run beside those that do.
    fn has_room(&self, needed: u64, free: u64, cores: usize) -> bool {
        // What was promised is counted whole, though part of it is taken already: rather one too few than one too many.
        let fits = free >= needed + RESERVE + self.promised;
        // One alone whose memory is free may use the reserve: the volume cannot be opened otherwise.
        let alone = self.derivations == 0 && free >= needed;
        (fits && self.derivations < cores) || alone
    }

    /// Whether it fits as soon as those that run are through.
    fn fits_later(&self, needed: u64, free: u64) -> bool {
        free + self.promised >= needed
    }

    /// Whether it is the turn of this one. Nobody passes one that comes before and has room. One that comes before and waits for
    /// memory that others of ours have is passed only by those that take none, or it could wait for all the rest; one that
    /// does not fit even then keeps nobody.
    fn may_enter(&self, rank: usize, needed: u64, free: u64, cores: usize) -> bool {
        let takes_memory = needed > WORKER;
        let mut before = self.waiting.range(..rank).map(|(_, needed)| *needed);
        let comes_first =
            |other: u64| self.has_room(other, free, cores) || (takes_memory && other > WORKER && self.fits_later(other, free));
        self.has_room(needed, free, cores) && !before.any(comes_first)
    }
}

impl Gate {
    /// A gate that asks `devices` what memory is free.
    pub fn new(devices: Arc<dyn Devices>, pace: &Pace) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            running: Monitor::new(Running::default()),
            devices,
            pace: *pace,
            cores,
        }
    }

    /// Waits until a derivation that takes `bytes` may run. Of those that wait, `rank` tells which comes first; each has a rank of
    /// its own. `say` hears what it waits for.
    pub fn enter(&self, rank: usize, bytes: u64, cancel: &Cancel, say: impl Fn(Held)) -> Result<Pass<'_>, Refused> {
        let needed = bytes + WORKER;
        let _waits = Waits::begin(self, rank, needed);
        let (mut limit, mut said) = (Duration::ZERO, None);
        let mut waited = Duration::ZERO;
        loop {
            let entered = self.running.wait(Some(limit), cancel, |running| {
                let free = self.devices.memory_available();
                running.may_enter(rank, needed, free, self.cores).then(|| {
                    running.derivations += 1;
                    running.promised += needed;
                })
            });
            match entered {
                Ok(()) => {
                    return Ok(Pass {
                        gate: self,
                        bytes: needed,
                    });
                }
                Err(Ended::Cancelled) => return Err(Refused::Cancelled),
                Err(Ended::TimedOut) => {}
            }
            let free = self.devices.memory_available();
            let held = if self.running.look(|running| running.derivations > 0) || free >= needed {
                waited = Duration::ZERO;
                Held::Others
            } else {
                waited += limit;
                Held::Memory { needed, free }
            };
            if said.map(|said| std::mem::discriminant(&said)) != Some(std::mem::discriminant(&held)) {
                say(held);
                said = Some(held);
            }
            if waited >= self.pace.memory_limit {
                return Err(Refused::TooLittle { needed, free });
            }
            limit = self.pace.memory_look;
        }
    }
}

/// One that waits, until it is dropped.
struct Waits<'a> {
    gate: &'a Gate,
    rank: usize,
}

impl<'a> Waits<'a> {
    fn begin(gate: &'a Gate, rank: usize, needed: u64) -> Self {
        gate.running.update(|running| running.waiting.insert(rank, needed));
        Self { gate, rank }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        // Those after it look again: what it did not take may be theirs.
        self.gate.running.update(|running| running.waiting.remove(&self.rank));
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.running.update(|running| {
            running.derivations -= 1;
            running.promised -= self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, Mount, Volume};
    use crate::facts::{Device, Mapping, MountState};
    use crate::host::User;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    const MIB: u64 = 1 << 20;
    const LONG: Duration = Duration::from_secs(3600);

    /// A host of which only the memory is looked at.
    struct Memory(AtomicU64);

    impl Devices for Memory {
        fn find(&self, _: &DeviceSpec) -> Option<Device> {
            None
        }
        fn mapping(&self, _: &Volume, _: Option<&Device>) -> Mapping {
            Mapping::None
        }
        fn has_node(&self, _: &Volume) -> bool {
            false
        }
        fn mount_state(&self, _: &Mount, _: &Mapping) -> MountState {
            MountState::None
        }
        fn entries_below(&self, _: &Path) -> usize {
            0
        }
        fn users(&self, _: &Volume) -> Vec<User> {
            Vec::new()
        }
        fn running_guests(&self, _: &BTreeSet<String>) -> BTreeSet<String> {
            BTreeSet::new()
        }
        fn clear_disk(&self, _: &Path) -> Option<String> {
            None
        }
        fn memory_available(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
        fn wait_for_change(&self, _: Duration, _: &Cancel) {}
    }

    /// A gate that looks by itself only after an hour.
    fn gate(free: u64, cores: usize) -> Gate {
        let pace = Pace {
            memory_look: LONG,
            memory_limit: LONG,
            ..Pace::default()
        };
        let mut gate = Gate::new(Arc::new(Memory(AtomicU64::new(free))), &pace);
        gate.cores = cores;
        gate
    }

    fn await_waiting(gate: &Gate, count: usize, cancel: &Cancel) {
        let all = |running: &mut Running| (running.waiting.len() == count).then_some(());
        gate.running.wait(Some(Duration::from_secs(60)), cancel, all).unwrap();
    }

    #[test]
    fn those_that_wait_enter_in_order_whoever_came_first() {
        let (gate, cancel, entered) = (gate(1200 * MIB, 4), Cancel::new().unwrap(), Mutex::new(Vec::new()));
        let first = gate.enter(9, 1024 * MIB, &cancel, |_| ()).unwrap();
        thread::scope(|scope| {
            for rank in [5, 3, 7] {
                let (gate, cancel, entered) = (&gate, &cancel, &entered);
                scope.spawn(move || {
                    let _pass = gate.enter(rank, 1024 * MIB, cancel, |_| ()).unwrap();
                    entered.lock().unwrap().push(rank);
                });
            }
            await_waiting(&gate, 3, &cancel);
            drop(first);
        });
        assert_eq!(*entered.lock().unwrap(), [3, 5, 7]);
    }

    #[test]
    fn who_enters_lets_the_next_look_for_which_there_is_room_too() {
        let (gate, cancel) = (gate(4096 * MIB, 2), Cancel::new().unwrap());
        gate.running.update(|running| running.derivations = 2);
        thread::scope(|scope| {
            for rank in [3, 4] {
                let (gate, cancel) = (&gate, &cancel);
                // Each keeps its core until the other has one too.
                scope.spawn(move || {
                    let _pass = gate.enter(rank, 1024 * MIB, cancel, |_| ()).unwrap();
                    await_waiting(gate, 0, cancel);
                });
            }
            await_waiting(&gate, 2, &cancel);
            // Both are through at one moment: whichever of the two looks first, there is no other change that wakes the second.
            gate.running.update(|running| running.derivations = 0);
        });
    }

    #[test]
    fn one_that_fits_later_is_passed_only_by_what_takes_no_memory_and_one_that_does_not_fit_keeps_nobody() {
        let (large, small) = (1024 * MIB + WORKER, 64 * MIB + WORKER);
        let mut running = Running {
            derivations: 1,
            promised: large,
            waiting: BTreeMap::from([(1, large)]),
        };
        // Room for a small one and not for a second large one, beside the one that runs.
        let free = 1400 * MIB;
        assert!(running.has_room(small, free, 4) && !running.has_room(large, free, 4));
        assert!(!running.may_enter(2, small, free, 4), "the first could wait for all the rest");
        assert!(running.may_enter(2, WORKER, free, 4), "it takes none");
        assert!(!running.may_enter(2, WORKER, free, 1), "it takes none, and yet a core");
        running.waiting = BTreeMap::from([(1, 8 * large)]);
        assert!(running.may_enter(2, small, free, 4), "the first would never fit");
    }

    #[test]
    fn what_does_not_fit_is_said_at_once_and_given_up_in_the_end() {
        let mut gate = gate(512 * MIB, 4);
        (gate.pace.memory_look, gate.pace.memory_limit) = (Duration::from_millis(1), Duration::from_millis(3));
        let (cancel, said) = (Cancel::new().unwrap(), Mutex::new(Vec::new()));
        let refused = gate
            .enter(1, 1024 * MIB, &cancel, |held| said.lock().unwrap().push(held))
            .err();
        let (needed, free) = (1040 * MIB, 512 * MIB);
        assert_eq!(refused, Some(Refused::TooLittle { needed, free }));
        assert_eq!(*said.lock().unwrap(), [Held::Memory { needed, free }]);
    }
}
