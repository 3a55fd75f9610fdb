//! The last way up as bars over time, drawn from the entries that the units left in the journal. A pure function: entries in, text
//! or a picture out.

mod read;
mod svg;
mod text;

use std::collections::BTreeMap;

pub use read::{Entry, entries};
pub use svg::svg;
pub use text::text;

use crate::event::Phase;

/// Where nothing went on for this long, another way up begins: somebody brings up one thing more, much later.
const PAUSE: u64 = 300_000_000;

/// A stretch of time, in microseconds since the kernel started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it was spent with.
    pub phase: Phase,
    /// When it began.
    pub begin: u64,
    /// When it was over.
    pub end: u64,
}

/// One layer, and what it spent its time with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// "volume mail"
    pub layer: String,
    /// In the order of time; at least one.
    pub bars: Vec<Bar>,
    /// How it stands.
    pub standing: Standing,
}

/// How a layer stands at the end of what is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is up.
    Up,
    /// Its question is open.
    Asked,
    /// It did not come up.
    Failed,
}

/// A way up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// In the order in which they began; at least one.
    pub rows: Vec<Row>,
}

impl Timeline {
    /// The last way up of these entries, which are in the order of time. `now` ends what is still going on. `None`: there is none.
    pub fn last(entries: &[Entry], now: u64) -> Option<Self> {
        let begin = entries.iter().rposition(|entry| entry.ends_all).map_or(0, |place| place + 1);
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        for entry in &entries[begin..] {
            let Some(layer) = &entry.layer else { continue };
            let row = rows.entry(layer).or_insert_with(|| Row {
                layer: layer.clone(),
                bars: Vec::new(),
                standing: Standing::Up,
            });
            row.bars.retain(|bar| bar.end != u64::MAX);
            row.bars.extend(&entry.bars);
            row.standing = entry.standing;
            if entry.standing == Standing::Asked {
                // Its end comes with a later entry, or has not come yet.
                row.bars.push(Bar {
                    phase: Phase::Question,
                    begin: entry.at,
                    end: u64::MAX,
                });
            }
        }
        let mut rows: Vec<Row> = rows.into_values().filter(|row| !row.bars.is_empty()).collect();
        for bar in rows.iter_mut().flat_map(|row| &mut row.bars) {
            bar.end = bar.end.min(now).max(bar.begin);
        }
        let since = last_begin(&rows)?;
        for row in &mut rows {
            row.bars.retain(|bar| bar.begin >= since);
        }
        rows.retain(|row| !row.bars.is_empty());
        rows.sort_by_key(|row| (row.bars[0].begin, row.bars.last().map(|bar| bar.end)));
        Some(Self { rows })
    }

    /// When the first bar begins.
    pub fn begin(&self) -> u64 {
        self.bars().map(|bar| bar.begin).min().unwrap_or(0)
    }

    /// When the last bar ends.
    pub fn end(&self) -> u64 {
        self.bars().map(|bar| bar.end).max().unwrap_or(0)
    }

    /// All bars, row by row.
    pub fn bars(&self) -> impl Iterator<Item = Bar> + '_ {
        self.rows.iter().flat_map(|row| row.bars.iter().copied())
    }

    /// How often a phase was gone through.
    pub fn count(&self, phase: Phase) -> usize {
        self.bars().filter(|bar| bar.phase == phase).count()
    }

    /// From the last answer to the end of the last bar; where nobody was asked, the whole.
    pub fn after_answers(&self) -> u64 {
        self.end() - self.last_answer()
    }

    /// How much of that was spent with nobody else: no person, libcryptsetup, libvirt or filesystem had anything to do for it.
    pub fn own(&self) -> u64 {
        let since = self.last_answer();
        let mut others: Vec<(u64, u64)> = self
            .bars()
            .filter(|bar| bar.phase != Phase::Room)
            .map(|bar| (bar.begin.max(since), bar.end))
            .filter(|(begin, end)| begin < end)
            .collect();
        others.sort_unstable();
        let (mut own, mut reached) = (0, since);
        for (begin, end) in others {
            own += begin.saturating_sub(reached);
            reached = reached.max(end);
        }
        own
    }

    fn last_answer(&self) -> u64 {
        let answered = self.bars().filter(|bar| bar.phase == Phase::Question).map(|bar| bar.end);
        answered.max().unwrap_or_else(|| self.begin())
    }
}

/// Where the last way up begins: after the last pause.
fn last_begin(rows: &[Row]) -> Option<u64> {
    let mut bars: Vec<Bar> = rows.iter().flat_map(|row| row.bars.iter().copied()).collect();
    bars.sort_by_key(|bar| bar.begin);
    let mut since = bars.first()?.begin;
    let mut reached = since;
    for bar in bars {
        if bar.begin > reached.saturating_add(PAUSE) {
            since = bar.begin;
        }
        reached = reached.max(bar.end);
    }
    Some(since)
}

/// Lines on the scale of time, about `most` of them at the most: round seconds, with their words.
fn marks(begin: u64, end: u64, most: u64) -> Vec<(u64, String)> {
    const STEPS: [u64; 12] = [
        100_000,
        200_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        60_000_000,
        120_000_000,
        300_000_000,
        600_000_000,
    ];
    let length = end - begin;
    let fits = STEPS.into_iter().find(|step| length / step <= most.max(1));
    let step = fits.unwrap_or_else(|| (length / most.max(1)).div_ceil(600_000_000) * 600_000_000);
    let first = begin.div_ceil(step) * step;
    (first..=end)
        .step_by(usize::try_from(step).unwrap_or(usize::MAX))
        .map(|at| (at, seconds(at, u32::from(step < 1_000_000))))
        .collect()
}

/// "18.2s"
fn seconds(micros: u64, digits: u32) -> String {
    let unit = 1_000_000 / 10_u64.pow(digits);
    let rounded = (micros + unit / 2) / unit;
    match digits {
        0 => format!("{rounded}s"),
        _ => format!(
            "{}.{:0width$}s",
            rounded / 10_u64.pow(digits),
            rounded % 10_u64.pow(digits),
            width = digits as usize
        ),
    }
}

/// What a phase is called in a legend.
fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Device => "waits for its device",
        Phase::Header => "header is read",
        Phase::Question => "question is open",
        Phase::Room => "waits for processor or memory",
        Phase::Key => "key opens the volume",
        Phase::Mount => "filesystem is mounted",
        Phase::Pool => "pool is started",
        Phase::Definition => "definition is read",
        Phase::Start => "guest is started",
        Phase::Ready => "guest gets ready",
    }
}

/// What was spent with what, in one line.
fn summary(timeline: &Timeline) -> String {
    let keys = timeline.count(Phase::Key);
    let asked = if timeline.count(Phase::Question) == 0 {
        "first step"
    } else {
        "last answer"
    };
    format!(
        "{keys} key{} derived; {} from the {asked} to the end, {} of that with virt-unlock alone",
        if keys == 1 { "" } else { "s" },
        seconds(timeline.after_answers(), 1),
        seconds(timeline.own(), 2),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_few() {
        for (begin, end) in [
            (18_000_000, 33_000_000),
            (0, 1),
            (0, 400_000),
            (7, 90_000_000),
            (0, 90_000_000_000),
        ] {
            let marks = marks(begin, end, 9);
            assert!(marks.len() <= 10, "{marks:?}");
            assert!(marks.iter().all(|(at, _)| (begin..=end).contains(at)), "{marks:?}");
        }
        assert_eq!(marks(18_000_000, 33_000_000, 9)[0], (18_000_000, "18s".to_owned()));
        assert_eq!(seconds(18_249_999, 1), "18.2s");
        assert_eq!(seconds(1_996_000, 2), "2.00s");
    }
}
