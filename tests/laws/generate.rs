//! Configurations and facts, drawn by a generator, and what their words alone say about who needs whom.

use std::collections::BTreeSet;

use proptest::prelude::*;
use virt_unlock::config::{Config, DeviceSpec, DomainConfig, Mount, Ready, SecretConfig, Start, Volume};
use virt_unlock::facts::{
    DevNum, Device, DomainFacts, DomainState, Facts, LibvirtFacts, Mapping, MountState, PoolState, SecretFacts, SecretId,
    SecretUse, Source, VolumeFacts,
};
use virt_unlock::graph::{self, Graph, Layer};
use virt_unlock::plan::{self, Action, Names, Plan, Step};

/// A configuration and what the machine says, as a generator draws them.
#[derive(Clone, Debug)]
pub struct Case {
    pub config: Config,
    pub facts: Facts,
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
pub struct VolumeDraw {
    pub mounted: bool,
    pub pool: bool,
    pub after: Vec<prop::sample::Index>,
    pub mapping: u8,
    pub there: bool,
    pub noauto: bool,
}

#[derive(Clone, Debug)]
pub struct DomainDraw {
    pub secret: Option<u8>,
    pub on: Vec<prop::sample::Index>,
    pub after: Vec<prop::sample::Index>,
    pub start: u8,
    pub autostart: bool,
    pub runs: bool,
}

pub fn volume_draw() -> impl Strategy<Value = VolumeDraw> {
    let after = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (any::<bool>(), any::<bool>(), after, 0..4u8, any::<bool>()).prop_map(|(mounted, pool, after, mapping, there)| VolumeDraw {
        mounted,
        pool,
        after,
        mapping,
        there,
        noauto: false,
    })
}

pub fn domain_draw() -> impl Strategy<Value = DomainDraw> {
    let on = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let after = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let secret = prop::option::weighted(0.4, 0..3u8);
    let drawn = (on, after, 0..4u8, any::<bool>(), any::<bool>(), secret);
    drawn.prop_map(|(on, after, start, autostart, runs, secret)| DomainDraw {
        secret,
        on,
        after,
        start,
        autostart,
        runs,
    })
}

/// The same with some volumes `noauto`, and with those that are after one of them.
pub fn case_with_noauto(most: usize) -> impl Strategy<Value = Case> {
    let volumes = prop::collection::vec((volume_draw(), any::<bool>()), 1..most);
    let domains = prop::collection::vec(domain_draw(), 0..most);
    (volumes, domains).prop_map(|(volumes, domains)| {
        let mut draws: Vec<VolumeDraw> = Vec::new();
        for (place, (draw, noauto)) in volumes.into_iter().enumerate() {
            let noauto = noauto || earlier(&draw.after, place).into_iter().any(|other| draws[other].noauto);
            draws.push(VolumeDraw { noauto, ..draw });
        }
        build(&draws, &domains)
    })
}

/// Up to `most` volumes and domains without a circle: each is after earlier ones only, in an order that the configuration
/// does not show.
pub fn case(most: usize) -> impl Strategy<Value = Case> {
    let volumes = prop::collection::vec(volume_draw(), 1..most);
    let domains = prop::collection::vec(domain_draw(), 0..most);
    (volumes, domains).prop_flat_map(|(volumes, domains)| {
        let case = build(&volumes, &domains);
        (Just(case.config.volumes.clone()).prop_shuffle(), Just(case)).prop_map(|(volumes, mut case)| {
            case.config.volumes = volumes;
            case
        })
    })
}

fn secret_use(secret: u8) -> SecretUse {
    SecretUse {
        id: SecretId::of(&format!("s{secret}")),
        image: None,
        format: None,
    }
}

pub fn build(volumes: &[VolumeDraw], domains: &[DomainDraw]) -> Case {
    let (mut config, mut facts) = (Config::default(), Facts::default());
    let mut libvirt = LibvirtFacts::default();
    for (place, draw) in volumes.iter().enumerate() {
        let name = format!("v{place}");
        let mut volume = Volume::new(&name, DeviceSpec::Path(format!("/dev/vg0/{name}").into()));
        volume.after = earlier(&draw.after, place)
            .into_iter()
            .map(|other| format!("v{other}"))
            .collect();
        volume.noauto = draw.noauto;
        let number = DevNum {
            major: 253,
            minor: place as u64,
        };
        let mapping = match draw.mapping {
            0 => Mapping::Open(number),
            1 => Mapping::Foreign("not this volume".to_owned()),
            _ => Mapping::None,
        };
        let mut mount = MountState::None;
        if draw.mounted {
            volume.mount = Some(Mount {
                at: format!("/srv/{name}").into(),
                fstype: None,
                options: None,
            });
            if draw.mapping == 0 && draw.there {
                mount = MountState::Ours;
            }
            if draw.pool {
                volume.pools = vec![format!("p{place}")];
                let state = if mount == MountState::Ours {
                    PoolState::Active
                } else {
                    PoolState::Inactive
                };
                libvirt.pools.insert(format!("p{place}"), state);
            }
        }
        let device = draw.there.then(|| Device {
            path: format!("/dev/vg0/{name}").into(),
            number: None,
        });
        facts.volumes.insert(
            name,
            VolumeFacts {
                node: matches!(mapping, Mapping::Open(_)),
                device,
                mapping,
                mount,
            },
        );
        config.volumes.push(volume);
    }
    for (place, draw) in domains.iter().enumerate() {
        let name = format!("d{place}");
        let on: BTreeSet<usize> = draw.on.iter().map(|index| index.index(volumes.len())).collect();
        let source = |volume: &usize| Source {
            path: disk(&config, *volume, &name).into(),
            resolved: disk(&config, *volume, &name).into(),
            number: None,
            pool: None,
        };
        libvirt.domains.push(DomainFacts {
            name: name.clone(),
            uuid: format!("uuid-of-{name}"),
            state: if draw.runs {
                DomainState::Running
            } else {
                DomainState::ShutOff
            },
            autostart: draw.autostart,
            sources: on.iter().map(source).collect(),
            secrets: draw.secret.map(secret_use).into_iter().collect(),
            ..DomainFacts::default()
        });
        let mut table = DomainConfig::new(&name);
        table.after = earlier(&draw.after, place)
            .into_iter()
            .map(|other| format!("d{other}"))
            .collect();
        table.start = [Start::Autostart, Start::Always, Start::Never, Start::Autostart][usize::from(draw.start)];
        if draw.autostart {
            table.ready = Ready::Agent;
        }
        if draw.start != 3 {
            config.domains.push(table);
        }
    }
    let secrets: BTreeSet<u8> = domains.iter().filter_map(|draw| draw.secret).collect();
    config.secrets = secrets
        .iter()
        .map(|secret| SecretConfig::new(&format!("s{secret}")))
        .collect();
    facts.libvirt = Some(libvirt);
    Case { config, facts }
}

/// The step without regard to whether a domain that runs is waited for: that hangs on what else is to be started.
pub fn regardless(step: &Step) -> Step {
    let mut step = step.clone();
    if step.action == Action::Await {
        step.action = Action::Nothing;
    }
    step
}

pub fn disk(config: &Config, volume: usize, domain: &str) -> String {
    match config.volumes[volume].mount {
        Some(_) => format!("/srv/v{volume}/{domain}.qcow2"),
        None => format!("/dev/mapper/v{volume}"),
    }
}

pub fn earlier(draws: &[prop::sample::Index], place: usize) -> BTreeSet<usize> {
    let some = draws.iter().filter(|_| place > 0);
    some.map(|index| index.index(place)).collect()
}

pub fn graph_of(case: &Case) -> Graph {
    graph::of(&case.config, &case.facts).unwrap()
}

pub fn up_of(case: &Case, graph: &Graph, names: &Names) -> Plan {
    plan::up(&case.config, &case.facts, graph, names).unwrap()
}

/// The layers that each layer needs to be up, by the configuration's words alone.
pub fn required(case: &Case, layer: &Layer) -> Vec<Layer> {
    let top = |name: &str| match case.config.volume(name).unwrap().mount {
        Some(_) => Layer::Mount(name.into()),
        None => Layer::Volume(name.into()),
    };
    match layer {
        Layer::Volume(name) => case
            .config
            .volume(name)
            .unwrap()
            .after
            .iter()
            .map(|after| top(after))
            .collect(),
        Layer::Mount(name) => vec![Layer::Volume(name.clone())],
        Layer::Pool(name) => vec![top(&name.replace('p', "v"))],
        Layer::Domain(name) => {
            let domains = &case.facts.libvirt.as_ref().unwrap().domains;
            let found = domains.iter().find(|domain| *domain.name == **name).unwrap();
            let names = found.sources.iter().filter_map(|source| {
                let path = source.path.to_str()?;
                let below = path.strip_prefix("/srv/").or_else(|| path.strip_prefix("/dev/mapper/"))?;
                below.split('/').next()
            });
            let secrets = found.secrets.iter().map(|used| Layer::Secret(used.id.to_string().into()));
            names.map(top).chain(secrets).collect()
        }
        // What all its domains need.
        Layer::Secret(_) => {
            let mut users = users(case, layer).into_iter().map(|domain| {
                let needed = required(case, &domain).into_iter();
                needed.filter(|need| !need.is_nameless()).collect::<BTreeSet<_>>()
            });
            let first = users.next().unwrap_or_default();
            users
                .fold(first, |all, needs| all.intersection(&needs).cloned().collect())
                .into_iter()
                .collect()
        }
    }
}

/// The domains that need a secret.
pub fn users(case: &Case, secret: &Layer) -> Vec<Layer> {
    let domains = &case.facts.libvirt.as_ref().unwrap().domains;
    let needs = |domain: &&DomainFacts| domain.secrets.iter().any(|used| used.id.to_string() == secret.name());
    domains
        .iter()
        .filter(needs)
        .map(|domain| Layer::Domain(domain.name.as_str().into()))
        .collect()
}

/// Everything that a layer requires, directly or not, itself included.
pub fn closure(case: &Case, layers: Vec<Layer>) -> BTreeSet<Layer> {
    let (mut found, mut next) = (BTreeSet::new(), layers);
    while let Some(layer) = next.pop() {
        if found.insert(layer.clone()) {
            next.extend(required(case, &layer));
        }
    }
    found
}

/// The host as it is when everything is up.
pub fn all_up(case: &Case) -> Facts {
    let mut facts = case.facts.clone();
    for (place, (name, volume)) in facts.volumes.iter_mut().enumerate() {
        volume.mapping = Mapping::Open(DevNum {
            major: 253,
            minor: place as u64,
        });
        if case.config.volume(name).unwrap().mount.is_some() {
            volume.mount = MountState::Ours;
        }
    }
    let libvirt = facts.libvirt.as_mut().unwrap();
    libvirt
        .domains
        .iter_mut()
        .for_each(|domain| domain.state = DomainState::Running);
    libvirt.pools.values_mut().for_each(|state| *state = PoolState::Active);
    libvirt.secrets = case
        .config
        .secrets
        .iter()
        .map(|secret| SecretFacts {
            uuid: format!("uuid-of-{}", secret.name),
            usage: Some(secret.name.clone()),
            ephemeral: true,
        })
        .collect();
    facts
}
