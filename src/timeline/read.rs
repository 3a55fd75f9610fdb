//! The entries of the journal that tell of a way up, from what `journalctl -o json` writes.

use serde_json::Value;

use super::{Bar, Standing};
use crate::event::Phase;
use crate::report::ids;

/// What one entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When journald got it, in microseconds since the kernel started.
    pub at: u64,
    /// Which layer it is about: "volume mail".
    pub layer: Option<String>,
    /// What the layer spent its time with, where the entry tells its end.
    pub bars: Vec<Bar>,
    /// How the layer stands after it.
    pub standing: Standing,
    /// Everything is down: what comes after it is another way up.
    pub ends_all: bool,
}

/// The entries of these lines, each an object of JSON, that tell something of a way up; in the order of time, whatever that of the
/// lines is. What cannot be read is left out: a line may be cut, and anybody may write to the journal.
pub fn entries(lines: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = lines.lines().filter_map(entry).collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn entry(line: &str) -> Option<Entry> {
    let object: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let id = text("MESSAGE_ID");
    let bars: Vec<Bar> = match object.get("VIRT_UNLOCK_SPAN") {
        // A field that stands more than once is an array.
        Some(Value::Array(spans)) => spans.iter().filter_map(Value::as_str).filter_map(bar).collect(),
        Some(Value::String(span)) => bar(span).into_iter().collect(),
        _ => Vec::new(),
    };
    let asked = id == Some(ids::QUESTION_OPEN);
    let ends_all = matches!(id, Some(ids::ALL_DOWN | ids::NOT_ALL_DOWN));
    if bars.is_empty() && !asked && !ends_all {
        return None;
    }
    let failed = text("PRIORITY").is_some_and(|priority| matches!(priority, "0" | "1" | "2" | "3" | "4"));
    Some(Entry {
        at: text("__MONOTONIC_TIMESTAMP")?.parse().ok()?,
        layer: text("VIRT_UNLOCK_LAYER").map(crate::text::plain),
        bars,
        standing: match (asked, failed) {
            (true, _) => Standing::Asked,
            (false, true) => Standing::Failed,
            (false, false) => Standing::Up,
        },
        ends_all,
    })
}

/// `key 18200000 20300000`
fn bar(span: &str) -> Option<Bar> {
    let mut words = span.split(' ');
    let word = words.next()?;
    let phase = Phase::ALL.into_iter().find(|phase| phase.word() == word)?;
    let (begin, end) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (begin <= end).then_some(Bar { phase, begin, end })
}
