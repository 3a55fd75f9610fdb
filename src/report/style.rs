//! Colour on a terminal that wants it, and text without anything that could move a cursor.

use std::fmt::Display;
use std::io::{self, IsTerminal};

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub bool);

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it should be.
    Good,
    /// Waited for.
    Waiting,
    /// Worth a look.
    Warning,
    /// Not as it should be.
    Bad,
    /// Of less interest.
    Dim,
}

impl Colour {
    /// On standard output, if that is a terminal and `NO_COLOR` is not set (no-color.org).
    pub fn on_stdout() -> Self {
        Self(io::stdout().is_terminal() && wanted())
    }

    /// The same for standard error.
    pub fn on_stderr() -> Self {
        Self(io::stderr().is_terminal() && wanted())
    }

    /// The text in its colour (ECMA-48 SGR).
    pub fn paint(self, style: Style, text: impl Display) -> String {
        let code = match style {
            Style::Good => "32",
            Style::Waiting => "36",
            Style::Warning => "33",
            Style::Bad => "1;31",
            Style::Dim => "2",
        };
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

fn wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
