//! How each layer stands, as the events have told it.

use std::time::Instant;

use crate::event::{Event, Happened, Kind, Outcome};
use crate::graph::Layer;

/// The last thing that happened to a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which layer.
    pub layer: Layer,
    /// What.
    pub happened: Happened,
    /// Since when.
    pub since: Instant,
}

/// All layers of which something was heard, in the order in which they were first heard of.
#[derive(Clone, Debug, Default)]
pub struct Board {
    entries: Vec<Entry>,
    /// Layers whose time was cut.
    cut_short: Vec<Layer>,
}

impl Board {
    /// Takes an event in. Notes and warnings change nothing about how a layer stands; that its time is cut is kept beside it.
    pub fn note(&mut self, event: &Event) {
        let Some(layer) = &event.layer else { return };
        if event.kind == Some(Kind::GuestCutShort) {
            self.cut_short.push(layer.clone());
        }
        if matches!(
            event.happened,
            Happened::Note(_) | Happened::Warning(_) | Happened::Begun(_) | Happened::Over(_)
        ) {
            return;
        }
        let entry = Entry {
            layer: layer.clone(),
            happened: event.happened.clone(),
            since: Instant::now(),
        };
        match self.entries.iter_mut().find(|known| &known.layer == layer) {
            // The same wait goes on, in other words or the same: its time does too.
            Some(known) => {
                let same = known.happened == entry.happened;
                let since = if same { known.since } else { entry.since };
                *known = Entry { since, ..entry };
            }
            None => self.entries.push(entry),
        }
    }

    /// Every layer with how it stands.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Layers that are not through, in the order in which they were first heard of.
    pub fn under_way(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(|entry| !matches!(entry.happened, Happened::Ended(_)))
    }

    /// Whether a question is open.
    pub fn is_asking(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.happened, Happened::Asking(_)))
    }

    /// One line: how many of each kind are through, what is waited for, what failed.
    pub fn summary(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for kind in ["volume", "mount", "pool", "secret", "guest"] {
            let of_kind = || {
                self.entries
                    .iter()
                    .filter(|entry| entry.layer.kind() == kind && !is_left(entry))
            };
            let (good, all) = (of_kind().filter(|entry| is_good(entry)).count(), of_kind().count());
            if all > 0 {
                parts.push(format!("{good} of {all} {kind}{}", if all == 1 { "" } else { "s" }));
            }
        }
        let mut words = if parts.is_empty() {
            "nothing to do".to_owned()
        } else {
            format!("{} done", parts.join(", "))
        };
        let list = |chosen: &mut dyn Iterator<Item = String>| chosen.collect::<Vec<_>>().join("; ");
        let asked = list(&mut self.entries.iter().filter_map(|entry| match &entry.happened {
            Happened::Asking(_) => Some(entry.layer.to_string()),
            _ => None,
        }));
        if !asked.is_empty() {
            words.push_str(&format!("; the passphrase is asked for: {asked}"));
        }
        if !self.cut_short.is_empty() {
            let cut = list(&mut self.cut_short.iter().map(Layer::to_string));
            words.push_str(&format!(
                "; stop-deadline is near, and these have less than their stop-timeout: {cut}"
            ));
        }
        let failed = list(&mut self.entries.iter().filter_map(|entry| match &entry.happened {
            Happened::Ended(Outcome::Failed(why)) => Some(format!("{} {why}", entry.layer)),
            _ => None,
        }));
        if !failed.is_empty() {
            words.push_str(&format!("; failed: {failed}"));
        }
        words
    }
}

fn is_good(entry: &Entry) -> bool {
    matches!(&entry.happened, Happened::Ended(outcome) if outcome.is_good())
}

/// Not asked for: it counts for nothing.
fn is_left(entry: &Entry) -> bool {
    matches!(entry.happened, Happened::Ended(Outcome::Left(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(layer: Layer, happened: Happened) -> Event {
        Event {
            layer: Some(layer),
            kind: None,
            happened,
        }
    }

    #[test]
    fn one_line_says_what_is_through_what_is_asked_for_and_what_failed() {
        let mut board = Board::default();
        assert_eq!(board.summary(), "nothing to do");
        let (mail, vm, web) = (
            Layer::Volume("mail".into()),
            Layer::Volume("vm".into()),
            Layer::Domain("web".into()),
        );
        board.note(&event(mail.clone(), Happened::Asking("Passphrase?".into())));
        board.note(&event(vm, Happened::Ended(Outcome::Failed("is gone".into()))));
        board.note(&event(web, Happened::Ended(Outcome::Left("not wanted".into()))));
        assert!(board.is_asking());
        assert_eq!(
            board.summary(),
            "0 of 2 volumes done; the passphrase is asked for: volume mail; failed: volume vm is gone"
        );
        board.note(&event(mail.clone(), Happened::Ended(Outcome::Done("opened".into()))));
        board.note(&event(mail, Happened::Warning("slow disk".into())));
        assert_eq!(board.summary(), "1 of 2 volumes done; failed: volume vm is gone");
    }

    #[test]
    fn one_line_names_whose_time_is_cut() {
        let mut board = Board::default();
        board.note(&Event {
            kind: Some(Kind::GuestCutShort),
            ..event(Layer::Domain("web".into()), Happened::Warning("stop-deadline is near".into()))
        });
        board.note(&event(Layer::Domain("web".into()), Happened::Waiting("asked".into())));
        assert_eq!(
            board.summary(),
            "0 of 1 guest done; stop-deadline is near, and these have less than their stop-timeout: guest web"
        );
    }
}
