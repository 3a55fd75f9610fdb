//! The way by key file: where it is now, and how long it is waited for.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Instant;

use super::Unlocker;
use super::ask::Asked;
use super::volume::OnTheWay;
use crate::config::{DeviceSpec, KeyFile};
use crate::event::{Outcome, Phase};
use crate::host::{Devices, Key};
use crate::text;

/// The key in a file, with where the file's device is now; `None`: it is not there.
pub fn find(devices: &dyn Devices, file: &KeyFile) -> Option<Key> {
    let device: Option<PathBuf> = match &file.device {
        Some(device) => Some(devices.find_filesystem(device)?.path),
        None => None,
    };
    Some(Key::File {
        file: file.clone(),
        device,
    })
}

impl Unlocker {
    pub(super) fn by_key_file(&self, way: &OnTheWay<'_>, file: &KeyFile) -> Asked {
        let what = file.to_string();
        if !self.is_there(file) && !file.timeout.is_zero() && self.await_key_file(way, file) {
            return Asked::Through(Outcome::Cancelled.into());
        }
        if let Some(key) = find(self.host.devices.as_ref(), file) {
            return self.try_key(way, &key, &what);
        }
        let waited = text::duration(file.timeout);
        let words = format!("{what}: the device is not there, after waiting {waited} for it");
        way.progress.warning(words.clone());
        Asked::GivenUp(words)
    }

    fn is_there(&self, file: &KeyFile) -> bool {
        let devices = &self.host.devices;
        match &file.device {
            Some(device) => devices.find_filesystem(device).is_some(),
            None => devices.find(&DeviceSpec::Path(file.path.clone())).is_some(),
        }
    }

    /// Waits until it is there or its time is over. Others ask meanwhile. Whether it was cancelled.
    fn await_key_file(&self, way: &OnTheWay<'_>, file: &KeyFile) -> bool {
        self.turn.not_now(way.rank);
        let what = match &file.device {
            Some(device) => format!("the device {device} of its key file"),
            None => format!("its {file}"),
        };
        // Whoever needs the same one later does not wait for it as long again.
        let since = {
            let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
            *awaited.entry(what.clone()).or_insert_with(Instant::now)
        };
        if since.elapsed() >= file.timeout {
            return false;
        }
        let limit = text::duration(file.timeout);
        way.progress
            .waiting(format!("{what} is not there; waiting up to {limit} for it"));
        way.progress.during(Phase::Device, || {
            while since.elapsed() < file.timeout && !self.is_there(file) {
                let left = file.timeout.saturating_sub(since.elapsed());
                if way.asking.wait(left.min(self.pace.look_again)) {
                    return true;
                }
            }
            false
        })
    }
}
