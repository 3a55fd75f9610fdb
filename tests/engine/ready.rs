//! Guests that others wait for until they are ready.

use std::time::Duration;

use virt_unlock::config::{Config, Ready};
use virt_unlock::event::{Event, Happened, Kind, Outcome};
use virt_unlock::facts::DomainState;
use virt_unlock::graph::Layer;
use virt_unlock::host::HypervisorError;

use crate::fake_host::run::{Report, Run, config, failure, table};
use crate::fake_host::{FakeHost, Fault};

/// `web` comes after `db`, which is ready by this.
fn two(ready: Ready) -> (FakeHost, Config) {
    let (host, mut config) = (FakeHost::new(), config(&["a", "b"]));
    host.volume("a", "a")
        .volume("b", "b")
        .domain("db", &["a"], false)
        .domain("web", &["b"], false);
    table(&mut config, "db").ready = ready;
    table(&mut config, "web").after = vec!["db".to_owned()];
    (host, config)
}

fn port() -> Ready {
    Ready::Tcp {
        host: "10.0.0.2".to_owned(),
        port: 5432,
    }
}

fn no_agent() -> Fault {
    Fault::Libvirt(HypervisorError::NoAgent("not connected".to_owned()))
}

/// What the events say of a guest while it waits.
fn waits(report: &Report, guest: &str) -> Vec<String> {
    let layer = Layer::Domain(guest.into());
    let of = |event: &Event| match &event.happened {
        Happened::Waiting(words) if event.layer.as_ref() == Some(&layer) => Some(words.clone()),
        _ => None,
    };
    report.events.iter().filter_map(of).collect()
}

#[test]
fn who_comes_after_waits_until_the_agent_answers_and_says_so() {
    let (host, config) = two(Ready::Agent);
    host.fault("ping db", no_agent()).fault("ping db", no_agent());
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(host.count("ping db"), 3);
    assert!(host.when_done("ping db") < host.when_begun("start web"));
    assert_eq!(
        waits(&report, "db"),
        ["runs; waiting until its guest agent answers (for 2min at most)"]
    );
    assert_eq!(
        waits(&report, "web"),
        ["waiting for guest db, until its guest agent answers (for 2min at most)"]
    );
    assert!(matches!(report.domain("db"), Outcome::Done(words) if words.starts_with("started; ready after")));
    host.assert_lawful();
}

#[test]
fn who_comes_after_waits_until_the_port_answers() {
    let (host, config) = two(port());
    host.fault("connect 10.0.0.2:5432", Fault::Network("Connection refused".to_owned()));
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(host.count("connect 10.0.0.2:5432"), 2);
    assert!(host.when_done("connect 10.0.0.2:5432") < host.when_begun("start web"));
    assert!(report.says("waiting for guest db, until port 5432 of 10.0.0.2 answers"));
}

#[test]
fn a_delay_is_waited_out_and_has_no_other_limit() {
    let (host, mut config) = two(Ready::Delay(Duration::from_millis(300)));
    table(&mut config, "db").ready_timeout = Duration::from_millis(1);
    let since = std::time::Instant::now();
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(since.elapsed() >= Duration::from_millis(300));
    assert!(report.warnings().is_empty(), "{:?}", report.warnings());
    assert!(report.says("waiting for guest db, until it has run for 300ms"));
    // It runs: the delay is not waited for once more.
    host.set(|world| world.domains.get_mut("web").unwrap().state = DomainState::ShutOff);
    table(&mut config, "db").ready = Ready::Delay(Duration::from_secs(3600));
    Run::new(&host, &config).up().assert_good();
}

#[test]
fn after_the_timeout_what_waits_starts_all_the_same_with_a_warning() {
    let (host, mut config) = two(port());
    table(&mut config, "db").ready_timeout = Duration::ZERO;
    host.fault("connect 10.0.0.2:5432", Fault::Network("Connection refused".to_owned()));
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(
        report.warnings(),
        ["is not ready after 0 (ready-timeout): Connection refused; what waits for it is started all the same"]
    );
    let is_warning = |event: &&Event| matches!(event.happened, Happened::Warning(_));
    let warned: Vec<_> = report.events.iter().filter(is_warning).map(|event| event.kind).collect();
    assert_eq!(warned, [Some(Kind::GuestNotReady)]);
    assert_eq!(host.state_of("web"), DomainState::Running);
}

#[test]
fn an_agent_without_a_channel_is_not_waited_for() {
    let (host, config) = two(Ready::Agent);
    host.set(|world| world.domains.get_mut("db").unwrap().has_agent = false);
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!(host.count("ping db"), 0);
    assert!(report.warnings()[0].starts_with("will not be ready: its XML has no channel"));
    assert_eq!(host.state_of("web"), DomainState::Running);
}

#[test]
fn a_guest_that_ends_before_it_is_ready_has_failed_and_holds_up_nobody() {
    let (host, config) = two(Ready::Agent);
    host.hold("ping db");
    std::thread::scope(|scope| {
        let up = scope.spawn(|| Run::new(&host, &config).up());
        host.wait_for_call("ping db", 1);
        host.set(|world| world.domains.get_mut("db").unwrap().state = DomainState::ShutOff);
        host.release("ping db");
        let report = up.join().unwrap();
        assert!(failure(report.domain("db")).starts_with("was started and has ended before it was ready"));
    });
    assert_eq!(host.state_of("web"), DomainState::Running);
}

#[test]
fn the_wait_can_be_cancelled_and_the_next_run_takes_it_up_again() {
    let (host, config) = two(Ready::Agent);
    host.hold("ping db");
    std::thread::scope(|scope| {
        let run = Run::new(&host, &config);
        let cancel = run.cancel.clone();
        let up = scope.spawn(move || run.up());
        host.wait_for_call("ping db", 1);
        cancel.raise();
        let report = up.join().unwrap();
        assert_eq!(*report.domain("db"), Outcome::Cancelled);
        assert_eq!(*report.domain("web"), Outcome::Cancelled);
    });
    host.release("ping db").fault("ping db", no_agent());
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert_eq!((host.count("start db"), host.count("ping db")), (1, 3));
    assert_eq!(*report.domain("db"), Outcome::Already("is running, and ready".to_owned()));
    assert!(host.when_done("ping db") < host.when_begun("start web"));
    // Where nobody is to be started after it, it is not asked.
    Run::new(&host, &config).up().assert_good();
    assert_eq!(host.count("ping db"), 3);
}
