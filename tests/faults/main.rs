//! The table of faults: for each step of both ways and each mishap what becomes of the run, and of the next one.
//!
//! Each cell is a run on the host in memory, and each keeps the promises: nobody cuts off a guest before its time; no filesystem is
//! unmounted under a guest; after a way down that came to its end, what is still open is named; what has nothing to do with it goes
//! on; and the next way up or down completes. What becomes of each cell is in `table.txt` beside this file, made by
//! `BLESS=1 cargo test --test faults`, which is compared here.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests too

mod cells;
#[path = "../fake_host/mod.rs"]
mod fake_host;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use virt_unlock::config::{Config, KeyFile, Ready, Unlock};
use virt_unlock::event::Outcome;
use virt_unlock::facts::{DomainState, MountState, PoolState};
use virt_unlock::graph::Layer;

use cells::{Mishap, STEPS, Step, Way, happening, seen, strike};
use fake_host::run::{Report, Run, config, edit, mount, secret, table};
use fake_host::{FakeHost, Hears, World};

const HEAD: &str = "\
What each mishap does at each step, as seen on the host in memory. `BLESS=1 cargo test --test faults` makes it.

In every cell hold, and are tested: no guest is cut off before its time, no filesystem is unmounted under a guest,
the other volume and its guest have nothing of it, what stays open after a way down is named, and the next way up
and the next way down complete. What hangs is terminated in the end, after the other volume has gone its way.

A cell that names no test of a booted host was not seen on one: there a kernel may have more to say.

";

/// One volume with all layers, and beside it another one that has nothing to do with it. `sealed`: instead of the pool, which comes up
/// at the same time, a secret of a disk that QEMU decrypts.
fn host(sealed: bool) -> (FakeHost, Config) {
    let host = FakeHost::new();
    host.volume("files", "f").volume("mail", "m");
    host.domain("web", &["files"], true).domain("post", &["mail"], false);
    let mut config = config(&["files", "mail"]);
    mount(&mut config, "files");
    if sealed {
        host.encrypted("web", SECRET, "s");
        secret(&mut config, SECRET);
    } else {
        host.set(|world| {
            world.pools.insert("images".to_owned(), PoolState::Inactive);
        });
        edit(&mut config, "files").pools = vec!["images".to_owned()];
    }
    (
        edit(&mut config, "files").device_timeout,
        edit(&mut config, "mail").device_timeout,
    ) = (SHORT, SHORT);
    // One question is open at a time: nobody asks for this one.
    edit(&mut config, "mail").unlock = vec![Unlock::KeyFile(KeyFile::new("/etc/key"))];
    host.set(|world| {
        world.files.insert("/etc/key".into(), b"m".to_vec());
    });
    table(&mut config, "web").ready = Ready::Agent;
    (host, config)
}

/// Over at once.
const SHORT: Duration = Duration::from_millis(20);

/// By its usage.
const SECRET: &str = "disk";

fn layers() -> [Layer; 5] {
    [
        Layer::Volume("files".into()),
        Layer::Mount("files".into()),
        Layer::Pool("images".into()),
        Layer::Secret(SECRET.into()),
        Layer::Domain("web".into()),
    ]
}

/// What is up of the volume.
fn left(host: &FakeHost) -> String {
    let mut up = Vec::new();
    if host.is_open("files") {
        up.push("open");
    }
    if host.mounted("/srv/files") == MountState::Ours {
        up.push("mounted");
    }
    if !host.secrets().is_empty() {
        up.push("secret set");
    }
    if host.state_of("web").is_active() {
        up.push("guest runs");
    }
    if up.is_empty() { "all down".to_owned() } else { up.join(", ") }
}

/// Times and counts are not the same in each run.
fn without_numbers(words: &str) -> String {
    let mut plain = String::new();
    for letter in words.chars() {
        if !letter.is_ascii_digit() {
            plain.push(letter);
        } else if !plain.ends_with('N') {
            plain.push('N');
        }
    }
    plain
}

fn told(report: &Report, way: Way) -> String {
    let mut layers = layers();
    if way != Way::Up {
        layers.reverse();
    }
    let mut words = Vec::new();
    for layer in &layers {
        match report.summary.outcome(layer) {
            Some(Outcome::Failed(why)) => words.push(format!("{layer} failed: {}", without_numbers(why))),
            Some(Outcome::Skipped(_)) => words.push(format!("{layer} skipped")),
            Some(Outcome::Cancelled) => words.push(format!("{layer} cancelled")),
            Some(Outcome::Done(done)) if done.starts_with("destroyed") => words.push(format!("{layer} destroyed")),
            _ => {}
        }
    }
    words.extend(
        report
            .warnings()
            .iter()
            .map(|warning| format!("warning: {}", without_numbers(warning))),
    );
    if words.is_empty() {
        "all done".to_owned()
    } else {
        words.join("; ")
    }
}

struct Cell {
    step: Step,
    mishap: Mishap,
}

impl Cell {
    fn fail(&self, host: &FakeHost, words: &str) -> ! {
        panic!(
            "{:?} {}, {:?}: {words}\n{}",
            self.step.way,
            self.step.name,
            self.mishap,
            host.log().join("\n")
        )
    }

    /// `after`: it comes when the call is done. Gives what became of it; `None`: the call was never done.
    fn run(&self, after: bool) -> Option<String> {
        let (host, config) = host(self.step.is_of_secret());
        let (step, mishap) = (self.step, self.mishap);
        if step.way != Way::Up {
            Run::new(&host, &config).up().assert_good();
        }
        let mut config_of_run = config.clone();
        if mishap == Mishap::LibvirtGone {
            table(&mut config_of_run, "web").ready_timeout = SHORT;
        }
        if step.name == "destroy" {
            host.set(|world| world.domains.get_mut("web").unwrap().hears = Hears::Nothing);
            table(&mut config_of_run, "web").stop_timeout = Some(SHORT);
        }
        let mut run = Run::new(&host, &config_of_run).pace(|pace| {
            pace.order_patience = SHORT;
            if mishap == Mishap::LibvirtGone {
                pace.libvirt_limit = SHORT;
            } else {
                pace.destroy_limit = pace.libvirt_limit;
            }
        });
        if step.way == Way::DownOfVolumes {
            run = run.without_libvirt();
            // The other half has done its part.
            host.set(|world| {
                for domain in world.domains.values_mut() {
                    domain.state = DomainState::ShutOff;
                }
            });
        }
        for fault in happening(step, mishap).unwrap() {
            host.fault(step.call, fault);
        }
        let cancel = run.cancel.clone();
        let happens = Box::new(move |world: &mut World| {
            strike(world, step, mishap);
            if matches!(mishap, Mishap::Terminated | Mishap::Killed) {
                cancel.raise();
            }
            world.dead = mishap == Mishap::Killed;
        });
        host.set(|world| {
            let calls = if after {
                &mut world.right_after
            } else {
                &mut world.right_before
            };
            calls.insert(step.call.to_owned(), happens);
        });
        let report = self.walk(&host, &run);
        let left_now = left(&host);
        self.check(&host, &report);
        let happened = if mishap == Mishap::Killed {
            format!("left: {left_now}")
        } else {
            format!("{}; left: {left_now}", told(&report, step.way))
        };
        let befell = host.look(|world| world.right_after.is_empty() && world.right_before.is_empty());
        self.go_on(&host, &config);
        befell.then_some(happened)
    }

    fn walk(&self, host: &FakeHost, run: &Run<'_>) -> Report {
        let walk = || if self.step.way == Way::Up { run.up() } else { run.down() };
        if self.mishap != Mishap::Hang {
            return walk();
        }
        std::thread::scope(|scope| {
            let walking = scope.spawn(walk);
            host.wait_for_call(self.step.call, 1);
            // It holds nobody else.
            let is_up = self.step.way == Way::Up;
            host.wait_until("the other one goes on", |world| {
                let runs = world.domains["post"].state.is_active();
                world.mappings.contains_key("mail") == is_up && (runs == is_up || self.step.way == Way::DownOfVolumes)
            });
            run.cancel.raise();
            walking.join().unwrap()
        })
    }

    /// The promises of the run itself.
    fn check(&self, host: &FakeHost, report: &Report) {
        host.assert_lawful();
        if self.step.name != "destroy" && host.count("destroy web") + host.count("destroy post") > 0 {
            self.fail(host, "a guest was cut off before its time");
        }
        if self.mishap.ends_the_run() {
            return;
        }
        let bystanders = [Layer::Volume("mail".into()), Layer::Domain("post".into())];
        if self.mishap != Mishap::LibvirtGone
            && bystanders
                .iter()
                .any(|layer| report.summary.outcome(layer).is_some_and(Outcome::is_bad))
        {
            self.fail(host, "the other one has something of it");
        }
        if self.step.way == Way::Up {
            return;
        }
        for volume in ["files", "mail"] {
            let is_named = report.volume(volume).is_bad();
            if host.is_open(volume) != is_named {
                self.fail(host, "what stays open is not named, or what is named is not open");
            }
        }
    }

    /// The mishap is over. The same way again completes, and then the way down does.
    fn go_on(&self, host: &FakeHost, config: &Config) {
        host.set(|world| {
            world.clear_faults();
            world.right_after.clear();
            (world.dead, world.libvirt_away) = (false, 0);
            world.volumes.get_mut("files").unwrap().there = true;
            world.domains.get_mut("web").unwrap().hears = Hears::Button(1);
        });
        if self.step.way == Way::Up {
            let again = Run::new(host, config).up();
            let secret = if self.step.is_of_secret() { "secret set, " } else { "" };
            if !again.summary.is_good() || left(host) != format!("open, mounted, {secret}guest runs") {
                self.fail(host, &format!("the next way up does not complete: {:?}", again.summary));
            }
        }
        let down = Run::new(host, config).down();
        let shape = host.shape();
        if !down.summary.is_good() || shape != self::host(self.step.is_of_secret()).0.shape() {
            self.fail(
                host,
                &format!("the next way down does not complete: {:?}\n{shape}", down.summary),
            );
        }
        host.assert_lawful();
    }
}

fn line(way: Way, step: &str, mishap: &str, happened: &str) -> String {
    let way = match way {
        Way::Up => "up",
        Way::Down => "down",
        Way::DownOfVolumes => "down, volumes",
    };
    format!("{way:<14} {step:<11} {mishap:<13} {happened}\n")
}

/// A cell's lines.
fn what_becomes(step: Step, mishap: Mishap) -> String {
    let cell = Cell { step, mishap };
    let mut happened = cell.run(false).unwrap();
    let has_two_sides = [Mishap::Terminated, Mishap::Killed, Mishap::DeviceGone, Mishap::LibvirtGone].contains(&mishap);
    if has_two_sides && let Some(later) = cell.run(true).filter(|later| *later != happened) {
        let _ = write!(happened, "\n{:40} when it was done: {later}", "");
    }
    if let Some(test) = seen(step, mishap) {
        let _ = write!(happened, "\n{:40} on a booted host: {test}", "");
    }
    happened
}

#[test]
fn every_cell_keeps_the_promises_and_is_as_the_table_says() {
    let mut made = HEAD.to_owned();
    for step in STEPS {
        for mishap in Mishap::ALL {
            let happened = happening(step, mishap).map_or_else(|why| format!("cannot be: {why}"), |_| what_becomes(step, mishap));
            made += &line(step.way, step.name, mishap.word(), &happened);
        }
    }
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/table.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&at, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&at).unwrap_or_default();
    let differs: Vec<String> = made
        .lines()
        .zip(kept.lines().chain(std::iter::repeat("")))
        .filter(|(made, kept)| made != kept)
        .map(|(made, kept)| format!("table: {kept}\n  now: {made}"))
        .collect();
    assert!(
        differs.is_empty() && made.len() == kept.len(),
        "tests/faults/table.txt says something else (BLESS=1 writes it anew):\n{}",
        differs.join("\n")
    );
}

/// The half that knows no libvirt waits for a guest on its volume as long as it may, and then leaves it open and says who has it.
#[test]
fn the_volumes_half_never_takes_a_volume_from_a_guest() {
    for mishap in [Mishap::Hang, Mishap::Terminated] {
        let (host, config) = host(false);
        Run::new(&host, &config).up().assert_good();
        let run = Run::new(&host, &config).without_libvirt();
        let run = if mishap == Mishap::Hang {
            run.deadline(Duration::from_millis(100))
        } else {
            run
        };
        let report = std::thread::scope(|scope| {
            let down = scope.spawn(|| run.down());
            if mishap == Mishap::Terminated {
                host.wait_until("it waits for the guest", |world| world.looks_at_users > 2);
                run.cancel.raise();
            }
            down.join().unwrap()
        });
        assert_eq!(left(&host), "open, mounted, guest runs");
        if mishap == Mishap::Hang {
            let words = fake_host::run::failure(report.mount("files"));
            assert_eq!(words, "is still in use and stays open: waiting for guest web to end");
            assert!(report.volume("mail").is_bad() && report.volume("files").is_bad());
        }
        Run::new(&host, &config).down().assert_good();
        host.assert_lawful();
    }
}

/// A device that is not there, from the beginning of the way up.
#[test]
fn a_device_that_does_not_come_is_said_and_holds_nobody() {
    let (host, config) = host(false);
    host.set(|world| world.volumes.get_mut("files").unwrap().there = false);
    let report = Run::new(&host, &config).up();
    assert!(report.volume("files").is_bad() && report.domain("web").is_bad());
    assert!(host.state_of("post").is_active());
    // Terminated while it waits.
    let mut patient = config.clone();
    edit(&mut patient, "files").device_timeout = Duration::from_secs(60);
    let run = Run::new(&host, &patient);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| run.up());
        run.cancel.raise();
        assert_eq!(up.join().unwrap().volume("files"), &Outcome::Cancelled);
    });
    host.set(|world| world.volumes.get_mut("files").unwrap().there = true);
    Run::new(&host, &config).up().assert_good();
    Run::new(&host, &config).down().assert_good();
    host.assert_lawful();
}
