//! From text to a tree of TOML values with their places. One error of syntax does not hide the rest of the file: the section in
//! which it stands is blanked out, and the others are read all the same.

use std::ops::Range;

use toml::de::{DeTable, Error};

use super::problem::{plain, quoted, short};

/// A text as far as it could be read.
pub(super) struct Parsed {
    /// The text with its broken sections blanked out, of the same length.
    pub(super) text: String,
    pub(super) errors: Vec<SyntaxError>,
    /// Sections of which nothing but the header is left, if that: what they say is not known.
    pub(super) blanked: Vec<Range<usize>>,
}

/// An error of syntax.
pub(super) struct SyntaxError {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    /// The first of two that must not stand twice.
    pub(super) first: Option<Range<usize>>,
}

/// So many broken sections are looked at; what has more is no configuration file, and each costs a reading of the whole text.
const MOST_ERRORS: usize = 20;

/// Reads a text.
pub(super) fn parse(original: &str) -> Parsed {
    let sections = sections(original);
    let mut parsed = Parsed {
        text: original.to_owned(),
        errors: Vec::new(),
        blanked: Vec::new(),
    };
    let mut blank = vec![false; sections.len()];
    loop {
        let mut errors = DeTable::parse_recoverable(&parsed.text).1;
        errors.sort_by_key(start);
        // A key that stands twice leaves the tree sound: the first one counts.
        let Some(error) = errors.iter().find(|error| !is_twice(error)) else {
            parsed
                .errors
                .extend(errors.iter().map(|error| twice(original, &sections, error)));
            break;
        };
        let span = error.span().unwrap_or(0..0);
        let at = sections.iter().rposition(|section| section.start <= span.start).unwrap_or(0);
        // An array or a string without its end is noticed only at the next header, or at the end of the file.
        let is_from_above = at > 0 && sections[at].header.contains(&span.start) && sections[at].is_sound(original);
        let (blamed, where_to_look) = if is_from_above {
            (at - 1, "; look above: something that was begun there has no end")
        } else {
            (at, "")
        };
        let message = format!("this is not valid TOML: {}{where_to_look}", plain(error.message()));
        if !parsed.errors.iter().any(|known| known.span == span) {
            parsed.errors.push(SyntaxError {
                span,
                message,
                first: None,
            });
        }
        let next = (0..=blamed)
            .rev()
            .chain(blamed..sections.len())
            .find(|section| !blank[*section]);
        let Some(blamed) = next.filter(|_| parsed.errors.len() < MOST_ERRORS) else {
            parsed.text = blank_out(&parsed.text, 0..original.len());
            parsed.blanked.push(0..original.len());
            break;
        };
        blank[blamed] = true;
        let section = &sections[blamed];
        let from = if section.is_sound(original) {
            section.header.end
        } else {
            section.start
        };
        parsed.text = blank_out(&parsed.text, from..section.end);
        parsed.blanked.push(section.start..section.end);
    }
    parsed
}

impl Parsed {
    /// What stands in the sound sections. The places are those of the original text.
    pub(super) fn table(&self) -> DeTable<'_> {
        DeTable::parse_recoverable(&self.text).0.into_inner()
    }
}

/// A header such as `[volume.mail]` with what follows it up to the next one. The first section of a file has no header.
struct Section {
    start: usize,
    header: Range<usize>,
    end: usize,
}

impl Section {
    /// Whether its header is well-formed.
    fn is_sound(&self, text: &str) -> bool {
        DeTable::parse(&text[self.header.clone()]).is_ok()
    }
}

fn sections(text: &str) -> Vec<Section> {
    let mut sections = vec![Section {
        start: 0,
        header: 0..0,
        end: text.len(),
    }];
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if is_header(line) {
            if let Some(last) = sections.last_mut() {
                last.end = start;
            }
            sections.push(Section {
                start,
                header: start..start + line.len(),
                end: text.len(),
            });
        }
        start += line.len();
    }
    sections
}

fn is_header(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with('[') && line.trim_start_matches('[').starts_with(|c: char| c.is_ascii_alphabetic())
}

fn start(error: &Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

fn is_twice(error: &Error) -> bool {
    error.message() == "duplicate key"
}

fn twice(text: &str, sections: &[Section], error: &Error) -> SyntaxError {
    let span = error.span().unwrap_or(0..0);
    let at = sections.iter().rposition(|section| section.start <= span.start).unwrap_or(0);
    let is_header = sections[at].header.contains(&span.start);
    let word = text.get(span.clone()).unwrap_or_default().trim();
    let message = if is_header {
        let header = text[sections[at].header.clone()].trim();
        let header = header.split('#').next().unwrap_or_default().trim_end();
        let header = short(header);
        format!("the table {header} stands twice; write all its keys below one header")
    } else {
        format!("the key {} stands twice in one table; keep one of them", quoted(word))
    };
    SyntaxError {
        first: first_of_two(text, &sections[..=at], is_header, span.start, word),
        span,
        message,
    }
}

/// Where the first of two stands: best effort, by the look of the lines.
fn first_of_two(text: &str, sections: &[Section], is_header: bool, before: usize, word: &str) -> Option<Range<usize>> {
    let last = sections.last()?;
    if is_header {
        let trimmed = |section: &Section| text[section.header.clone()].split('#').next().map(str::trim);
        let first = sections.iter().find(|section| trimmed(section) == trimmed(last))?;
        let header = &text[first.header.clone()];
        let start = first.start + (header.len() - header.trim_start().len());
        return (first.start < last.start).then(|| start..start + trimmed(first).map_or(0, str::len));
    }
    let mut start = last.header.end;
    for line in text[last.header.end..before].split_inclusive('\n') {
        let trimmed = line.trim_start();
        let rest = trimmed.strip_prefix(word).map(str::trim_start);
        if rest.is_some_and(|rest| rest.starts_with('=')) {
            let at = start + line.len() - trimmed.len();
            return Some(at..at + word.len());
        }
        start += line.len();
    }
    None
}

/// The text with spaces in place of everything in `range` but line ends; of the same length.
fn blank_out(text: &str, range: Range<usize>) -> String {
    let blank = text[range.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' });
    let mut blanked = String::with_capacity(text.len());
    blanked.push_str(&text[..range.start]);
    blanked.extend(blank);
    blanked.push_str(&text[range.end..]);
    blanked
}
