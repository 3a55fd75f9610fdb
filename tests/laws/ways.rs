//! Whole ways up and down, with whatever fails on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use virt_unlock::cancel;
use virt_unlock::event::{Happened, Outcome};
use virt_unlock::facts::{DomainState, MountState};
use virt_unlock::graph::{Graph, Layer};
use virt_unlock::host::{CloseError, HypervisorError, MountError, OpenError, User};
use virt_unlock::plan::Direction;

use crate::fake_host::run::{Report, Run};
use crate::fake_host::{FakeHost, Fault, Hears, World};
use crate::generate::{Case, case, closure, graph_of, required};
use crate::runs::host_of;

/// Whether a layer's work began only after all that it had to wait for was through: on the way up all that it needs, on the way down
/// all that needs it.
fn assert_ordered(graph: &Graph, report: &Report, direction: Direction) -> Result<(), TestCaseError> {
    let (mut begun, mut ended) = (BTreeMap::new(), BTreeMap::new());
    for (at, event) in report.events.iter().enumerate() {
        let Some(layer) = &event.layer else { continue };
        if matches!(event.happened, Happened::Ended(_)) {
            ended.insert(layer, at);
        }
        // On the way up a guest may be told for what it waits before it begins.
        if direction == Direction::Down || !matches!(event.happened, Happened::Waiting(_)) {
            begun.entry(layer).or_insert(at);
        }
    }
    for node in graph.nodes() {
        for (need, _) in &node.needs {
            let need = &graph.nodes()[*need].layer;
            let (first, second) = match direction {
                Direction::Up => (need, &node.layer),
                Direction::Down => (&node.layer, need),
            };
            prop_assert!(ended[first] < begun[second], "{} began before {} was through", second, first);
        }
    }
    Ok(())
}

/// The layers that are up.
fn up_now(case: &Case, host: &FakeHost) -> BTreeSet<Layer> {
    let mut up = BTreeSet::new();
    for volume in &case.config.volumes {
        let name: std::sync::Arc<str> = volume.name.as_str().into();
        if host.is_open(&volume.name) {
            up.insert(Layer::Volume(name.clone()));
        }
        if host.mounted(&format!("/srv/{name}")) == MountState::Ours {
            up.insert(Layer::Mount(name));
        }
    }
    up.extend(host.secrets().iter().map(|name| Layer::Secret(name.as_str().into())));
    host.look(|world| {
        let running = world.domains.iter().filter(|(_, domain)| domain.state.is_active());
        up.extend(running.map(|(name, _)| Layer::Domain(name.as_str().into())));
    });
    up
}

/// What can go wrong with a call of this name.
fn fault_of(call: &str, kind: u8) -> Option<Fault> {
    let words = || "I/O error".to_owned();
    let libvirt = |kind| match kind {
        0 => HypervisorError::Unavailable(words()),
        _ => HypervisorError::Refused(words()),
    };
    if kind == 3 && !call.starts_with("ask ") {
        return Some(Fault::Panic);
    }
    Some(match call.split_once(' ')?.0 {
        "probe" | "open" => Fault::Open(match kind {
            0 => OpenError::Memory(words()),
            1 => OpenError::DeviceGone(words()),
            _ => OpenError::Other(words()),
        }),
        "mount" | "unmount" => Fault::Mount(MountError::Other(words())),
        "close" => Fault::Close(CloseError::Other(words())),
        "domain" | "state" | "start" | "button" | "agent" | "destroy" | "stop" => Fault::Libvirt(libvirt(kind)),
        _ => return None,
    })
}

type Picks = Vec<(prop::sample::Index, u8)>;

fn picks() -> impl Strategy<Value = Picks> {
    prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8), 1..6)
}

/// Gives some of the calls of a run, which another host has seen, their faults.
fn let_fail(host: &FakeHost, calls: &[String], picks: &Picks) {
    for (pick, kind) in picks {
        let call = &calls[pick.index(calls.len())];
        if let Some(fault) = fault_of(call, *kind) {
            host.fault(call, fault);
        }
    }
}

fn up(case: &Case, host: &FakeHost) -> Report {
    Run::new(host, &case.config).up()
}

fn down(case: &Case, host: &FakeHost) -> Report {
    Run::new(host, &case.config).down()
}

/// All guests on our volumes, also those that nobody wanted up, as somebody starts them by hand.
fn start_all(graph: &Graph, host: &FakeHost) {
    host.set(|world| {
        let is_ours = |name: &str| graph.place(&Layer::Domain(name.into())).is_some();
        let ours = world.domains.iter_mut().filter(|(name, _)| is_ours(name));
        ours.for_each(|(_, domain)| domain.state = DomainState::Running);
    });
}

proptest! {
    // Each is whole runs with a thread for every step.
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hundreds_come_up_and_go_down_in_order(case in case(250)) {
        cancel::allow_many_waits();
        let (host, graph) = (host_of(&case), graph_of(&case));
        let before = host.shape();
        let report = up(&case, &host);
        prop_assert!(report.summary.is_good(), "{:?}", report.summary);
        assert_ordered(&graph, &report, Direction::Up)?;
        start_all(&graph, &host);
        let report = down(&case, &host);
        prop_assert!(report.summary.is_good(), "{:?}", report.summary);
        assert_ordered(&graph, &report, Direction::Down)?;
        prop_assert_eq!(host.shape(), before);
        host.assert_lawful();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_interrupted_way_down_and_another_are_one(case in case(10), at in any::<prop::sample::Index>(), after in any::<bool>()) {
        let whole = host_of(&case);
        up(&case, &whole);
        let calls = whole.look(|world| world.calls);
        down(&case, &whole);
        let calls = calls..whole.look(|world| world.calls).max(calls + 1);
        let host = host_of(&case);
        up(&case, &host);
        let run = Run::new(&host, &case.config);
        host.set(|world| world.cancel_at = Some((calls.start + at.index(calls.len()), after, run.cancel.clone())));
        run.down();
        host.set(|world| world.cancel_at = None);
        prop_assert!(down(&case, &host).summary.is_good());
        prop_assert_eq!(host.shape(), whole.shape());
        host.assert_lawful();
    }

    #[test]
    fn an_interrupted_way_up_can_be_taken_down(case in case(10), at in any::<prop::sample::Index>(), after in any::<bool>()) {
        let host = host_of(&case);
        let before = host.shape();
        up(&case, &host);
        let calls = host.look(|world| world.calls);
        let host = host_of(&case);
        let run = Run::new(&host, &case.config);
        host.set(|world| world.cancel_at = Some((at.index(calls), after, run.cancel.clone())));
        run.up();
        host.set(|world| world.cancel_at = None);
        prop_assert!(down(&case, &host).summary.is_good());
        prop_assert_eq!(host.shape(), before);
        host.assert_lawful();
    }

    /// Exactly what is under the stuck stays up, it is named, and nothing else waits for it.
    #[test]
    fn what_does_not_go_down_keeps_what_it_needs_and_nothing_else(
        mut case in case(12),
        guests in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        volumes in prop::collection::vec(any::<prop::sample::Index>(), 0..2),
    ) {
        case.config.host.stop_timeout = Duration::from_millis(4);
        let host = host_of(&case);
        prop_assert!(up(&case, &host).summary.is_good());
        let running: Vec<Layer> = up_now(&case, &host).into_iter().filter(|layer| matches!(layer, Layer::Domain(_))).collect();
        let mut stuck: Vec<Layer> = Vec::new();
        for pick in guests.iter().filter(|_| !running.is_empty()) {
            let guest = &running[pick.index(running.len())];
            host.set(|world| {
                let domain = world.domains.get_mut(guest.name()).unwrap();
                (domain.hears, domain.survives_destroy) = (Hears::Nothing, true);
            });
            stuck.push(guest.clone());
        }
        for pick in &volumes {
            let volume = &case.config.volumes[pick.index(case.config.volumes.len())];
            let shell = User::Process {
                pid: 42,
                comm: "bash".to_owned(),
                path: format!("/srv/{}", volume.name).into(),
                how: "working directory",
                machine: None,
            };
            host.set(|world| world.users.entry(volume.name.clone()).or_default().push(shell));
            stuck.extend(required(&case, &Layer::Pool(volume.name.replace('v', "p").as_str().into())));
        }
        let stays = closure(&case, stuck);
        let report = down(&case, &host);
        for (layer, outcome) in &report.summary.ended {
            prop_assert_eq!(outcome.is_bad(), stays.contains(layer), "{}: {:?}", layer, outcome);
            if let Outcome::Failed(words) | Outcome::Skipped(words) = outcome {
                prop_assert!(!words.is_empty());
            }
        }
        prop_assert_eq!(up_now(&case, &host), stays);
        host.assert_lawful();
        // They go by themselves in the end, and the next way down completes it.
        host.set(|world| {
            world.users.clear();
            for domain in world.domains.values_mut() {
                (domain.hears, domain.survives_destroy) = (Hears::Button(1), false);
            }
        });
        prop_assert!(down(&case, &host).summary.is_good());
        prop_assert!(up_now(&case, &host).is_empty());
        host.assert_lawful();
    }

    #[test]
    fn whatever_fails_on_a_way_the_next_one_completes_it(case in case(10), of_up in picks(), of_down in picks()) {
        let whole = host_of(&case);
        let before = whole.shape();
        up(&case, &whole);
        let calls_up = whole.log();
        let shape_up = whole.shape();
        down(&case, &whole);
        let calls_down = whole.log().split_off(calls_up.len());

        let host = host_of(&case);
        let_fail(&host, &calls_up, &of_up);
        up(&case, &host);
        host.assert_lawful();
        host.set(World::clear_faults);
        prop_assert!(up(&case, &host).summary.is_good());
        prop_assert_eq!(host.shape(), shape_up);

        if !calls_down.is_empty() {
            let_fail(&host, &calls_down, &of_down);
        }
        down(&case, &host);
        host.assert_lawful();
        host.set(World::clear_faults);
        prop_assert!(down(&case, &host).summary.is_good());
        prop_assert_eq!(host.shape(), before);
        host.assert_lawful();
    }
}
