//! A libvirt that is started or restarted while guests are to be stopped.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::verbs::Failure;
use crate::verbs::session::Session;

/// libvirt's daemons that the way down talks to: the monolithic one, and the modular ones for guests and for pools. virtstoraged
/// ends when it is idle, though pools are active, and its socket starts it again.
const DAEMONS: [&str; 3] = ["libvirtd.service", "virtqemud.service", "virtstoraged.service"];
/// How often it is looked whether one of them is held up.
const KEEPER_LOOKS: Duration = Duration::from_secs(2);

/// Sees to it, until it is dropped, that a daemon of libvirt's that is started or restarted just now comes up: this unit is ordered
/// after it, so systemd would wait with it for our stop, and our stop waits for the daemon.
pub(super) struct Keeper(Cancel);

impl Keeper {
    pub(super) fn begin(session: &Session) -> Result<Self, Failure> {
        let (stop, systemd) = (Cancel::new()?, Arc::clone(&session.systemd));
        let flag = stop.clone();
        thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            while !flag.wait(KEEPER_LOOKS) {
                for daemon in DAEMONS {
                    // No such daemon here, or a shutdown: nothing to keep.
                    let _ = systemd.start_past_order(daemon, &flag);
                }
            }
        })?;
        Ok(Self(stop))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.raise();
    }
}
