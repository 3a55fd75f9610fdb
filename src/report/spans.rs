//! What each layer spends its time with, kept until it is through: the entry of its end in the journal carries it, so that both ends
//! of each stretch are there and no line more.

use std::fmt;

use nix::time::{ClockId, clock_gettime};

use crate::event::{Event, Happened, Phase};
use crate::graph::Layer;

/// More than any layer goes through in good order: one that is asked for without end must not fill the memory, nor its entry.
const KEPT: usize = 64;

/// One stretch, in microseconds of the clock by which the journal stamps its entries too (`CLOCK_MONOTONIC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub phase: Phase,
    pub begin: u64,
    pub end: u64,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.phase.word(), self.begin, self.end)
    }
}

/// Microseconds since the kernel started, those of a sleep left out (`CLOCK_MONOTONIC`, `clock_gettime(2)`).
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// The stretches of all layers that are not through.
#[derive(Default)]
pub(super) struct Spans(Vec<(Layer, Kept)>);

#[derive(Default)]
struct Kept {
    open: Option<(Phase, u64)>,
    closed: Vec<Span>,
}

impl Spans {
    pub(super) fn note(&mut self, event: &Event) {
        self.note_at(event, now());
    }

    fn note_at(&mut self, event: &Event, now: u64) {
        let Some(layer) = &event.layer else { return };
        let place = self.0.iter().position(|(known, _)| known == layer).unwrap_or_else(|| {
            self.0.push((layer.clone(), Kept::default()));
            self.0.len() - 1
        });
        let kept = &mut self.0[place].1;
        kept.close(now);
        if let Happened::Begun(phase) = event.happened {
            kept.open = Some((phase, now));
        }
    }

    /// What was kept of the layer of this event, and is kept no longer.
    pub(super) fn take(&mut self, event: &Event) -> Vec<Span> {
        self.take_at(event, now())
    }

    fn take_at(&mut self, event: &Event, now: u64) -> Vec<Span> {
        let place = self.0.iter().position(|(known, _)| Some(known) == event.layer.as_ref());
        place.map_or_else(Vec::new, |place| {
            let mut kept = self.0.swap_remove(place).1;
            // One that was not said to be over is, with its layer.
            kept.close(now);
            kept.closed
        })
    }
}

impl Kept {
    fn close(&mut self, now: u64) {
        if let Some((phase, begin)) = self.open.take()
            && self.closed.len() < KEPT
        {
            self.closed.push(Span { phase, begin, end: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Outcome;

    fn event(name: &str, happened: Happened) -> Event {
        Event {
            layer: Some(Layer::Volume(name.into())),
            kind: None,
            happened,
        }
    }

    fn ended(name: &str) -> Event {
        event(name, Happened::Ended(Outcome::Cancelled))
    }

    #[test]
    fn each_stretch_has_both_ends_and_belongs_to_its_layer() {
        let mut spans = Spans::default();
        spans.note_at(&event("mail", Happened::Begun(Phase::Header)), 10);
        spans.note_at(&event("vm", Happened::Begun(Phase::Header)), 11);
        spans.note_at(&event("mail", Happened::Over(Phase::Header)), 12);
        spans.note_at(&event("mail", Happened::Begun(Phase::Question)), 20);
        let words = |spans: Vec<Span>| spans.iter().map(Span::to_string).collect::<Vec<_>>();
        // The question was cancelled in the middle, or panicked.
        assert_eq!(words(spans.take_at(&ended("mail"), 30)), ["header 10 12", "question 20 30"]);
        assert_eq!(words(spans.take_at(&ended("mail"), 31)), [""; 0]);
        assert_eq!(words(spans.take_at(&ended("vm"), 32)), ["header 11 32"]);
    }

    #[test]
    fn a_layer_without_end_is_kept_within_bounds() {
        let mut spans = Spans::default();
        for now in 0..1000 {
            spans.note_at(&event("mail", Happened::Begun(Phase::Question)), now);
        }
        assert_eq!(spans.take_at(&ended("mail"), 1000).len(), KEPT);
    }
}
