//! Hosts with as many volumes as guests.

use virt_unlock::config::Config;
use virt_unlock::facts::{
    DevNum, Device, DomainFacts, DomainState, Facts, LibvirtFacts, Mapping, MountState, PoolState, Source, VolumeFacts,
};

/// What the configuration is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each volume with its mount, its pool and its guest.
    Flat,
    /// The same, each volume and each guest after the one before it, and all mounts below the first one.
    Chain,
    /// The same chain, and the first volume's name belongs to something else.
    Blocked,
    /// Raw volumes, of which each guest has several; guests without tables.
    Raw,
}

impl Shape {
    pub const ALL: [Self; 4] = [Self::Flat, Self::Chain, Self::Blocked, Self::Raw];

    fn is_chain(self) -> bool {
        matches!(self, Self::Chain | Self::Blocked)
    }

    fn mount(self, place: usize) -> String {
        match place {
            0 => "/srv/v0".to_owned(),
            _ if self.is_chain() => format!("/srv/v0/v{place}"),
            _ => format!("/srv/v{place}"),
        }
    }
}

/// The configuration's text.
pub fn text(shape: Shape, size: usize) -> String {
    let mut text = String::new();
    for place in 0..size {
        text += &format!("[volume.v{place}]\ndevice = \"/dev/vg0/v{place}\"\n");
        if shape != Shape::Raw {
            text += &format!("mount = \"{}\"\npools = [\"p{place}\"]\n", shape.mount(place));
        }
        if shape.is_chain() && place > 0 {
            text += &format!("after = [\"v{}\"]\n", place - 1);
        }
        if shape != Shape::Raw {
            text += &format!("[domain.d{place}]\nstart = true\n");
            if shape.is_chain() && place > 0 {
                text += &format!("after = [\"d{}\"]\n", place - 1);
            }
        }
    }
    text
}

/// The host with all of it down.
pub fn facts(shape: Shape, config: &Config) -> Facts {
    let (mut facts, mut libvirt) = (Facts::default(), LibvirtFacts::default());
    let size = config.volumes.len();
    for (place, volume) in config.volumes.iter().enumerate() {
        let device = Device {
            path: format!("/dev/vg0/v{place}").into(),
            number: None,
        };
        let mapping = match (shape, place) {
            (Shape::Blocked, 0) => Mapping::Foreign("not this volume".to_owned()),
            _ => Mapping::None,
        };
        facts.volumes.insert(
            volume.name.clone(),
            VolumeFacts {
                device: Some(device),
                mapping,
                ..VolumeFacts::default()
            },
        );
        for pool in &volume.pools {
            libvirt.pools.insert(pool.clone(), PoolState::Inactive);
        }
        let paths = match shape {
            Shape::Raw => (0..3)
                .map(|disk| format!("/dev/mapper/v{}", (place + 7 * disk) % size))
                .collect(),
            _ => vec![format!("{}/disk.qcow2", shape.mount(place))],
        };
        let source = |path: String| Source {
            path: path.clone().into(),
            resolved: path.into(),
            number: None,
            pool: None,
        };
        libvirt.domains.push(DomainFacts {
            name: format!("d{place}"),
            uuid: format!("uuid-of-d{place}"),
            state: DomainState::ShutOff,
            autostart: true,
            sources: paths.into_iter().map(source).collect(),
            ..DomainFacts::default()
        });
    }
    facts.libvirt = Some(libvirt);
    facts
}

/// The same host with all of it up.
pub fn all_up(config: &Config, facts: &Facts) -> Facts {
    let mut facts = facts.clone();
    for (place, volume) in config.volumes.iter().enumerate() {
        let found = facts.volumes.get_mut(&volume.name).unwrap();
        found.mapping = Mapping::Open(DevNum {
            major: 253,
            minor: place as u64,
        });
        if volume.mount.is_some() {
            found.mount = MountState::Ours;
        }
    }
    let libvirt = facts.libvirt.as_mut().unwrap();
    libvirt
        .domains
        .iter_mut()
        .for_each(|domain| domain.state = DomainState::Running);
    libvirt.pools.values_mut().for_each(|state| *state = PoolState::Active);
    facts
}
