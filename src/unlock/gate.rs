//! How many derivations run side by side: as many as the memory that is free now allows (less a reserve) and the cores can feed.
//! Argon2 takes up to 1 GiB for each keyslot; two at once have killed boots (systemd issue 13383), always one at a time is slow.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::host::{Devices, Header};
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

/// What opening with one key may take at the same time, in bytes: the costliest keyslot.
pub fn memory_of(header: &Header) -> u64 {
    header.keyslots.iter().map(|slot| slot.memory_kib * 1024).max().unwrap_or(0)
}

impl Gate {
    /// A gate that asks `devices` what memory is free.
    pub fn new(devices: Arc<dyn Devices>, pace: Pace) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            running: Monitor::new(Running::default()),
            devices,
            pace,
            cores,
        }
    }

    /// Waits until a derivation that takes `bytes` may run.
    pub fn enter(&self, bytes: u64, cancel: &Cancel) -> Result<Pass<'_>, Refused> {
        let needed = bytes + WORKER;
        let mut waited = Duration::ZERO;
        loop {
            let entered = self.running.wait(Some(self.pace.memory_look), cancel, |running| {
                // What was promised is counted whole, though part of it is taken already: rather one too few than one too many.
                let fits = self.devices.memory_available() >= needed + RESERVE + running.promised;
                let free_core = running.derivations < self.cores;
                // One alone whose memory is free may use the reserve: the volume cannot be opened otherwise.
                let alone = running.derivations == 0 && self.devices.memory_available() >= needed;
                ((fits && free_core) || alone).then(|| {
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
            if self.running.look(|running| running.derivations > 0) {
                waited = Duration::ZERO;
                continue;
            }
            waited += self.pace.memory_look;
            if waited >= self.pace.memory_limit {
                return Err(Refused::TooLittle {
                    needed,
                    free: self.devices.memory_available(),
                });
            }
        }
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
