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

/// One line without control characters: names of guests and words of other programs may hold anything.
pub fn plain(text: &str) -> String {
    let text = text.trim_end();
    if text.contains(moves) {
        text.replace(['\n', '\t'], " ").replace(moves, "?")
    } else {
        text.to_owned()
    }
}

/// Whether a character does something else than to stand where it is: control characters, line separators, and those that turn the
/// direction of what follows, with which one name could look like another (Unicode, `Bidi_Control`).
fn moves(char: char) -> bool {
    let turns = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    char.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_name_moves_the_cursor() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}d"), "a?[2Jb c?d");
        assert_eq!(plain("ab\u{202e}cd\u{2028}"), "ab?cd");
        assert_eq!(plain("größe 客户"), "größe 客户");
    }
}
