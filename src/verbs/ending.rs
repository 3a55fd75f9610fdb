//! What a way down came to, counted: a line for the journal, and a note for `virt-unlock status` after the next boot. What a host
//! that went off without its way down has left is the note of its way up. Words only: nothing goes wrong when a note is old or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::notes::FOLDER;
use crate::event::{Event, Events, Happened, Kind};
use crate::graph::Layer;
use crate::private_file;
use crate::text::{self, plain};

/// The kernel's own name for this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// More names than these say nothing more.
const NAMED: usize = 8;

/// Which of them is through: each has its own unit, and each its own note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// The volumes.
    Volumes,
    /// The guests.
    Guests,
}

/// Counts what a way down does.
#[derive(Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    begun: BTreeMap<Layer, Instant>,
    closed: usize,
    left_open: BTreeSet<String>,
    shut_down: usize,
    saved: usize,
    destroyed: Vec<String>,
    left_running: BTreeSet<String>,
}

/// What it came to for guests or for volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    words: String,
    /// Nobody's plug was pulled, and nothing was left.
    is_clean: bool,
}

impl Tally {
    /// Events that are counted here and then go where they went.
    pub fn count(&self, events: &Events) -> Events {
        let (counted, next) = (Arc::clone(&self.0), events.clone());
        Events::new(move |event| {
            counted.lock().unwrap_or_else(PoisonError::into_inner).take_in(event);
            next.pass(event);
        })
    }

    /// The end of the way down of this half: a line in the journal where anything was done, and the note.
    pub fn tell(&self, half: Half, events: &Events) {
        let words = self.words(half);
        if let Some(Words { words, is_clean }) = &words {
            let words = format!("way down: {words}");
            let happened = if *is_clean {
                Happened::Note(words)
            } else {
                Happened::Warning(words)
            };
            events.tell(None, Kind::WayDown, happened);
        }
        note_down(Path::new(FOLDER), &this_boot(), half, words.map(|words| words.words), now());
    }

    /// The same without a line: a person has read it all at the terminal.
    pub fn note(&self, half: Half) {
        let words = self.words(half).map(|words| words.words);
        note_down(Path::new(FOLDER), &this_boot(), half, words, now());
    }

    fn words(&self, half: Half) -> Option<Words> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match half {
            Half::Volumes => counted.of_volumes(),
            Half::Guests => counted.of_guests(),
        }
    }
}

impl Counted {
    fn take_in(&mut self, event: &Event) {
        let Some(layer) = &event.layer else { return };
        let begun = *self.begun.entry(layer.clone()).or_insert_with(Instant::now);
        if !matches!(event.happened, Happened::Ended(_)) {
            return;
        }
        let name = plain(layer.name());
        match event.kind {
            Some(Kind::VolumeClosed) => self.closed += 1,
            Some(Kind::VolumeStaysOpen) => drop(self.left_open.insert(name)),
            Some(Kind::GuestShutDown) => self.shut_down += 1,
            Some(Kind::GuestSaved) => self.saved += 1,
            Some(Kind::GuestDestroyed) => {
                let took = Duration::from_secs_f64(begun.elapsed().as_secs_f64().round());
                self.destroyed.push(format!("{name} after {}", text::duration(took)));
            }
            Some(Kind::GuestStillRuns) => drop(self.left_running.insert(name)),
            _ => {}
        }
    }

    fn of_volumes(&self) -> Option<Words> {
        let parts = [
            some("volume", "closed", self.closed, &[]),
            some("volume", "left open", self.left_open.len(), &in_order(&self.left_open)),
        ];
        words(&parts, self.left_open.is_empty())
    }

    fn of_guests(&self) -> Option<Words> {
        let parts = [
            some("guest", "shut down", self.shut_down, &[]),
            some("guest", "saved", self.saved, &[]),
            some("guest", "destroyed", self.destroyed.len(), &self.destroyed),
            some(
                "guest",
                "left running",
                self.left_running.len(),
                &in_order(&self.left_running),
            ),
        ];
        words(&parts, self.destroyed.is_empty() && self.left_running.is_empty())
    }
}

fn in_order(names: &BTreeSet<String>) -> Vec<String> {
    names.iter().cloned().collect()
}

/// `2 guests destroyed (web after 3min, mail after 1min)`
fn some(what: &str, done: &str, count: usize, names: &[String]) -> String {
    if count == 0 {
        return String::new();
    }
    let mut words = format!("{count} {what}{} {done}", if count == 1 { "" } else { "s" });
    if !names.is_empty() {
        let more = match names.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        words.push_str(&format!(" ({}{more})", names[..names.len().min(NAMED)].join(", ")));
    }
    words
}

fn words(parts: &[String], is_clean: bool) -> Option<Words> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| Words {
        words: parts.join(", "),
        is_clean,
    })
}

/// A way up whose volumes are open by their events: from the first one on, a host that goes off has to go down in good order.
/// `is_up`: one is open already, by the initramfs or by hand.
pub(super) fn noting_up(events: &Events, is_up: bool) -> Events {
    if is_up {
        note_up(Path::new(FOLDER), &this_boot());
    }
    let next = events.clone();
    Events::new(move |event| {
        if event.kind == Some(Kind::VolumeOpen) {
            note_up(Path::new(FOLDER), &this_boot());
        }
        next.pass(event);
    })
}

/// How the host went off before this boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LastShutdown {
    /// Whether the way down came to its end, whatever it left.
    pub completed: bool,
    /// When it did, as RFC 3339 has it.
    pub at: Option<String>,
    /// What it came to.
    pub words: Option<String>,
}

/// As far as the notes say it, and this person may read them.
pub(super) fn last_shutdown() -> Option<LastShutdown> {
    last(Path::new(FOLDER), &this_boot())
}

fn last(folder: &Path, boot: &str) -> Option<LastShutdown> {
    let before = read(folder, Half::Volumes).into_iter().find(|stay| stay.boot != boot)?;
    let Some((at, volumes)) = before.end else {
        return Some(LastShutdown {
            completed: false,
            at: None,
            words: None,
        });
    };
    let guests = read(folder, Half::Guests).into_iter().find(|stay| stay.boot == before.boot);
    let guests = guests.and_then(|stay| stay.end).map(|(_, words)| words);
    let words: Vec<String> = guests.into_iter().chain([volumes]).collect();
    Some(LastShutdown {
        completed: true,
        at: Some(text::timestamp(at)),
        words: Some(words.join(", ")),
    })
}

/// One boot in a note, the newest first: `BOOT SECONDS WORDS`, or `BOOT` alone where it is up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stay {
    boot: String,
    end: Option<(u64, String)>,
}

fn file(half: Half) -> &'static str {
    match half {
        Half::Volumes => "last-down-volumes",
        Half::Guests => "last-down-guests",
    }
}

fn read(folder: &Path, half: Half) -> Vec<Stay> {
    let text = fs::read_to_string(folder.join(file(half))).unwrap_or_default();
    let stay = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let boot = fields.next().filter(|boot| !boot.is_empty())?.to_owned();
        let end = match (fields.next(), fields.next()) {
            (Some(at), Some(words)) => Some((at.parse().ok()?, plain(words))),
            _ => None,
        };
        Some(Stay { boot, end })
    };
    text.lines().filter_map(stay).collect()
}

/// Writes down how this boot stands; of the others the last one is kept.
fn write(folder: &Path, half: Half, now: Option<&Stay>, mut others: Vec<Stay>) {
    others.truncate(1);
    let line = |stay: &Stay| match &stay.end {
        Some((at, words)) => format!("{} {at} {words}\n", stay.boot),
        None => format!("{}\n", stay.boot),
    };
    let text: String = now.into_iter().chain(&others).map(line).collect();
    // With the names of guests, which not everybody may know; and the plug may be pulled at any time, and then this is what is to be
    // known. A host with a read-only /var does not know how it went off.
    let _ = private_file::replace_lasting(&folder.join(file(half)), text.as_bytes());
}

fn split(folder: &Path, half: Half, boot: &str) -> (Option<Stay>, Vec<Stay>) {
    let (mut this, others): (Vec<Stay>, Vec<Stay>) = read(folder, half).into_iter().partition(|stay| stay.boot == boot);
    (this.pop(), others)
}

fn note_up(folder: &Path, boot: &str) {
    let (this, others) = split(folder, Half::Volumes, boot);
    let up = Some(Stay {
        boot: boot.to_owned(),
        end: None,
    });
    if this == up {
        return;
    }
    // A way down of this boot was not the last one.
    if let (Some(_), others) = split(folder, Half::Guests, boot) {
        write(folder, Half::Guests, None, others);
    }
    write(folder, Half::Volumes, up.as_ref(), others);
}

/// `words`: what this way down came to; `None`: it found nothing to do.
fn note_down(folder: &Path, boot: &str, half: Half, words: Option<String>, at: u64) {
    let (this, others) = split(folder, half, boot);
    let words = match (words, this) {
        (Some(words), _) => words,
        // Up, and nothing to do: one by one they were taken down before.
        (None, Some(Stay { end: None, .. })) => "nothing was open any more".to_owned(),
        (None, _) => return,
    };
    let now = Stay {
        boot: boot.to_owned(),
        end: Some((at, words)),
    };
    write(folder, half, Some(&now), others);
}

fn this_boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Outcome;

    fn counted(ends: &[(Layer, Kind)]) -> Tally {
        let tally = Tally::default();
        let events = tally.count(&Events::new(|_| ()));
        for (layer, kind) in ends {
            events.say(Some(layer), Happened::Waiting("asked".to_owned()));
            events.tell(Some(layer), *kind, Happened::Ended(Outcome::Done("done".to_owned())));
        }
        tally
    }

    #[test]
    fn what_a_way_down_came_to_is_one_line_for_each_half() {
        let guest = |name: &str| Layer::Domain(name.into());
        let volume = |name: &str| Layer::Volume(name.into());
        let tally = counted(&[
            (guest("a"), Kind::GuestShutDown),
            (guest("b"), Kind::GuestShutDown),
            (guest("web\n"), Kind::GuestDestroyed),
            (guest("db"), Kind::GuestStillRuns),
            (volume("one"), Kind::VolumeClosed),
            // Once, though neither its mount nor itself went.
            (Layer::Mount("two".into()), Kind::VolumeStaysOpen),
            (volume("two"), Kind::VolumeStaysOpen),
        ]);
        let of = |half| tally.words(half).unwrap();
        assert_eq!(
            of(Half::Guests).words,
            "2 guests shut down, 1 guest destroyed (web after 0), 1 guest left running (db)"
        );
        assert_eq!(of(Half::Volumes).words, "1 volume closed, 1 volume left open (two)");
        assert!(!of(Half::Guests).is_clean && !of(Half::Volumes).is_clean);
        assert_eq!(counted(&[]).words(Half::Volumes), None);
        let many: Vec<_> = (0..20)
            .map(|n| (volume(&format!("v{n:02}")), Kind::VolumeStaysOpen))
            .collect();
        let words = counted(&many).words(Half::Volumes).unwrap().words;
        assert!(words.ends_with("v06, v07, and 12 more)"), "{words}");
    }

    #[test]
    fn the_next_boot_knows_how_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("new");
        let down = |boot: &str, half, words: &str| {
            note_down(&at, boot, half, (!words.is_empty()).then(|| words.to_owned()), 1_764_285_699);
        };
        assert_eq!(last(&at, "one"), None);
        // A host that never had anything open: there is nothing to tell.
        down("one", Half::Volumes, "");
        assert_eq!(last(&at, "two"), None);

        note_up(&at, "one");
        assert_eq!(last(&at, "one"), None);
        // Off without a way down.
        let crashed = last(&at, "two").unwrap();
        assert_eq!((crashed.completed, &crashed.words), (false, &None));

        // What the next boot does takes nothing away from what it knows of the one before.
        note_up(&at, "two");
        assert_eq!(last(&at, "two"), Some(crashed));
        down("two", Half::Guests, "3 guests shut down");
        down("two", Half::Volumes, "4 volumes closed");
        // The shutdown's own way down, after the one by hand.
        down("two", Half::Guests, "");
        down("two", Half::Volumes, "");
        let ended = last(&at, "three").unwrap();
        assert_eq!(ended.words.as_deref(), Some("3 guests shut down, 4 volumes closed"));
        assert_eq!((ended.completed, ended.at.as_deref()), (true, Some("2025-11-27T23:21:39Z")));

        // Up once more in that boot, and then off.
        note_up(&at, "two");
        assert!(!last(&at, "three").unwrap().completed);
        // One by one, by their names.
        down("two", Half::Volumes, "");
        assert_eq!(
            last(&at, "three").unwrap().words.as_deref(),
            Some("nothing was open any more")
        );

        // Two boots are kept.
        note_up(&at, "three");
        note_up(&at, "four");
        assert_eq!(fs::read_to_string(at.join("last-down-volumes")).unwrap(), "four\nthree\n");
    }

    #[test]
    fn a_broken_note_is_no_note() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("last-down-volumes"), "\n \nboot when nothing\n\u{1b}[2J").unwrap();
        assert_eq!(read(folder.path(), Half::Volumes).len(), 1);
        assert!(last(folder.path(), "\u{1b}[2J").is_none());
    }
}
