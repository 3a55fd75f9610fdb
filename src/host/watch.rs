//! One look-out for all who wait for a device or a volume: it reads the volumes' facts when the kernel says that something
//! changed, and wakes those who wait.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Devices, resident};
use crate::cancel::{Cancel, Raised};
use crate::config::Config;
use crate::facts::VolumeFacts;
use crate::monitor::{Ended, Monitor};

/// How long it trusts the kernel's events before it looks again by itself, at first. While nothing happens this grows …
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// … so many times with each look …
const GROWTH: u32 = 4;
/// … up to this: a service that waits for a volume for weeks takes no time of the processors.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(300);

/// The pause after a defect, which may show again at once.
const AFTER_DEFECT: Duration = Duration::from_secs(1);
/// How long it lets a burst of events pass before it looks for the next, at least: never more than half of the time goes into
/// looking, however many volumes there are.
const BURST: Duration = Duration::from_millis(20);

/// The volumes' facts, kept fresh while it lives.
pub struct Watch {
    facts: Arc<Monitor<BTreeMap<String, VolumeFacts>>>,
    stop: Cancel,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When there is no thread or no file descriptor for it.
    pub fn begin(config: &Config, devices: Arc<dyn Devices>) -> std::io::Result<Self> {
        let stop = Cancel::new()?;
        let facts = Arc::new(Monitor::new(read(config, devices.as_ref())));
        let (config, writer, flag) = (config.clone(), Arc::clone(&facts), stop.clone());
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let mut trust = LOOK_AGAIN;
            while !flag.is_raised() {
                let began = Instant::now();
                let mut since = began;
                // A defect in there must not leave those who wait without a look-out.
                let looked = catch_unwind(AssertUnwindSafe(|| {
                    devices.wait_for_change(trust, &flag);
                    since = Instant::now();
                    read(&config, devices.as_ref())
                }));
                match looked {
                    Ok(now) if writer.look(|before| *before != now) => {
                        writer.update(|facts| *facts = now);
                        trust = LOOK_AGAIN;
                    }
                    Ok(_) => {
                        // It may take long: nothing is held meanwhile that can be had again.
                        if since.duration_since(began) >= trust {
                            resident::let_go();
                        }
                        trust = (trust * GROWTH).min(LOOK_AGAIN_AT_LAST);
                    }
                    Err(_) => {
                        flag.wait(AFTER_DEFECT);
                    }
                }
                // Events come in bursts: one look at the end of each, and never a busy loop.
                flag.wait(BURST.max(since.elapsed()));
            }
        })?;
        Ok(Self { facts, stop })
    }

    /// Waits until `ready` gives something for the facts of this volume.
    ///
    /// # Errors
    /// When `cancel` is raised or `limit` is over before that.
    pub fn wait<R>(
        &self,
        volume: &str,
        limit: Option<Duration>,
        cancel: &Cancel,
        mut ready: impl FnMut(&VolumeFacts) -> Option<R>,
    ) -> Result<R, Ended> {
        self.facts.wait(limit, cancel, |facts| facts.get(volume).and_then(&mut ready))
    }
}

impl Watch {
    /// Waits until `ready` gives something for the facts of all volumes.
    ///
    /// # Errors
    /// When `cancel` is raised before that.
    pub fn until<R>(
        &self,
        cancel: &Cancel,
        mut ready: impl FnMut(&BTreeMap<String, VolumeFacts>) -> Option<R>,
    ) -> Result<R, Ended> {
        self.facts.wait(None, cancel, |facts| ready(facts))
    }

    /// Does `work`, and raises `over` meanwhile, as soon as `ready` holds for the facts of this volume.
    pub fn meanwhile<R>(
        &self,
        volume: &str,
        ready: impl Fn(&VolumeFacts) -> bool + Send,
        over: &Cancel,
        work: impl FnOnce() -> R,
    ) -> R {
        let Ok(done) = over.child() else { return work() };
        thread::scope(|scope| {
            let done = &done;
            let _done = Raised(done);
            let look = move || {
                if self.wait(volume, None, done, |facts| ready(facts).then_some(())).is_ok() {
                    over.raise();
                }
            };
            // Without the thread nobody looks, and the work goes its way.
            let _ = thread::Builder::new().name("meanwhile".to_owned()).spawn_scoped(scope, look);
            work()
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

/// The facts of all configured volumes.
pub fn read(config: &Config, devices: &dyn Devices) -> BTreeMap<String, VolumeFacts> {
    devices.facts_of(&config.volumes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{DeviceSpec, Mount, Volume};
    use crate::facts::{Device, Mapping, MountState};
    use crate::host::User;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Its device is there at the third look; the second look meets a defect.
    struct Flaky(AtomicUsize);

    impl Devices for Flaky {
        fn has_node(&self, _: &Volume) -> bool {
            true
        }
        fn find(&self, _: &DeviceSpec) -> Option<Device> {
            let look = self.0.fetch_add(1, Ordering::SeqCst);
            assert!(look != 1, "a defect, wanted by the test");
            (look > 1).then(|| Device {
                path: "/dev/vg0/mail".into(),
                number: None,
            })
        }
        fn mapping(&self, _: &Volume, _: Option<&Device>) -> Mapping {
            Mapping::None
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
            0
        }
        fn wait_for_change(&self, _: Duration, _: &Cancel) {}
    }

    #[test]
    fn a_defect_while_looking_leaves_nobody_waiting() {
        let config = Config {
            volumes: vec![Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()))],
            ..Config::default()
        };
        let watch = Watch::begin(&config, Arc::new(Flaky(AtomicUsize::new(0)))).unwrap();
        let cancel = Cancel::new().unwrap();
        let limit = Some(Duration::from_secs(60));
        assert!(watch.wait("mail", limit, &cancel, |facts| facts.device.clone()).is_ok());
    }
}
