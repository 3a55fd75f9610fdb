//! All figures of a bench: kept as JSON, shown as a table.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{contender::Contender, run::Run};

/// What is compared, by the words of the table.
type Figure = (&'static str, fn(&Run) -> f64);

const FIGURES: [Figure; 5] = [
    ("power-on to the question", |run| run.question),
    ("power-on to the last volume open", |run| run.last_open),
    ("power-on to the last guest up", |run| run.last_guest),
    ("question to the last volume open", Run::unlock),
    ("`poweroff` to off", |run| run.power_off),
];

/// The runs so far.
pub struct Figures {
    runs: BTreeMap<(usize, Contender), Vec<Run>>,
    machine: Value,
}

impl Figures {
    /// None yet.
    pub fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
            machine: machine(),
        }
    }

    /// One more.
    pub fn add(&mut self, contender: Contender, count: usize, run: Run) {
        self.runs.entry((count, contender)).or_default().push(run);
    }

    fn counts(&self) -> Vec<usize> {
        let mut counts: Vec<usize> = self.runs.keys().map(|(count, _)| *count).collect();
        counts.dedup();
        counts
    }

    fn contenders(&self) -> Vec<Contender> {
        let mut contenders: Vec<Contender> = self.runs.keys().map(|(_, contender)| *contender).collect();
        contenders.sort_unstable();
        contenders.dedup();
        contenders
    }

    fn median(&self, count: usize, contender: Contender, figure: fn(&Run) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.runs.get(&(count, contender))?.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        // Of an even number the mean of the two in the middle.
        let (low, high) = (all.get((all.len() - 1) / 2)?, all.get(all.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }

    fn ratio(&self, count: usize, contender: Contender, figure: fn(&Run) -> f64) -> Option<f64> {
        let against = self.median(count, Contender::Crypttab, figure)?;
        Some(self.median(count, contender, figure)? / against)
    }

    /// Puts all of them into a file, so that a bench that is interrupted has left what it had.
    pub fn write(&self, folder: &Path) {
        let mut medians = Vec::new();
        for count in self.counts() {
            for (words, figure) in FIGURES {
                for contender in self.contenders() {
                    medians.push(json!({
                        "guests": count, "figure": words, "with": contender.name(),
                        "seconds": self.median(count, contender, figure), "ratio": self.ratio(count, contender, figure),
                    }));
                }
            }
        }
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|((count, contender), runs)| json!({ "guests": count, "with": contender.name(), "runs": runs }))
            .collect();
        let all = json!({ "version": 1, "machine": self.machine, "medians": medians, "measured": runs });
        let path = folder.join("figures.json");
        if let Err(error) = fs::write(&path, format!("{all:#}\n")) {
            eprintln!("{}: {error}", path.display());
        }
    }

    /// The medians, in Markdown.
    pub fn table(&self) -> String {
        let mut out = format!("{}\n\n| guests | |", self.machine["words"].as_str().unwrap_or_default());
        let contenders = self.contenders();
        let others = |contender: &&Contender| **contender != Contender::Crypttab;
        for contender in &contenders {
            out += &format!(" {} |", contender.name());
        }
        for contender in contenders.iter().filter(others) {
            out += &format!(" ratio {} |", contender.name());
        }
        let columns = 2 + contenders.len() + contenders.iter().filter(others).count();
        out += &format!("\n|{}\n", "---|".repeat(columns));
        for count in self.counts() {
            for (words, figure) in FIGURES {
                out += &format!("| {count} | {words} |");
                for contender in &contenders {
                    out += &cell(self.median(count, *contender, figure), 1, " s");
                }
                for contender in contenders.iter().filter(others) {
                    out += &cell(self.ratio(count, *contender, figure), 2, "");
                }
                out.push('\n');
            }
        }
        for ((count, contender), runs) in &self.runs {
            let Some(run) = runs.last() else { continue };
            let busy = self.median(*count, *contender, |run| run.busy).unwrap_or_default();
            out += &format!(
                "\n{count} guests, {}: {busy:.0} s of {} processors until the last guest was up, {} keys derived",
                contender.name(),
                run.processors,
                run.derivations
            );
            if let Some(own) = self
                .median(*count, *contender, |run| run.own.unwrap_or(0.0))
                .filter(|_| run.own.is_some())
            {
                out += &format!(", {own:.2} s with virt-unlock alone");
            }
            for (name, unit) in &run.units {
                if let (Some(mib), Some(cpu)) = (unit.peak_memory_mib, unit.cpu) {
                    out += &format!(", {name} {mib} MiB and {cpu:.1} s of the processors");
                }
            }
        }
        out + "\n"
    }
}

fn cell(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or_else(|| " |".to_owned(), |value| format!(" {value:.digits$}{unit} |"))
}

fn machine() -> Value {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = text("/proc/meminfo");
    let memory: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let load = text("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let accelerator = fs::read_to_string(crate::host::image_folder().join("accelerator")).unwrap_or_default();
    let accelerator = accelerator.trim();
    let date = Command::new("date").args(["-u", "+%F"]).output();
    let date = date.map_or_else(
        |_| String::new(),
        |date| String::from_utf8_lossy(&date.stdout).trim().to_owned(),
    );
    let words = format!(
        "{date}, {cores} cores of {model}, {} GiB; the host in qemu ({accelerator}) with 2 processors; load {load} when it began",
        memory >> 20
    );
    json!({ "words": words, "date": date, "model": model, "cores": cores, "accelerator": accelerator, "load": load })
}
