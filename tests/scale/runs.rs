//! Whole runs of a large host in memory.

use std::path::PathBuf;
use std::time::Duration;

use virt_unlock::cancel;
use virt_unlock::config::{self, Config};

use crate::fake_host::FakeHost;
use crate::fake_host::run::Run;
use crate::hosts::{Shape, text};

const LIMITS: (Duration, Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60), Duration::from_secs(60));

fn host(shape: Shape, size: usize) -> (FakeHost, Config) {
    let config = config::parse(&[(PathBuf::from("config.toml"), text(shape, size))]).unwrap();
    let host = FakeHost::new();
    for place in 0..size {
        let name = format!("v{place}");
        host.volume(&name, &name)
            .domain(&format!("d{place}"), &[&name], shape != Shape::Raw);
    }
    (host, config)
}

/// A thread for each step that waits, and descriptors for each wait: they must suffice, and what is asked of the machine must not
/// grow faster than the host.
#[test]
fn a_host_with_500_volumes_and_500_guests_comes_up_and_goes_down() {
    cancel::allow_many_waits();
    let calls = [50, 500].map(|size| {
        let (host, config) = host(Shape::Raw, size);
        let before = host.shape();
        // So many threads may keep each other waiting for longer than a test's own limits are.
        let run = || Run::new(&host, &config).pace(|pace| (pace.busy_limit, pace.destroy_limit, pace.late_volume_limit) = LIMITS);
        run().up().assert_good();
        let up = host.look(|world| world.calls);
        run().down().assert_good();
        assert_eq!(host.shape(), before);
        host.assert_lawful();
        (up, host.look(|world| world.calls) - up)
    });
    assert!(calls[1].0 <= 10 * calls[0].0, "calls on the way up: {calls:?}");
    assert!(calls[1].1 <= 10 * calls[0].1 * 2, "calls on the way down: {calls:?}");
}
