//! What libvirt asks before a guest starts, whoever starts it: the definition comes on standard input. Nothing here calls libvirt,
//! which waits for the answer, and nothing waits.

use std::io::Read;
use std::path::PathBuf;

use super::service::kept_configuration;
use super::{App, Verdict};
use crate::config::{self, Config, Volume};
use crate::facts::{DomainFacts, Mapping, MountState, VolumeFacts};
use crate::graph::Placement;
use crate::host::Devices;
use crate::host::devices::Kernel;
use crate::host::domain_xml::{DomainXml, Place};
use crate::host::{sources, watch};
use crate::report::{complain, plain};

/// More than libvirt itself writes.
const LONGEST: u64 = 64 << 20;

/// Says no only where it is sure: a configuration or a definition that cannot be read keeps no guest from starting.
pub(super) fn hook(app: &App) -> Verdict {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    let Some(definition) = read.ok().and_then(|_| DomainXml::parse(&text).ok()) else {
        return Verdict::AsAsked;
    };
    let loaded = config::load(app.config.as_deref()).ok().map(|loaded| loaded.config);
    let Some(config) = loaded.or_else(kept_configuration) else {
        return Verdict::AsAsked;
    };
    let fault = of(&config, definition, &Kernel::new());
    if let Some(words) = &fault {
        complain(&plain(words));
    }
    fault.is_none().into()
}

/// Why the guest must not start, if it must not.
fn of(config: &Config, definition: DomainXml, devices: &dyn Devices) -> Option<String> {
    let mut guest = DomainFacts {
        name: definition.name,
        uuid: definition.uuid,
        ..DomainFacts::default()
    };
    for disk in definition.disks {
        // A pool's name alone tells the volume that it lies on.
        let (path, pool) = match disk.place {
            Place::Path(path) => (path, None),
            Place::Volume { pool, .. } => (PathBuf::new(), Some(pool)),
        };
        sources::add(&mut guest.sources, path, pool, disk.format.as_deref(), !disk.backing_declared);
    }
    let facts = watch::read(config, devices);
    let placement = Placement::new(config, &facts);
    let mut volumes = placement
        .volumes_of(&guest)
        .into_iter()
        .filter_map(|name| config.volume(name));
    let fault = volumes.find_map(|volume| fault(volume, facts.get(&volume.name)?))?;
    Some(format!(
        "virt-unlock: guest {0} is not started, for {fault}; `virt-unlock up {0}` sees to that and starts it",
        guest.name
    ))
}

/// What is known to be missing of a volume. What is foreign may be somebody's own way to the same data.
fn fault(volume: &Volume, facts: &VolumeFacts) -> Option<String> {
    let name = &volume.name;
    match (&volume.mount, &facts.mapping, &facts.mount) {
        (None, Mapping::None, _) => Some(format!("volume {name}, which it lies on, is locked")),
        (Some(_), Mapping::None, MountState::None) => Some(format!("volume {name}, which it lies on, is locked and not mounted")),
        (Some(mount), _, MountState::None) => Some(format!(
            "volume {name}, which it lies on, is not mounted at {}",
            mount.at.display()
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, Mount};
    use crate::facts::DevNum;

    #[test]
    fn only_what_is_sure_to_be_missing_is_a_fault() {
        let raw = Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()));
        let mut files = Volume::new("vm", DeviceSpec::Path("/dev/vg0/vm".into()));
        files.mount = Some(Mount {
            at: "/srv/vm".into(),
            fstype: None,
            options: None,
        });
        let open = || Mapping::Open(DevNum { major: 253, minor: 0 });
        let foreign = || Mapping::Foreign("other".to_owned());
        let judge = |volume: &Volume, mapping, mount| {
            let facts = VolumeFacts {
                mapping,
                mount,
                ..VolumeFacts::default()
            };
            fault(volume, &facts).unwrap_or_default()
        };
        assert!(judge(&raw, Mapping::None, MountState::None).ends_with("is locked"));
        assert!(judge(&files, Mapping::None, MountState::None).ends_with("is locked and not mounted"));
        for mapping in [open(), foreign()] {
            assert_eq!(judge(&raw, mapping.clone(), MountState::None), "");
            assert!(judge(&files, mapping, MountState::None).ends_with("is not mounted at /srv/vm"));
        }
        for mapping in [Mapping::None, open()] {
            assert_eq!(judge(&files, mapping, MountState::Foreign("other".to_owned())), "");
        }
        assert_eq!(judge(&files, open(), MountState::Ours), "");
    }
}
