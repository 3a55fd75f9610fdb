//! What large hosts cost: for ten times the volumes and guests, hardly more than ten times the work and the memory.
//!
//! Work is the processor's time of the thread that does it, so that what else runs meanwhile does not count. Nothing here knows how
//! fast a machine is: three sizes are compared in one run.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests too

#[path = "../fake_host/mod.rs"]
mod fake_host;
mod hosts;
mod memory;
mod runs;

use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use virt_unlock::config;
use virt_unlock::graph;
use virt_unlock::plan::{self, Names};

use hosts::{Shape, text};

const SIZES: [usize; 3] = [50, 500, 5000];
/// What n log n grows by from one size to the next is 16 and then 14; what goes by the square, 100.
const MOST: f64 = 35.0;
/// Memory has no log.
const MOST_MEMORY: f64 = 14.0;
/// Work below this is too short to compare.
const LEAST: Duration = Duration::from_micros(30);

/// The stages of a command on its way to a plan, each with its work and the most memory that it held, in bytes.
struct Cost {
    stage: &'static str,
    time: Duration,
    memory: usize,
}

fn measure<R>(size: usize, stage: &'static str, costs: &mut Vec<Cost>, work: impl Fn() -> R) -> R {
    let mut times: Vec<Duration> = Vec::new();
    let mut most = 0;
    let mut result = None;
    // The largest is long enough to be measured once.
    for _ in 0..if size == SIZES[2] { 1 } else { 3 } {
        let (before, began) = (memory::begin(), clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let done = work();
        let ended = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        most = memory::most_since(before);
        times.push(Duration::from(ended).saturating_sub(began.into()));
        result = Some(done);
    }
    times.sort_unstable();
    costs.push(Cost {
        stage,
        time: times[times.len() / 2],
        memory: most,
    });
    result.unwrap()
}

/// From the configuration's text to the plans of both ways, for a host of this shape.
fn costs(shape: Shape, size: usize) -> Vec<Cost> {
    let mut costs = Vec::new();
    let files = [(PathBuf::from("config.toml"), text(shape, size))];
    let config = measure(size, "configuration", &mut costs, || config::parse(&files).unwrap());
    let facts = hosts::facts(shape, &config);
    let graph = measure(size, "graph", &mut costs, || graph::of(&config, &facts).unwrap());
    let up = measure(size, "plan up", &mut costs, || {
        plan::up(&config, &facts, &graph, &Names::default()).unwrap()
    });
    assert_eq!(up.steps.len(), graph.nodes().len());
    assert!(shape == Shape::Blocked || up.work().count() >= 2 * size);

    let open = hosts::all_up(&config, &facts);
    measure(size, "plan down", &mut costs, || {
        plan::down(&open, &graph, &Names::default()).unwrap()
    });
    let some = Names::new((0..size).step_by(2).map(|place| format!("d{place}")));
    measure(size, "plan up by names", &mut costs, || {
        plan::up(&config, &facts, &graph, &some).unwrap()
    });
    measure(size, "plan of the end of what is named", &mut costs, || {
        plan::stop(&config, &open, &graph, &some, |_| false).unwrap()
    });
    costs
}

#[test]
fn no_cost_on_the_way_to_a_plan_grows_faster_than_the_host_by_much() {
    let mut wrong = Vec::new();
    for shape in Shape::ALL {
        let by_size = SIZES.map(|size| costs(shape, size));
        for (stage, cost) in by_size[2].iter().enumerate() {
            let times = [0, 1, 2].map(|size: usize| by_size[size][stage].time.max(LEAST).as_secs_f64());
            let memories = [0, 1, 2].map(|size: usize| by_size[size][stage].memory);
            let line = format!(
                "{shape:?}, {}: {:.2} ms, {:.2} ms, {:.2} ms; {:?} KiB",
                cost.stage,
                times[0] * 1e3,
                times[1] * 1e3,
                times[2] * 1e3,
                memories.map(|bytes| bytes >> 10),
            );
            println!("{line}");
            #[allow(clippy::cast_precision_loss, reason = "no host has so much memory")]
            let grows_too_fast = times.windows(2).any(|pair| pair[1] / pair[0] > MOST)
                || memories.windows(2).any(|pair| pair[1] as f64 / pair[0] as f64 > MOST_MEMORY);
            if grows_too_fast {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "for {SIZES:?} volumes and guests:\n{}", wrong.join("\n"));
}
