//! The live view: finished things scroll away above, what is waited for stands below with its time.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::lines::{Line, Prefix};
use super::{Board, Colour, Entry, Sink, Style, Verbosity};
use crate::event::{Event, Happened};
use crate::text::{self, plain};

/// How often the times are written anew.
const TICK: Duration = Duration::from_secs(1);
/// How many waits are shown before the rest is counted.
const SHOWN: usize = 8;

/// The view on standard error.
pub(super) struct Live {
    screen: Arc<Mutex<Screen>>,
    verbosity: Verbosity,
}

#[derive(Default)]
struct Screen {
    board: Board,
    /// Lines of ours below the last finished one.
    painted: usize,
    /// A question has the terminal: what happens meanwhile is written when it is over.
    held: Vec<Event>,
}

impl Live {
    pub(super) fn begin(verbosity: Verbosity) -> Self {
        let screen = Arc::new(Mutex::new(Screen::default()));
        let ticking: Weak<Mutex<Screen>> = Arc::downgrade(&screen);
        // Without the thread only the times stand still.
        let _ = thread::Builder::new().name("live view".to_owned()).spawn(move || {
            loop {
                thread::sleep(TICK);
                let Some(screen) = ticking.upgrade() else { break };
                let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
                if !screen.board.is_asking() {
                    screen.erase();
                    screen.paint();
                }
            }
        });
        Self { screen, verbosity }
    }
}

impl Sink for Live {
    fn show(&mut self, event: &Event, board: &Board) {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.board = board.clone();
        screen.erase();
        screen.held.push(event.clone());
        if board.is_asking() {
            // The question itself is put on the terminal by its agent.
            return;
        }
        for event in std::mem::take(&mut screen.held) {
            let line = Line::of(&event);
            if !stands_below(&event) && self.verbosity >= line.needs {
                line.write(&event, Prefix::None);
            }
        }
        screen.paint();
    }
}

/// What a layer waits for stands below until it is over. What the run as a whole waits for (another run, libvirt) has no layer to
/// stand there for, and scrolls.
fn stands_below(event: &Event) -> bool {
    let passes = matches!(
        event.happened,
        Happened::Waiting(_) | Happened::Working(_) | Happened::Asking(_)
    );
    passes && event.layer.is_some()
}

impl Screen {
    fn erase(&mut self) {
        if self.painted > 0 {
            // Up, and everything below away (ECMA-48 CPL and ED).
            write(&format!("\x1b[{}F\x1b[0J", self.painted));
            self.painted = 0;
        }
    }

    fn paint(&mut self) {
        let width = width();
        let under_way: Vec<&Entry> = self.board.under_way().collect();
        let mut out = String::new();
        for entry in under_way.iter().take(SHOWN) {
            let words = match &entry.happened {
                Happened::Working(words) | Happened::Waiting(words) => words.as_str(),
                _ => continue,
            };
            let since = entry.since.elapsed();
            let time = if since < TICK {
                String::new()
            } else {
                format!(" ({})", text::duration(Duration::from_secs(since.as_secs())))
            };
            // The time is what changes: it is seen however long the words are.
            let room = width.saturating_sub(1 + time.len());
            let words = plain(&format!("… {}: {words}", entry.layer));
            let line = format!("{}{time}", fitting(&words, room));
            out.push_str(&Colour::on_stderr().paint(Style::Waiting, line));
            out.push('\n');
            self.painted += 1;
        }
        if under_way.len() > SHOWN {
            out.push_str(&format!("… and {} more\n", under_way.len() - SHOWN));
            self.painted += 1;
        }
        write(&out);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.erase();
    }
}

fn write(text: &str) {
    // Nobody to tell that nobody listens.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The beginning of `text` that fits into so many columns: a line that wraps would be erased by half. From U+1100 on characters may
/// be two columns wide (Unicode, East Asian Width); those that are not, and those of no width, only leave some room.
fn fitting(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find_map(|(place, char)| {
        used += if char < '\u{1100}' || char == '…' { 1 } else { 2 };
        (used > columns).then_some(place)
    });
    &text[..end.unwrap_or(text.len())]
}

fn width() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| usize::from(width.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Layer;

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        assert_eq!(fitting("… volume mail", 80), "… volume mail");
        assert_eq!(fitting("… volume mail", 8), "… volume");
        assert_eq!(fitting("客户数据", 5), "客户");
        assert_eq!(fitting("mail", 0), "");
    }

    #[test]
    fn what_the_whole_run_waits_for_is_not_swallowed() {
        let event = |layer, happened| Event {
            layer,
            kind: None,
            happened,
        };
        let waiting = || Happened::Waiting("waiting for another run".into());
        assert!(stands_below(&event(Some(Layer::Volume("mail".into())), waiting())));
        assert!(!stands_below(&event(None, waiting())));
    }
}
