//! Volumes that are brought up by name alone, and what goes with a name.

use std::collections::BTreeSet;

use proptest::prelude::*;
use virt_unlock::config::Config;
use virt_unlock::facts::{Facts, Mapping, MountState, SecretId};
use virt_unlock::graph::Layer;
use virt_unlock::plan::{self, Action, Names, Plan, Seen};

use crate::fake_host::run::Run;
use crate::generate::{Case, all_up, case, case_with_noauto, closure, graph_of, regardless, required, up_of};
use crate::runs::host_of;

/// The same without the word.
fn auto(config: &Config) -> Config {
    let mut config = config.clone();
    config.volumes.iter_mut().for_each(|volume| volume.noauto = false);
    config
}

fn is_noauto(case: &Case, layer: &Layer) -> bool {
    matches!(layer, Layer::Volume(_) | Layer::Mount(_)) && case.config.volume(layer.name()).unwrap().noauto
}

fn is_up(facts: &Facts, layer: &Layer) -> bool {
    match layer {
        Layer::Volume(name) => matches!(facts.volumes[&**name].mapping, Mapping::Open(_)),
        Layer::Mount(name) => facts.volumes[&**name].mount == MountState::Ours,
        Layer::Pool(_) => false,
        Layer::Secret(name) => {
            let libvirt = facts.libvirt.as_ref().unwrap();
            libvirt.secret(&SecretId::of(name)).is_some()
        }
        Layer::Domain(name) => {
            let domains = &facts.libvirt.as_ref().unwrap().domains;
            domains
                .iter()
                .any(|domain| *domain.name == **name && domain.state.is_active())
        }
    }
}

/// Whether it is not up, and is `noauto` or needs directly or not what is both. What is up passes nothing on.
fn waits_for_a_name(case: &Case, plain: &Plan, layer: &Layer) -> bool {
    let action = plain.step(layer).unwrap().action;
    let waits = || required(case, layer).iter().any(|need| waits_for_a_name(case, plain, need));
    (action.is_work() || action == Action::Blocked) && (is_noauto(case, layer) || waits())
}

/// One or two names of the case.
fn some_names(case: &Case, picks: &[prop::sample::Index]) -> Names {
    let graph = graph_of(case);
    let nodes: Vec<_> = graph.nodes().iter().filter(|node| !node.layer.is_nameless()).collect();
    Names::new(
        picks
            .iter()
            .map(|pick| nodes[pick.index(nodes.len())].layer.name().to_owned()),
    )
}

fn picks() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 1..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_a_name_it_is_left_alone_with_all_that_needs_it_and_nothing_else_changes(case in case_with_noauto(40)) {
        let graph = graph_of(&case);
        let plan = up_of(&case, &graph, &Names::default());
        let plain = plan::up(&auto(&case.config), &case.facts, &graph, &Names::default()).unwrap();
        // A secret follows its domains.
        for step in plan.steps.iter().filter(|step| !matches!(step.layer, Layer::Secret(_))) {
            let alone = plain.step(&step.layer).unwrap();
            if waits_for_a_name(&case, &plain, &step.layer) {
                prop_assert_eq!(step.action, Action::Leave, "{:?}", step);
                prop_assert!(step.reason.contains("noauto"), "{:?}", step);
            } else {
                prop_assert_eq!(regardless(step), regardless(alone));
            }
        }
    }

    #[test]
    fn with_a_name_and_on_the_way_down_the_word_changes_nothing(case in case_with_noauto(40), picks in picks()) {
        let graph = graph_of(&case);
        let names = some_names(&case, &picks);
        let plain = plan::up(&auto(&case.config), &case.facts, &graph, &names).unwrap();
        prop_assert_eq!(up_of(&case, &graph, &names), plain);
        let up = Case { facts: all_up(&case), ..case };
        let down = plan::down(&up.facts, &graph_of(&up), &Names::default()).unwrap();
        prop_assert!(down.steps.iter().all(|step| step.action.is_work()));
    }

    #[test]
    fn a_stop_takes_what_depends_on_the_name_and_its_own_volumes_that_nobody_else_uses(
        case in case_with_noauto(30), picks in picks(), kept in any::<prop::sample::Index>(),
    ) {
        let graph = graph_of(&case);
        let names = some_names(&case, &picks);
        let kept = &case.config.volumes[kept.index(case.config.volumes.len())].name;
        let plan = plan::stop(&case.config, &case.facts, &graph, &names, |name| name == kept).unwrap();
        let named: Vec<Layer> = graph.nodes().iter().map(|node| node.layer.clone()).filter(|layer| names.mean(layer)).collect();
        let needed = closure(&case, named.clone());
        let depends = |layer: &Layer| closure(&case, vec![layer.clone()]).iter().any(|need| named.contains(need));
        let goes: BTreeSet<&Layer> = plan.work().map(|step| &step.layer).collect();
        for node in graph.nodes().iter().filter(|node| !node.layer.is_nameless()) {
            let layer = &node.layer;
            let is_own = needed.contains(layer) && is_noauto(&case, layer) && layer.name() != kept;
            let users = graph.nodes().iter().map(|node| &node.layer)
                .filter(|user| is_up(&case.facts, user) && required(&case, user).contains(layer));
            let is_used = users.into_iter().any(|user| !goes.contains(user));
            let expected = is_up(&case.facts, layer) && (depends(layer) || (is_own && !is_used));
            prop_assert_eq!(goes.contains(layer), expected, "{}", layer);
        }
    }

    #[test]
    fn nothing_that_is_used_is_released(case in case(30), picks in prop::collection::vec(any::<bool>(), 200)) {
        let graph = graph_of(&case);
        let chosen = |layer: &Layer| picks[graph.place(layer).unwrap() % picks.len()];
        let plan = plan::release(&case.facts, &graph, chosen);
        for step in plan.work() {
            prop_assert!(step.layer.is_nameless() || chosen(&step.layer), "{:?}", step);
            for node in graph.nodes() {
                let uses = required(&case, &node.layer).contains(&step.layer) && is_up(&case.facts, &node.layer);
                prop_assert!(!uses || plan.step(&node.layer).unwrap().action.is_work(), "{} uses {:?}", node.layer, step);
            }
        }
    }

    #[test]
    fn what_was_seen_up_in_a_run_is_not_brought_up_by_it_again(case in case(30), picks in picks()) {
        let names = some_names(&case, &picks);
        let mut seen = Seen::default();
        let up = Case { facts: all_up(&case), config: case.config.clone() };
        let whole = up_of(&up, &graph_of(&up), &Names::default());
        prop_assert_eq!(seen.without_volumes(whole.clone()), whole.clone());
        prop_assert_eq!(seen.without_domains(whole.clone()), whole);

        // Volumes: none of those that were open.
        let graph = graph_of(&case);
        let plan = seen.without_volumes(up_of(&case, &graph, &Names::default()));
        prop_assert!(plan.work().all(|step| !matches!(step.layer, Layer::Volume(_))), "{:?}", plan);
        // Another run does all of it.
        let again = up_of(&case, &graph, &Names::default());
        prop_assert_eq!(Seen::default().without_volumes(again.clone()), again);

        // Domains: none that ran, as long as what it lies on stayed; the rest of the plan is as it was.
        let mut down = up.clone();
        let domains = &mut down.facts.libvirt.as_mut().unwrap().domains;
        for domain in domains.iter_mut().filter(|domain| names.mean(&Layer::Domain(domain.name.as_str().into()))) {
            domain.state = virt_unlock::facts::DomainState::ShutOff;
        }
        let plan = seen.clone().without_domains(up_of(&down, &graph, &Names::default()));
        prop_assert_eq!(plan.work().count(), 0, "{:?}", plan);
        // Its volume was closed too: whoever opens it wants the domain.
        for volume in down.facts.volumes.values_mut() {
            (volume.mapping, volume.mount) = (Mapping::None, MountState::None);
        }
        let whole = up_of(&down, &graph, &Names::default());
        let lies = |layer: &Layer| required(&case, layer).iter().any(|need| !need.is_nameless());
        let plan = seen.without_domains(whole.clone());
        for step in whole.steps.iter().filter(|step| matches!(&step.layer, Layer::Domain(_)) && lies(&step.layer)) {
            prop_assert_eq!(plan.step(&step.layer).map(regardless), Some(regardless(step)));
        }
    }
}

proptest! {
    // Each is whole runs with a thread for every step.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_start_by_name_and_its_stop_are_where_it_began(case in case(10), picks in picks()) {
        let mut case = case;
        case.config.volumes.iter_mut().for_each(|volume| volume.noauto = true);
        let host = host_of(&case);
        let before = host.shape();
        let names = some_names(&case, &picks);
        let named: Vec<String> = case.config.volumes.iter().map(|volume| volume.name.clone())
            .chain(case.facts.libvirt.iter().flat_map(|libvirt| &libvirt.domains).map(|domain| domain.name.clone()))
            .filter(|name| names.mean(&Layer::Volume(name.as_str().into())))
            .collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        prop_assert!(Run::new(&host, &case.config).up().summary.is_good());
        for volume in &case.config.volumes {
            prop_assert!(!host.is_open(&volume.name));
        }
        // What lies on no volume is up now, and is no part of this.
        prop_assert!(Run::new(&host, &case.config).down().summary.is_good());
        prop_assert!(Run::new(&host, &case.config).names(&named).up().summary.is_good());
        prop_assert!(Run::new(&host, &case.config).names(&named).stop().summary.is_good());
        prop_assert_eq!(host.shape(), before);
        host.assert_lawful();
    }
}
