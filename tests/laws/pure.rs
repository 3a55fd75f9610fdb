//! The graph and the plan.

use std::collections::BTreeSet;

use proptest::prelude::*;
use virt_unlock::facts::{Mapping, Source};
use virt_unlock::graph::{self, Layer, Need};
use virt_unlock::plan::{self, Action, Names};

use crate::generate::{
    Case, DomainDraw, VolumeDraw, all_up, build, case, closure, disk, graph_of, regardless, required, up_of, users,
};

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
            if !step.action.is_up_already() && step.action != Action::Leave {
                blocked |= required(&case, &step.layer).iter().any(|need| plan.step(need).unwrap().action == Action::Blocked);
            }
            prop_assert_eq!(step.action == Action::Blocked, blocked, "{:?}", step);
        }
    }

    #[test]
    fn a_domain_that_runs_is_waited_for_where_one_that_is_to_be_started_comes_after_it(case in case(60)) {
        let plan = up_of(&case, &graph_of(&case), &Names::default());
        let mut awaited = BTreeSet::new();
        for wait in plan.work().flat_map(|step| &step.waits_for) {
            awaited.insert(wait.step);
        }
        for (place, step) in plan.steps.iter().enumerate() {
            let can_be_asked = case.config.domain(step.layer.name()).is_some_and(|table| table.ready.can_be_asked());
            let runs = matches!(step.layer, Layer::Domain(_)) && step.action.is_up_already();
            prop_assert_eq!(step.action == Action::Await, runs && can_be_asked && awaited.contains(&place), "{:?}", step);
        }
    }

    #[test]
    fn a_secret_is_set_where_a_domain_that_needs_it_is_started_and_nowhere_else(case in case(60)) {
        let graph = graph_of(&case);
        let plan = up_of(&case, &graph, &Names::default());
        for step in plan.steps.iter().filter(|step| matches!(step.layer, Layer::Secret(_))) {
            let starts = |layer: &Layer| plan.step(layer).is_some_and(|step| step.action == Action::Start);
            prop_assert_eq!(step.action == Action::SetSecret, users(&case, &step.layer).iter().any(starts), "{:?}", step);
        }
        // The same after a part was left to others.
        let halved = plan.only(|layer| !matches!(layer, Layer::Domain(_)), "left");
        prop_assert!(halved.steps.iter().all(|step| step.action != Action::SetSecret));
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
        let nodes: Vec<_> = graph.nodes().iter().filter(|node| !node.layer.is_nameless()).collect();
        let names: BTreeSet<String> = picks.iter().map(|pick| nodes[pick.index(nodes.len())].layer.name().to_owned()).collect();
        let named = |layer: &Layer| !layer.is_nameless() && names.contains(layer.name());
        let chosen = graph.nodes().iter().map(|node| node.layer.clone()).filter(|layer| named(layer)).collect();
        let wanted = closure(&case, chosen);
        let plan = up_of(&case, &graph, &Names::new(names.clone()));
        let full = up_of(&case, &graph, &Names::default());
        for step in &plan.steps {
            match &step.layer {
                // A pool comes with its volume.
                Layer::Pool(_) if wanted.contains(&required(&case, &step.layer)[0]) => {
                    prop_assert_eq!(step.action, full.step(&step.layer).unwrap().action);
                }
                // It follows its domains.
                Layer::Secret(_) => {}
                layer if wanted.contains(layer) => {
                    let alone = full.step(layer).unwrap();
                    prop_assert!(regardless(step).action == regardless(alone).action || alone.action == Action::Leave, "{:?} but {:?}", step, alone);
                }
                _ => prop_assert!(step.action.is_up_already() || step.action == Action::Leave, "{:?}", step),
            }
        }
        // Downwards: exactly those that require a named one.
        let up = Case { facts: all_up(&case), ..case };
        let graph = graph_of(&up);
        let plan = plan::down(&up.facts, &graph, &Names::new(names.clone())).unwrap();
        for step in &plan.steps {
            let needs_it = |layer: &Layer| closure(&up, vec![layer.clone()]).iter().any(named);
            // A secret goes with the last that needs it.
            let goes = match &step.layer {
                Layer::Secret(_) => {
                    let users = users(&up, &step.layer);
                    !users.is_empty() && users.iter().all(needs_it)
                }
                layer => needs_it(layer),
            };
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
            let is_nameless = node.layer.is_nameless();
            node.needs.iter().map(move |(need, kind)| (last - place, last - need, *kind == Need::Requires && !is_nameless))
        });
        prop_assert_eq!(waits, mirrored.collect::<BTreeSet<_>>());
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
        noauto: false,
    };
    let volumes: Vec<VolumeDraw> = (0..many).map(|place| draws(place % 2 == 0)).collect();
    let domain = DomainDraw {
        secret: None,
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
