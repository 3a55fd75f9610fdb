//! `make bench`: the same host with the same guests on the same encrypted volumes, once as an administrator sets it up with crypttab,
//! libvirt's autostart and libvirt-guests, and once with virt-unlock. The passphrase is typed as soon as it is asked for.
//!
//! `BENCH_N="4 16"`: how many guests; `REPEAT=3`: how often, for the median; `BENCH_WITH="crypttab virt-unlock master"`: which.
//! It prints a table in Markdown, and leaves below target/bench all figures as JSON and a timeline of each way up.

#[path = "../host/mod.rs"]
mod host;

mod contender;
mod disk;
mod figures;
mod run;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use contender::Contender;
use disk::Disk;
use figures::Figures;

/// The passphrase of every volume.
const PASSPHRASE: &str = "correct horse";

/// The names of guests and volumes: v01, v02, …
fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("v{number:02}")).collect()
}

/// Where everything goes.
fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

/// The words of a variable of the environment, or of what stands for it.
fn words(variable: &str, otherwise: &str) -> Vec<String> {
    let text = env::var(variable).ok().filter(|text| !text.trim().is_empty());
    let text = text.unwrap_or_else(|| otherwise.to_owned());
    text.split_whitespace().map(str::to_owned).collect()
}

fn numbers(variable: &str, otherwise: &str) -> Vec<usize> {
    let number = |word: String| word.parse().unwrap_or_else(|_| panic!("{variable}: {word:?} is no number"));
    words(variable, otherwise).into_iter().map(number).collect()
}

/// Whether the program that is installed knows of masters.
fn has_masters(installed: &Path) -> bool {
    let asked = Command::new(installed.join("usr/bin/virt-unlock"))
        .args(["master", "--help"])
        .output();
    asked.is_ok_and(|asked| asked.status.success())
}

fn main() -> ExitCode {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/stage");
    if !installed.join("usr/bin/virt-unlock").exists() {
        eprintln!("Nothing is installed below {}: use make bench", installed.display());
        return ExitCode::from(2);
    }
    let counts = numbers("BENCH_N", "4 16");
    let repeat = numbers("REPEAT", "3").into_iter().next().unwrap_or(3);
    let all = if has_masters(&installed) {
        "crypttab virt-unlock master"
    } else {
        "crypttab virt-unlock"
    };
    let with: Vec<Contender> = words("BENCH_WITH", all)
        .iter()
        .map(|word| Contender::by_name(word).unwrap_or_else(|| panic!("BENCH_WITH: there is no {word:?}")))
        .collect();
    let most = counts.iter().copied().max().unwrap_or(1);
    let plain = Disk::get(most, &installed);
    let enrolled = with.contains(&Contender::Master).then(|| plain.with_master(most, &installed));
    let mut figures = Figures::new();
    // One after the other in each round, so that what the machine does besides falls on all of them alike.
    for round in 1..=repeat {
        for count in &counts {
            for contender in &with {
                let name = format!("bench-{}-{count}-{round}", contender.name());
                eprintln!("{name} ...");
                let disk = enrolled
                    .as_ref()
                    .filter(|_| *contender == Contender::Master)
                    .unwrap_or(&plain);
                let run = run::run(&name, *contender, *count, disk, &installed);
                eprintln!("{name}: {}", run.in_words());
                figures.add(*contender, *count, run);
                figures.write(&folder());
            }
        }
    }
    println!("\n{}", figures.table());
    println!("All figures: {}", folder().join("figures.json").display());
    ExitCode::SUCCESS
}
