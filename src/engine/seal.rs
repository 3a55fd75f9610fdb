//! The end of an emergency: what could not be closed loses its key.

use crate::cancel::Cancel;
use crate::config::Config;
use crate::event::{Events, Happened};
use crate::facts::Mapping;
use crate::graph::Layer;
use crate::host::Host;

use super::Summary;

/// Takes the keys of those volumes out of the kernel that stayed open on the way down, in its order: what lies on another one first.
pub fn seal(config: &Config, host: &Host, summary: &Summary, events: &Events, cancel: &Cancel) {
    for (layer, outcome) in &summary.ended {
        let Layer::Volume(name) = layer else { continue };
        let Some(volume) = config.volume(name).filter(|_| outcome.is_bad()) else {
            continue;
        };
        if !matches!(host.devices.volume_facts(volume).mapping, Mapping::Open(_)) {
            continue;
        }
        let words = match host.volumes.suspend(volume, cancel) {
            Ok(()) => format!(
                "is not closed, but its key is gone from the kernel: what uses it hangs; `cryptsetup luksResume {name}` asks for \
                 its passphrase and lets it go on"
            ),
            Err(error) => format!("IS NOT CLOSED, AND ITS KEY IS STILL IN THE KERNEL: {error}"),
        };
        events.say(Some(layer), Happened::Warning(words));
    }
}
