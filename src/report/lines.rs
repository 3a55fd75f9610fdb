//! Plain lines: for the journal, for a pipe, for a person who wants them.

use std::io::Write;

use super::journal::Journal;
use super::spans::Spans;
use super::{Board, Colour, Sink, Style, Verbosity};
use crate::event::{Event, Happened, Outcome};
use crate::text::plain;

/// What stands before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nothing.
    None,
    /// The priority, as sd-daemon(3) has it: `<4>`.
    Priority,
}

/// Writes one line for each event that is worth one.
pub(super) struct Lines {
    verbosity: Verbosity,
    prefix: Prefix,
    /// Where a line goes with fields; without it, or where it fails, to the standard streams.
    journal: Option<Journal>,
    spans: Spans,
}

impl Lines {
    pub(super) fn new(verbosity: Verbosity, prefix: Prefix, journal: Option<Journal>) -> Self {
        Self {
            verbosity,
            prefix,
            journal,
            spans: Spans::default(),
        }
    }
}

/// An event as a line.
pub(super) struct Line {
    /// `volume mail: opened`
    pub text: String,
    /// What it means.
    pub style: Style,
    /// syslog(3)
    pub priority: u8,
    /// How much must be wanted for it to be said.
    pub needs: Verbosity,
}

impl Line {
    pub(super) fn of(event: &Event) -> Self {
        let (style, priority, needs, words) = match &event.happened {
            Happened::Working(words) => (Style::Dim, 7, Verbosity::Verbose, words.clone()),
            Happened::Begun(phase) => (Style::Dim, 7, Verbosity::Verbose, format!("{}: begun", phase.word())),
            Happened::Over(phase) => (Style::Dim, 7, Verbosity::Verbose, format!("{}: over", phase.word())),
            Happened::Note(words) => (Style::Dim, 6, Verbosity::Normal, words.clone()),
            Happened::Waiting(words) => (Style::Waiting, 6, Verbosity::Normal, words.clone()),
            Happened::Asking(words) => (Style::Waiting, 6, Verbosity::Normal, format!("asks: {words}")),
            Happened::Warning(words) => (Style::Warning, 4, Verbosity::Quiet, format!("warning: {words}")),
            Happened::Ended(outcome) => {
                let (style, priority, needs) = match outcome {
                    Outcome::Done(_) => (Style::Good, 5, Verbosity::Normal),
                    Outcome::Already(_) | Outcome::Left(_) => (Style::Dim, 7, Verbosity::Verbose),
                    Outcome::Skipped(_) => (Style::Warning, 4, Verbosity::Quiet),
                    Outcome::Failed(_) => (Style::Bad, 3, Verbosity::Quiet),
                    Outcome::Cancelled => (Style::Dim, 6, Verbosity::Normal),
                };
                (style, priority, needs, outcome.to_string())
            }
        };
        let text = match &event.layer {
            Some(layer) => plain(&format!("{layer}: {words}")),
            None => plain(&words),
        };
        Self {
            text,
            style,
            priority,
            needs,
        }
    }

    /// Results belong to standard output, everything else beside it.
    pub(super) fn write(&self, event: &Event, prefix: Prefix) {
        let is_result = matches!(&event.happened, Happened::Ended(outcome) if !outcome.is_bad());
        let colour = if is_result { Colour::on_stdout() } else { Colour::on_stderr() };
        let text = match prefix {
            Prefix::None => format!("{}\n", colour.paint(self.style, &self.text)),
            Prefix::Priority => format!("<{}>{}\n", self.priority, self.text),
        };
        // Nobody to tell that nobody listens.
        let _ = if is_result {
            std::io::stdout().lock().write_all(text.as_bytes())
        } else {
            std::io::stderr().lock().write_all(text.as_bytes())
        };
    }
}

impl Sink for Lines {
    fn show(&mut self, event: &Event, _board: &Board) {
        let line = Line::of(event);
        let spans = match &event.happened {
            Happened::Ended(_) => self.spans.take(event),
            _ => Vec::new(),
        };
        if self.verbosity < line.needs {
            return;
        }
        if !self
            .journal
            .as_ref()
            .is_some_and(|journal| journal.tell(&line, event, &spans))
        {
            line.write(event, self.prefix);
        }
    }

    fn clock(&mut self, event: &Event) {
        if self.journal.is_some() {
            self.spans.note(event);
        }
    }
}
