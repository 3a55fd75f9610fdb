//! One look-out for all who wait for a device or a volume: it reads the volumes' facts when the kernel says that something
//! changed, and wakes those who wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Devices;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::facts::VolumeFacts;
use crate::monitor::{Ended, Monitor};

/// How long it trusts the kernel's events before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

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
            while !flag.is_raised() {
                devices.wait_for_change(LOOK_AGAIN, &flag);
                let now = read(&config, devices.as_ref());
                if writer.look(|before| *before != now) {
                    writer.update(|facts| *facts = now);
                }
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

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

/// The facts of all configured volumes.
pub fn read(config: &Config, devices: &dyn Devices) -> BTreeMap<String, VolumeFacts> {
    config
        .volumes
        .iter()
        .map(|volume| (volume.name.clone(), devices.volume_facts(volume)))
        .collect()
}
