//! What happens, shown: to a person at a terminal, as plain lines, to the journal, the service manager and `virt-unlock status`.
//! Everything here only renders events; nothing here changes anything.

mod board;
pub mod ids;
mod journal;
mod lines;
mod live;
mod out;
mod record;
mod service;
mod spans;
mod style;

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

pub use board::{Board, Entry};
pub use journal::remark;
pub use out::{answer, complain};
pub use record::{Record, Remembered};
pub use spans::now;
pub use style::{Colour, Style};

use crate::event::{Event, Events, Happened};
use crate::graph::Layer;
pub use crate::text::plain;

/// How much is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only what is not as it should be (`-q`).
    Quiet,
    /// What was done, what is waited for.
    #[default]
    Normal,
    /// Also each thing that is being done, and what needed nothing (`-v`).
    Verbose,
}

/// Where events are shown.
trait Sink: Send {
    /// Shows one event; the board has it already.
    fn show(&mut self, event: &Event, board: &Board);

    /// Takes note that a stretch of a layer's way began or is over. Nobody is told of that alone.
    fn clock(&mut self, _event: &Event) {}
}

/// Shows events in every place that is meant, and remembers how each layer stands.
#[derive(Clone)]
pub struct Report(Arc<Mutex<Shown>>);

struct Shown {
    board: Board,
    sinks: Vec<Box<dyn Sink>>,
    only: fn(&Layer) -> bool,
}

impl Report {
    /// For a person's command: a live view on a terminal, plain lines elsewhere. `folder`: where `virt-unlock status` looks for
    /// the reason of what is not up.
    pub fn for_person(verbosity: Verbosity, folder: &std::path::Path) -> Self {
        // What comes back to the terminal through a pipe (`| tee`) would stand in the middle of the live view.
        let lines: Box<dyn Sink> = if io::stdout().is_terminal() && io::stderr().is_terminal() && verbosity > Verbosity::Quiet {
            Box::new(live::Live::begin(verbosity))
        } else {
            Box::new(lines::Lines::new(verbosity, lines::Prefix::None, None))
        };
        Self::new(vec![lines, Box::new(record::Recorder::new(folder))], |_| true)
    }

    /// For a person's command that brings nothing up or down, and so is nothing that `virt-unlock status` has to remember.
    pub fn in_passing(verbosity: Verbosity) -> Self {
        Self::new(
            vec![Box::new(lines::Lines::new(verbosity, lines::Prefix::None, None))],
            |_| true,
        )
    }

    /// For a service: entries of the journal (or lines, where their fields have no way there), the status line for `systemctl status`, the outcomes on the
    /// console. Layers that `only` leaves out belong to another service.
    pub fn for_service(verbosity: Verbosity, folder: &std::path::Path, only: fn(&Layer) -> bool) -> Self {
        let prefix = if std::env::var_os("JOURNAL_STREAM").is_some() {
            lines::Prefix::Priority
        } else {
            lines::Prefix::None
        };
        let sinks: Vec<Box<dyn Sink>> = vec![
            Box::new(lines::Lines::new(verbosity, prefix, journal::Journal::of_this_process())),
            Box::new(service::StatusLine),
            Box::new(service::Console),
            Box::new(record::Recorder::new(folder)),
        ];
        Self::new(sinks, only)
    }

    fn new(sinks: Vec<Box<dyn Sink>>, only: fn(&Layer) -> bool) -> Self {
        Self(Arc::new(Mutex::new(Shown {
            board: Board::default(),
            sinks,
            only,
        })))
    }

    /// Where the engine says what happens.
    pub fn events(&self) -> Events {
        let report = self.clone();
        Events::new(move |event| report.show(event))
    }

    fn show(&self, event: &Event) {
        // A sink that panicked has shown half a line; the others go on.
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Shown { board, sinks, only } = &mut *shown;
        if event.layer.as_ref().is_some_and(|layer| !only(layer)) {
            return;
        }
        if matches!(event.happened, Happened::Begun(_) | Happened::Over(_)) {
            for sink in sinks {
                sink.clock(event);
            }
            return;
        }
        board.note(event);
        for sink in sinks {
            sink.show(event, board);
        }
    }
}
