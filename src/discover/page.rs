//! A page of comments and tables. A comment is always one: nothing that is found on a host can end its line or move a cursor.

use crate::text;

/// How wide a comment is.
const WIDTH: usize = 110;

/// The text as it grows.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// A comment, broken into lines between words.
    pub(super) fn comment(&mut self, words: &str) {
        self.indented("# ", "# ", words);
    }

    /// A comment that keeps its spaces.
    pub(super) fn example(&mut self, words: &str) {
        self.line(&format!("#     {words}"));
    }

    /// A comment that somebody has to look at.
    pub(super) fn doubt(&mut self, words: &str) {
        self.indented("# doubt: ", "#        ", words);
    }

    /// An item of a list, below a comment.
    pub(super) fn item(&mut self, words: &str) {
        self.indented("#   - ", "#     ", words);
    }

    /// What belongs to the item before.
    pub(super) fn part(&mut self, words: &str) {
        self.indented("#       ", "#         ", words);
    }

    fn indented(&mut self, first: &str, rest: &str, words: &str) {
        let words = text::plain(words);
        let mut line = first.to_owned();
        let mut is_empty = true;
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line);
                rest.clone_into(&mut line);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(line.trim_end());
    }

    /// A table as it is.
    pub(super) fn table(&mut self, table: &str) {
        self.0.push_str(table);
    }

    /// A table or keys behind a `#`, to be taken away.
    pub(super) fn disabled(&mut self, table: &str) {
        for line in table.lines() {
            self.line(&format!("#{line}"));
        }
    }

    /// An empty line, and no second one.
    pub(super) fn gap(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with("\n\n") {
            self.0.push('\n');
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_broken_between_words_and_never_end_early() {
        let mut page = Page::default();
        page.doubt(&format!("a\nb\x1b[2J {} end", "x".repeat(WIDTH)));
        page.gap();
        page.gap();
        page.comment("");
        let expected = format!("# doubt: a b?[2J\n#        {}\n#        end\n\n#\n", "x".repeat(WIDTH));
        assert_eq!(page.into_text(), expected);
    }
}
