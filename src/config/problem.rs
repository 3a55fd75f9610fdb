//! What is wrong in the configuration, each with its place in a file, and how it is shown.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Bytes of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which file: a place in the list of files.
    pub(super) file: usize,
    /// Which of its bytes.
    pub(super) span: Range<usize>,
}

#[derive(Clone, Debug)]
struct Problem {
    file: usize,
    /// `None`: the file as a whole.
    span: Option<Range<usize>>,
    message: String,
    also: Vec<(Place, String)>,
}

/// Collects problems while the files are gone through.
#[derive(Debug, Default)]
pub(super) struct Complaints(Vec<Problem>);

impl Complaints {
    /// Something is wrong at `place`.
    pub(super) fn at(&mut self, place: &Place, message: impl Into<String>) {
        self.at_with(place, message, Vec::new());
    }

    /// Something is wrong at `place` that other places, each with its words, help to understand.
    pub(super) fn at_with(&mut self, place: &Place, message: impl Into<String>, also: Vec<(Place, String)>) {
        self.0.push(Problem {
            file: place.file,
            span: Some(place.span.clone()),
            message: message.into(),
            also,
        });
    }

    /// Something is wrong with a file as a whole.
    pub(super) fn of_file(&mut self, file: usize, message: impl Into<String>) {
        self.0.push(Problem {
            file,
            span: None,
            message: message.into(),
            also: Vec::new(),
        });
    }

    /// `value`, if there was nothing to complain of.
    pub(super) fn into_result<T>(self, files: &[(PathBuf, String)], value: T) -> Result<T, Problems> {
        if self.0.is_empty() {
            return Ok(value);
        }
        let mut list = self.0;
        list.sort_by_key(|problem| (problem.file, problem.span.as_ref().map_or(0, |span| span.start)));
        Err(Problems {
            files: files.to_vec(),
            list,
        })
    }
}

/// Everything that is wrong in the configuration, in the order of files and lines; never empty. [`fmt::Display`] shows it all
/// without colour.
#[derive(Clone, Debug)]
pub struct Problems {
    files: Vec<(PathBuf, String)>,
    list: Vec<Problem>,
}

/// One problem and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// In which file.
    pub file: &'a Path,
    /// In which line, from 1; 0: the file as a whole.
    pub line: usize,
    /// At which character of the line, from 1; 0: the file as a whole.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: &'a str,
}

impl Problems {
    /// How many.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Each problem with its place.
    pub fn iter(&self) -> impl Iterator<Item = Found<'_>> {
        self.list.iter().map(|problem| {
            let (path, text) = &self.files[problem.file];
            let (line, column) = problem.span.as_ref().map_or((0, 0), |span| {
                let shown = Line::of(text, span);
                (shown.number, shown.column())
            });
            Found {
                file: path,
                line,
                column,
                message: &problem.message,
            }
        })
    }

    /// All problems for people: what is wrong, the file, the line with the right bytes underlined; with escape sequences for
    /// colours if `colour`.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let shown: Vec<String> = self
            .list
            .iter()
            .map(|problem| renderer.render(&[self.report(problem)]))
            .collect();
        shown.join("\n\n")
    }

    fn report<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let title = Level::ERROR.primary_title(problem.message.as_str());
        let Some(span) = &problem.span else {
            return title.element(Origin::path(self.files[problem.file].0.to_string_lossy()));
        };
        let mut group = title.element(self.snippet(problem.file, span, AnnotationKind::Primary, ""));
        for (place, words) in &problem.also {
            group = group.element(self.snippet(place.file, &place.span, AnnotationKind::Context, words));
        }
        group
    }

    /// One line of a file. The library is given no more than this line: it is what is shown, however large the file is.
    fn snippet<'a>(
        &'a self,
        file: usize,
        span: &Range<usize>,
        kind: AnnotationKind,
        words: &'a str,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let (path, text) = &self.files[file];
        let line = Line::of(text, span);
        let mut annotation = kind.span(line.marked);
        if !words.is_empty() {
            annotation = annotation.label(words);
        }
        Snippet::source(line.text)
            .line_start(line.number)
            .path(path.to_string_lossy())
            .annotation(annotation)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

/// The line in which a span starts.
struct Line<'a> {
    number: usize,
    text: &'a str,
    /// The span's part of this line.
    marked: Range<usize>,
}

impl<'a> Line<'a> {
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let at = boundary(text, span.start);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let line = text[start..end].strip_suffix('\r').unwrap_or(&text[start..end]);
        let mark = |at: usize| boundary(text, at).clamp(start, start + line.len()) - start;
        Self {
            number: text[..start].matches('\n').count() + 1,
            text: line,
            marked: mark(at)..mark(span.end.max(at)),
        }
    }

    fn column(&self) -> usize {
        self.text[..self.marked.start].chars().count() + 1
    }
}

/// The nearest place before or at `at` that lies inside the text and between two characters.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

/// A name or value out of a file as it stands in a message: between backquotes.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", short(text))
}

/// The header of a table of its own: `[volume.mail]`, `[domain."Mail server"]`.
pub(super) fn header(kind: &str, name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let name = short(name);
    if is_bare {
        format!("[{kind}.{name}]")
    } else {
        format!("[{kind}.\"{name}\"]")
    }
}

/// A name or value out of a file, not without end.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => plain(&text[..end]) + "…",
        None => plain(text),
    }
}

/// Words with control characters made visible: they would do things to a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().flat_map(visible).collect()
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_its_marked_part_stays_inside_it() {
        let text = "one\r\nzwö = 3\nthree";
        let line = Line::of(text, &(5..9));
        assert_eq!(
            (line.number, line.text, line.marked.clone(), line.column()),
            (2, "zwö = 3", 0..4, 1)
        );
        let over_the_end_of_the_line = Line::of(text, &(10..16));
        assert_eq!(
            (over_the_end_of_the_line.marked.clone(), over_the_end_of_the_line.column()),
            (5..8, 5)
        );
        let at_the_end = Line::of(text, &(text.len()..text.len() + 9));
        assert_eq!((at_the_end.number, at_the_end.marked), (3, 5..5));
        let inside_a_character = Line::of(text, &(8..9));
        assert_eq!(inside_a_character.marked, 2..4);
    }

    #[test]
    fn quoted_words_are_short_and_visible() {
        assert_eq!(quoted("mail"), "`mail`");
        assert_eq!(quoted("a\u{1b}[1m\n"), "`a\\u{1b}[1m\\n`");
        assert_eq!(header("volume", "mail"), "[volume.mail]");
        assert_eq!(header("domain", "Mail\tserver"), "[domain.\"Mail\\tserver\"]");
        assert_eq!(quoted(&"x".repeat(61)), format!("`{}…`", "x".repeat(60)));
    }
}
