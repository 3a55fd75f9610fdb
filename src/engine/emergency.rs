//! The way down of an emergency: it ends in time, and what could not be closed loses its key.

use std::io;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::config::Config;
use crate::event::{Events, Happened};
use crate::facts::Mapping;
use crate::graph::Layer;
use crate::host::Host;
use crate::plan::Plan;

use super::down::Down;
use super::{Summary, walk};

/// Walks this way down for `limit` at most, as a step may hang beyond its own limits, in libvirt or on a disk. The keys of what it holds
/// are taken all the same.
///
/// # Errors
/// When the process has no file descriptor or no thread left.
pub fn down_at_once(plan: &Plan, hands: &Down<'_>, limit: Duration, events: &Events, cancel: &Cancel) -> io::Result<Summary> {
    let summary = cancel.within(limit, |limited| walk(plan, hands, events, limited))?;
    seal(hands.config, hands.host, &summary, events, cancel);
    Ok(summary)
}

/// Takes the keys of those volumes out of the kernel that stayed open on the way down, in its order: what lies on another one first.
fn seal(config: &Config, host: &Host, summary: &Summary, events: &Events, cancel: &Cancel) {
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
