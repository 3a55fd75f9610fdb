//! A master that is asked for before the devices of its volumes are there.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Unlocker;
use super::master::{Next, Shared, State};
use super::volume::{OnTheWay, Target};
use crate::cancel::{Cancel, Raised};
use crate::config::{Unlock, Volume};
use crate::event::Progress;
use crate::facts::VolumeFacts;
use crate::host::watch::Watch;
use crate::monitor::Ended;

impl Shared {
    /// Does `work`, and raises `over` when `limit` is over and no volume waits for the master any more.
    fn while_needed<R>(&self, limit: Duration, over: &Cancel, work: impl FnOnce() -> R) -> R {
        let Ok(done) = over.child() else { return work() };
        thread::scope(|scope| {
            let look = || {
                let ended = self.state.wait(Some(limit), &done, |_| None::<()>);
                let is_idle = |state: &mut State| state.waiting.is_empty().then_some(());
                if ended == Err(Ended::TimedOut) && self.state.wait(None, &done, is_idle).is_ok() {
                    over.raise();
                }
            };
            // Without the thread nobody looks, and the work goes its way.
            let _ = thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, look);
            let _done = Raised(&done);
            work()
        })
    }
}

impl Unlocker {
    /// A volume whose device is not there yet needs nothing of it to open its master, where that is its first way: the question need
    /// not wait for slow disks, nor then the derivation. What goes wrong here is found again, and said, when the device is there.
    /// True: somebody may have been asked. It takes no longer than the device may, but for other volumes that wait for the master.
    pub(super) fn open_master_ahead(
        &self,
        volume: &Volume,
        rank: usize,
        watch: &Watch,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> bool {
        let Some(Unlock::Master { name }) = volume.unlock.first() else {
            return false;
        };
        let (Some(shared), Ok(asking)) = (self.masters.get(name), cancel.child()) else {
            return false;
        };
        watch.meanwhile(&volume.name, VolumeFacts::is_open, &asking, || {
            shared.while_needed(volume.device_timeout, &asking, || {
                let read = || self.host.volumes.probe_master(&shared.master, cancel);
                let Ok(header) = shared.header(&asking, read) else {
                    // Its filesystem may be mounted by the time that the device is there.
                    shared.state.update(|state| state.header.take_if(|header| header.is_err()));
                    return false;
                };
                if self.asks(&shared.master.unlock) && self.turn.in_order(rank, self.pace.order_patience, &asking).is_err() {
                    return false;
                }
                let Ok(Next::Open(lead)) = shared.next(Some(Duration::ZERO), &asking) else {
                    return false;
                };
                let way = OnTheWay {
                    target: Target::Volume {
                        volume,
                        device: Path::new(""),
                    },
                    header: &header,
                    rank,
                    progress,
                    cancel,
                    asking: &asking,
                };
                let _ = self.open_master(&way, volume, &header, &lead);
                true
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, Master};
    use crate::unlock::master::Stay;

    #[test]
    fn who_asks_ahead_goes_on_for_as_long_as_others_wait() {
        let master = Master::new("office", "/office.luks".into());
        let shared = Shared::new(&master, vec!["mail".to_owned(), "web".to_owned()], Duration::ZERO);
        let over = Cancel::new().unwrap();
        let volume = Volume::new("web", DeviceSpec::Path("/dev/web".into()));
        let stay = Stay::begin(&shared, &volume, 1);
        shared.while_needed(Duration::from_millis(1), &over, || {
            assert!(!over.wait(Duration::from_millis(50)), "web waits");
            drop(stay);
            assert!(over.wait(Duration::from_secs(60)), "nobody does");
        });
    }
}
