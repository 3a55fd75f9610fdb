//! The way down of a domain whose memory is saved instead of its guest being asked to shut down.

use std::time::Duration;

use crate::cancel::Cancel;
use crate::config::Config;
use crate::event::Progress;
use crate::host::{Host, Hypervisor, HypervisorError};
use crate::text;

/// Saves it where that leaves nothing in the clear: a guest's memory holds all that its encrypted disks were to keep.
pub(super) fn save(
    config: &Config,
    host: &Host,
    hypervisor: &dyn Hypervisor,
    uuid: &str,
    limit: Duration,
    progress: Progress<'_>,
    cancel: &Cancel,
) -> Result<(), HypervisorError> {
    if let Some(words) = clear_disk(config, host) {
        return Err(HypervisorError::Refused(words));
    }
    progress.waiting(format!("its memory is saved; it may take {}", text::duration(limit)));
    hypervisor.save(uuid, limit, cancel)
}

/// Why a guest's memory may not be saved, in words. `None`: the folder that libvirt saves it to is encrypted.
pub fn clear_disk(config: &Config, host: &Host) -> Option<String> {
    match config.host.save_folder() {
        Some(folder) => host.devices.clear_disk(folder),
        None => Some(format!(
            "where libvirt-uri {:?} saves it is not known",
            config.host.libvirt_uri
        )),
    }
}
