//! A run that is cancelled at any call, and then a whole one, end where one whole run ends.

use virt_unlock::config::Config;
use virt_unlock::event::Outcome;

use crate::fake_host::FakeHost;
use crate::fake_host::run::{Run, config, edit, mount, table};

/// One of everything.
fn host() -> (FakeHost, Config) {
    let host = FakeHost::new();
    host.volume("raw", "shared").volume("files", "shared").volume("inner", "i");
    host.domain("first", &["raw"], false)
        .domain("second", &["files"], true)
        .domain("third", &["inner", "raw"], false);
    let mut config = config(&["raw", "files", "inner"]);
    mount(&mut config, "files");
    edit(&mut config, "files").pools = vec!["images".to_owned()];
    edit(&mut config, "inner").after = vec!["files".to_owned()];
    for name in ["raw", "files"] {
        edit(&mut config, name).passphrase_group = Some("office".to_owned());
    }
    table(&mut config, "second").after = vec!["first".to_owned()];
    host.set(|world| {
        world
            .pools
            .insert("images".to_owned(), virt_unlock::facts::PoolState::Inactive);
    });
    (host, config)
}

fn cancel_at(host: &FakeHost, run: &Run<'_>, call: usize, after: bool) {
    host.set(|world| {
        world.calls = 0;
        world.cancel_at = Some((call, after, run.cancel.clone()));
    });
}

/// Interrupts `attempt` at each of its calls in turn, before and after the call; returns how many points there were.
fn interrupt_everywhere(prepare: impl Fn(&FakeHost, &Config), attempt: impl Fn(&Run<'_>), goal: &str) -> usize {
    let mut points = 0;
    loop {
        let mut reached = false;
        for after in [false, true] {
            let (host, config) = host();
            prepare(&host, &config);
            let run = Run::new(&host, &config);
            cancel_at(&host, &run, points, after);
            attempt(&run);
            reached |= host.look(|world| world.calls > points);
            host.set(|world| world.cancel_at = None);
            attempt(&Run::new(&host, &config));
            assert_eq!(
                host.shape(),
                goal,
                "cancelled at call {points}, after it: {after}\n{}",
                host.log().join("\n")
            );
            host.assert_lawful();
        }
        if !reached {
            return points;
        }
        points += 1;
    }
}

#[test]
fn an_interrupted_up_and_another_are_one_up() {
    let (whole, settings) = host();
    Run::new(&whole, &settings).up().assert_good();
    let attempt = |run: &Run<'_>| {
        let report = run.up();
        assert!(report.summary.is_good() || run.cancel.is_raised(), "{report:#?}");
    };
    let points = interrupt_everywhere(|_, _| {}, attempt, &whole.shape());
    assert!(points > 10, "only {points} calls");
}

#[test]
fn an_interrupted_down_and_another_are_one_down() {
    let (fresh, _) = host();
    let up = |host: &FakeHost, config: &Config| {
        Run::new(host, config).up().assert_good();
    };
    let attempt = |run: &Run<'_>| {
        run.down();
    };
    let points = interrupt_everywhere(up, attempt, &fresh.shape());
    assert!(points > 10, "only {points} calls");
}

#[test]
fn an_interrupted_up_can_be_taken_down() {
    let (fresh, settings) = host();
    let calls = {
        let (host, _) = host();
        Run::new(&host, &settings).up().assert_good();
        host.look(|world| world.calls)
    };
    for call in 0..calls {
        let (host, config) = host();
        let run = Run::new(&host, &config);
        cancel_at(&host, &run, call, true);
        run.up();
        host.set(|world| world.cancel_at = None);
        Run::new(&host, &config).down().assert_good();
        // A pool that was started and whose volume is closed again is stopped with it.
        assert_eq!(host.shape(), fresh.shape(), "cancelled at call {call}");
        host.assert_lawful();
    }
}

/// libvirt goes on with a start that nobody waits for any more. Who comes next (the way down) must not see the guest as off, and so
/// not stop it.
#[test]
fn a_start_that_is_cancelled_in_the_middle_is_seen_through() {
    let (host, config) = (FakeHost::new(), config(&["raw"]));
    host.volume("raw", "r").domain("web", &["raw"], false).hold("start web");
    let run = Run::new(&host, &config);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        host.wait_for_call("start web", 1);
        run.cancel.raise();
        host.wait_for_call("state web", 1);
        assert!(!up.is_finished());
        host.release("start web");
        assert_eq!(up.join().unwrap().domain("web"), &Outcome::Cancelled);
    });
    assert!(host.state_of("web").is_active());
    Run::new(&host, &config).down().assert_good();
    assert!(!host.state_of("web").is_active());
    host.assert_lawful();
}

#[test]
fn nothing_begins_once_it_is_cancelled() {
    let (host, config) = host();
    let run = Run::new(&host, &config);
    run.cancel.raise();
    let report = run.up();
    assert!(
        report.summary.ended.iter().all(|(_, outcome)| *outcome == Outcome::Cancelled),
        "{report:#?}"
    );
    assert!(host.log().is_empty());
}
