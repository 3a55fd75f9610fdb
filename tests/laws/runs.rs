//! Whole runs.

use std::collections::BTreeSet;

use proptest::prelude::*;
use virt_unlock::event::Outcome;
use virt_unlock::graph::Layer;

use crate::fake_host::run::Run;
use crate::fake_host::{Answer, FakeHost};
use crate::generate::{Case, case, closure, required};

/// The same host in memory: closed, off, every device there.
pub fn host_of(case: &Case) -> FakeHost {
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
                .filter(|layer| !layer.is_nameless())
                .map(|layer| (layer.name().to_owned(), matches!(layer, Layer::Mount(_))))
                .collect();
        });
        for used in &domain.secrets {
            host.encrypted(&domain.name, &used.id.to_string(), "secret");
        }
    }
    host.set(|world| {
        world.pools = libvirt
            .pools
            .keys()
            .map(|name| (name.clone(), virt_unlock::facts::PoolState::Inactive))
            .collect();
    });
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
            let wanted = !matches!(outcome, Outcome::Left(_));
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
