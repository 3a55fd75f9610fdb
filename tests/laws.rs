//! Laws of the graph and the plan that hold for every configuration, and of whole runs on generated hosts.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests too

#[path = "fake_host/mod.rs"]
mod fake_host;

use std::collections::BTreeSet;

use proptest::prelude::*;
use virt_unlock::config::{Config, DeviceSpec, DomainConfig, Mount, Start, Volume};
use virt_unlock::facts::{
    DevNum, Device, DomainFacts, DomainState, Facts, LibvirtFacts, Mapping, MountState, Source, VolumeFacts,
};
use virt_unlock::graph::{self, Graph, Layer, Need};
use virt_unlock::plan::{self, Action, Names, Plan};

use fake_host::run::Run;
use fake_host::{Answer, FakeHost};

/// A configuration and what the machine says, as a generator draws them.
#[derive(Clone, Debug)]
struct Case {
    config: Config,
    facts: Facts,
}

#[derive(Clone, Debug)]
struct VolumeDraw {
    mounted: bool,
    pool: bool,
    after: Vec<prop::sample::Index>,
    mapping: u8,
    there: bool,
}

#[derive(Clone, Debug)]
struct DomainDraw {
    on: Vec<prop::sample::Index>,
    after: Vec<prop::sample::Index>,
    start: u8,
    autostart: bool,
    runs: bool,
}

fn volume_draw() -> impl Strategy<Value = VolumeDraw> {
    let after = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (any::<bool>(), any::<bool>(), after, 0..4u8, any::<bool>()).prop_map(|(mounted, pool, after, mapping, there)| VolumeDraw {
        mounted,
        pool,
        after,
        mapping,
        there,
    })
}

fn domain_draw() -> impl Strategy<Value = DomainDraw> {
    let on = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let after = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (on, after, 0..4u8, any::<bool>(), any::<bool>()).prop_map(|(on, after, start, autostart, runs)| DomainDraw {
        on,
        after,
        start,
        autostart,
        runs,
    })
}

/// Up to `most` volumes and domains without a circle: each is after earlier ones only, in an order that the configuration
/// does not show.
fn case(most: usize) -> impl Strategy<Value = Case> {
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

fn build(volumes: &[VolumeDraw], domains: &[DomainDraw]) -> Case {
    let (mut config, mut facts) = (Config::default(), Facts::default());
    let mut libvirt = LibvirtFacts::default();
    for (place, draw) in volumes.iter().enumerate() {
        let name = format!("v{place}");
        let mut volume = Volume::new(&name, DeviceSpec::Path(format!("/dev/vg0/{name}").into()));
        volume.after = earlier(&draw.after, place)
            .into_iter()
            .map(|other| format!("v{other}"))
            .collect();
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
                libvirt.pools.insert(format!("p{place}"), mount == MountState::Ours);
            }
        }
        let device = draw.there.then(|| Device {
            path: format!("/dev/vg0/{name}").into(),
            number: None,
        });
        facts.volumes.insert(name, VolumeFacts { device, mapping, mount });
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
            restarts_on_poweroff: false,
        });
        let mut table = DomainConfig::new(&name);
        table.after = earlier(&draw.after, place)
            .into_iter()
            .map(|other| format!("d{other}"))
            .collect();
        table.start = [Start::Autostart, Start::Always, Start::Never, Start::Autostart][usize::from(draw.start)];
        if draw.start != 3 {
            config.domains.push(table);
        }
    }
    facts.libvirt = Some(libvirt);
    Case { config, facts }
}

fn disk(config: &Config, volume: usize, domain: &str) -> String {
    match config.volumes[volume].mount {
        Some(_) => format!("/srv/v{volume}/{domain}.qcow2"),
        None => format!("/dev/mapper/v{volume}"),
    }
}

fn earlier(draws: &[prop::sample::Index], place: usize) -> BTreeSet<usize> {
    let some = draws.iter().filter(|_| place > 0);
    some.map(|index| index.index(place)).collect()
}

fn graph_of(case: &Case) -> Graph {
    graph::of(&case.config, &case.facts).unwrap()
}

fn up_of(case: &Case, graph: &Graph, names: &Names) -> Plan {
    plan::up(&case.config, &case.facts, graph, names).unwrap()
}

/// The layers that each layer needs to be up, by the configuration's words alone.
fn required(case: &Case, layer: &Layer) -> Vec<Layer> {
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
            names.map(top).collect()
        }
    }
}

/// Everything that a layer requires, directly or not, itself included.
fn closure(case: &Case, layers: Vec<Layer>) -> BTreeSet<Layer> {
    let (mut found, mut next) = (BTreeSet::new(), layers);
    while let Some(layer) = next.pop() {
        if found.insert(layer.clone()) {
            next.extend(required(case, &layer));
        }
    }
    found
}

/// The host as it is when everything is up.
fn all_up(case: &Case) -> Facts {
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
    libvirt.pools.values_mut().for_each(|active| *active = true);
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_layer_stands_after_all_it_needs_and_has_exactly_its_needs(case in case(60)) {
        let graph = graph_of(&case);
        for (place, node) in graph.nodes().iter().enumerate() {
            prop_assert_eq!(graph.place(&node.layer), Some(place));
            prop_assert!(node.needs.iter().all(|(need, _)| *need < place));
            let has = |kind: Need| {
                let of_kind = node.needs.iter().filter(move |(_, found)| *found == kind);
                of_kind.map(|(need, _)| graph.nodes()[*need].layer.clone()).collect::<BTreeSet<_>>()
            };
            let wanted: BTreeSet<_> = required(&case, &node.layer).into_iter().collect();
            prop_assert_eq!(has(Need::Requires), wanted);
            let orders = has(Need::Order);
            if let Layer::Domain(name) = &node.layer {
                let after = case.config.domain(name).map(|table| table.after.clone()).unwrap_or_default();
                for other in after.iter().map(|name| Layer::Domain(name.as_str().into())) {
                    prop_assert_eq!(orders.contains(&other), graph.place(&other).is_some());
                }
            }
        }
    }

    #[test]
    fn where_there_is_a_choice_the_configuration_s_order_holds(case in case(60)) {
        let graph = graph_of(&case);
        let free = graph.nodes().iter().filter(|node| node.needs.is_empty() && matches!(node.layer, Layer::Volume(_)));
        let found: Vec<&str> = free.map(|node| node.layer.name()).collect();
        let written = case.config.volumes.iter().filter(|volume| volume.after.is_empty()).map(|volume| volume.name.as_str());
        prop_assert_eq!(found, written.collect::<Vec<_>>());
    }

    #[test]
    fn a_circle_is_found_and_is_one(case in case(30), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let mut case = case;
        let names: Vec<String> = case.config.volumes.iter().map(|volume| volume.name.clone()).collect();
        let (from, to) = (&names[from.index(names.len())], &names[to.index(names.len())]);
        let closes = closure(&case, vec![Layer::Volume(to.as_str().into())]).contains(&Layer::Volume(from.as_str().into()));
        case.config.volumes.iter_mut().find(|volume| volume.name == *from).unwrap().after.push(to.clone());
        match graph::of(&case.config, &case.facts) {
            Ok(_) => prop_assert!(!closes),
            Err(cycle) => {
                prop_assert!(closes && !cycle.0.is_empty());
                for (place, layer) in cycle.0.iter().enumerate() {
                    let next = &cycle.0[(place + 1) % cycle.0.len()];
                    prop_assert!(required(&case, layer).contains(next), "{} does not need {}", layer, next);
                }
            }
        }
    }

    #[test]
    fn the_way_up_waits_for_what_it_needs_and_blocks_exactly_what_requires_the_blocked(case in case(60)) {
        let graph = graph_of(&case);
        let plan = up_of(&case, &graph, &Names::default());
        for (place, step) in plan.steps.iter().enumerate() {
            let waits: Vec<_> = step.waits_for.iter().map(|wait| (wait.step, wait.must_succeed)).collect();
            let needs: Vec<_> = graph.nodes()[place].needs.iter().map(|(need, kind)| (*need, *kind == Need::Requires)).collect();
            prop_assert_eq!(waits, needs);
            let foreign = |layer: &Layer| matches!(layer, Layer::Volume(name)
                if matches!(case.facts.volumes[&**name].mapping, Mapping::Foreign(_)));
            // What is up already stays up, and passes nothing on.
            let mut blocked = foreign(&step.layer);
            if !matches!(step.action, Action::Nothing | Action::Leave) {
                blocked |= required(&case, &step.layer).iter().any(|need| plan.step(need).unwrap().action == Action::Blocked);
            }
            prop_assert_eq!(step.action == Action::Blocked, blocked, "{:?}", step);
        }
    }

    #[test]
    fn a_host_that_is_up_needs_no_work_and_a_plan_is_always_the_same(case in case(60)) {
        let graph = graph_of(&case);
        prop_assert_eq!(up_of(&case, &graph, &Names::default()), up_of(&case, &graph_of(&case), &Names::default()));
        let up = Case { facts: all_up(&case), ..case };
        let graph = graph_of(&up);
        let plan = up_of(&up, &graph, &Names::default());
        prop_assert_eq!(plan.work().count(), 0, "{:?}", plan);
    }

    #[test]
    fn names_touch_what_they_require_and_nothing_else(case in case(40), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..3)) {
        let graph = graph_of(&case);
        let nodes: Vec<_> = graph.nodes().iter().filter(|node| !matches!(node.layer, Layer::Pool(_))).collect();
        let names: BTreeSet<String> = picks.iter().map(|pick| nodes[pick.index(nodes.len())].layer.name().to_owned()).collect();
        let named = |layer: &Layer| !matches!(layer, Layer::Pool(_)) && names.contains(layer.name());
        let chosen = graph.nodes().iter().map(|node| node.layer.clone()).filter(|layer| named(layer)).collect();
        let wanted = closure(&case, chosen);
        let plan = up_of(&case, &graph, &Names::new(names.clone()));
        let full = up_of(&case, &graph, &Names::default());
        for step in &plan.steps {
            match &step.layer {
                // A pool comes with its volume.
                Layer::Pool(_) => prop_assert!(!step.action.is_work() || wanted.contains(&required(&case, &step.layer)[0])),
                layer if wanted.contains(layer) => {
                    let alone = full.step(layer).unwrap();
                    prop_assert!(step.action == alone.action || alone.action == Action::Leave, "{:?} but {:?}", step, alone);
                }
                _ => prop_assert!(matches!(step.action, Action::Leave | Action::Nothing), "{:?}", step),
            }
        }
        // Downwards: exactly those that require a named one.
        let up = Case { facts: all_up(&case), ..case };
        let graph = graph_of(&up);
        let plan = plan::down(&up.facts, &graph, &Names::new(names.clone())).unwrap();
        for step in &plan.steps {
            let goes = closure(&up, vec![step.layer.clone()]).iter().any(named);
            prop_assert_eq!(step.action.is_work(), goes, "{:?}", step);
        }
        let unknown = Names::new(["nobody".to_owned()]);
        prop_assert!(plan::up(&up.config, &up.facts, &graph, &unknown).is_err());
    }

    #[test]
    fn the_way_down_is_the_way_up_mirrored(case in case(60)) {
        let up = Case { facts: all_up(&case), ..case };
        let graph = graph_of(&up);
        let plan = plan::down(&up.facts, &graph, &Names::default()).unwrap();
        let last = graph.nodes().len() - 1;
        let mut waits = BTreeSet::new();
        for (place, step) in plan.steps.iter().enumerate() {
            prop_assert_eq!(&step.layer, &graph.nodes()[last - place].layer);
            prop_assert!(step.action.is_work());
            for wait in &step.waits_for {
                prop_assert!(wait.step < place);
                waits.insert((wait.step, place, wait.must_succeed));
            }
        }
        let mirrored = graph.nodes().iter().enumerate().flat_map(|(place, node)| {
            let is_pool = matches!(node.layer, Layer::Pool(_));
            node.needs.iter().map(move |(need, kind)| (last - place, last - need, *kind == Need::Requires && !is_pool))
        });
        prop_assert_eq!(waits, mirrored.collect::<BTreeSet<_>>());
    }
}

/// The same host in memory: closed, off, every device there.
fn host_of(case: &Case) -> FakeHost {
    let host = FakeHost::new();
    for volume in &case.config.volumes {
        host.volume(&volume.name, &volume.name);
    }
    let libvirt = case.facts.libvirt.as_ref().unwrap();
    for domain in &libvirt.domains {
        host.domain(&domain.name, &[], false);
        let on = required(case, &Layer::Domain(domain.name.as_str().into()));
        host.set(|world| {
            let found = world.domains.get_mut(&domain.name).unwrap();
            found.autostart = domain.autostart;
            found.sources = domain.sources.iter().map(|source| source.path.clone()).collect();
            found.needs = on
                .iter()
                .map(|layer| (layer.name().to_owned(), matches!(layer, Layer::Mount(_))))
                .collect();
        });
    }
    host.set(|world| world.pools = libvirt.pools.keys().map(|name| (name.clone(), false)).collect());
    host
}

proptest! {
    // Each is whole runs with a thread for every step.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn up_and_then_down_is_where_it_began(case in case(12)) {
        let host = host_of(&case);
        let before = host.shape();
        prop_assert!(Run::new(&host, &case.config).up().summary.is_good());
        for volume in &case.config.volumes {
            prop_assert!(host.is_open(&volume.name));
        }
        prop_assert!(Run::new(&host, &case.config).down().summary.is_good());
        prop_assert_eq!(host.shape(), before);
        host.assert_lawful();
    }

    #[test]
    fn a_failure_does_not_spread(case in case(12), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..3)) {
        let host = host_of(&case);
        let volumes = &case.config.volumes;
        let lost: BTreeSet<Layer> =
            picks.iter().map(|pick| Layer::Volume(volumes[pick.index(volumes.len())].name.as_str().into())).collect();
        for layer in &lost {
            host.answers(layer.name(), &[Answer::Declines]);
        }
        let report = Run::new(&host, &case.config).up();
        for (layer, outcome) in &report.summary.ended {
            let reached = closure(&case, vec![layer.clone()]).iter().any(|need| lost.contains(need));
            let wanted = !matches!(outcome, virt_unlock::event::Outcome::Left(_));
            prop_assert_eq!(outcome.is_bad(), reached && wanted, "{}: {:?}", layer, outcome);
        }
        host.set(|world| world.script.clear());
        // Another up does what is missing, and no more.
        let opened = host.log().iter().filter(|call| call.starts_with("open ")).count();
        prop_assert!(Run::new(&host, &case.config).up().summary.is_good());
        let more = host.log().iter().filter(|call| call.starts_with("open ")).count() - opened;
        prop_assert_eq!(more + opened, volumes.len());
        host.assert_lawful();
    }

    #[test]
    fn an_interrupted_run_and_another_are_one(case in case(10), at in any::<prop::sample::Index>(), after in any::<bool>()) {
        let whole = host_of(&case);
        Run::new(&whole, &case.config).up();
        let calls = whole.look(|world| world.calls);
        let host = host_of(&case);
        let run = Run::new(&host, &case.config);
        host.set(|world| world.cancel_at = Some((at.index(calls), after, run.cancel.clone())));
        run.up();
        host.set(|world| world.cancel_at = None);
        prop_assert!(Run::new(&host, &case.config).up().summary.is_good());
        prop_assert_eq!(host.shape(), whole.shape());
        host.assert_lawful();
    }
}

/// Hundreds of each, all in chains: plans come at once, or this test is seen to hang.
#[test]
fn a_large_host_is_planned() {
    let many = 500;
    let chain = |place: usize| {
        if place == 0 {
            Vec::new()
        } else {
            vec![format!("v{}", place - 1)]
        }
    };
    let draws = |mounted| VolumeDraw {
        mounted,
        pool: mounted,
        after: Vec::new(),
        mapping: 3,
        there: true,
    };
    let volumes: Vec<VolumeDraw> = (0..many).map(|place| draws(place % 2 == 0)).collect();
    let domain = DomainDraw {
        on: Vec::new(),
        after: Vec::new(),
        start: 1,
        autostart: true,
        runs: false,
    };
    let mut case = build(&volumes, &vec![domain; many]);
    for place in 0..many {
        case.config.volumes[place].after = chain(place);
        let path = disk(&case.config, place, "x");
        case.facts.libvirt.as_mut().unwrap().domains[place].sources = vec![Source {
            path: path.clone().into(),
            resolved: path.into(),
            number: None,
            pool: None,
        }];
    }
    let graph = graph_of(&case);
    assert_eq!(graph.nodes().len(), 3 * many);
    assert_eq!(up_of(&case, &graph, &Names::default()).work().count(), 3 * many);
}
