//! Small readers of typed values. Each complains of what it cannot take and goes on, so that one run finds everything.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::near;
use super::problem::{Complaints, Place, quoted};

/// A value, with the words for it in messages.
pub(super) struct Value<'a> {
    pub(super) inner: &'a DeValue<'a>,
    pub(super) place: Place,
    /// Such as "`device`", or "an entry of `after`".
    what: String,
}

/// A key with its value.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_place: Place,
    pub(super) value: Value<'a>,
}

/// Something that was read, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T> Located<T> {
    /// Something else of the same place.
    pub(super) fn with<U>(&self, value: U) -> Located<U> {
        Located {
            value,
            place: self.place.clone(),
        }
    }
}

/// Reads the values of one file.
pub(super) struct Reader<'c> {
    pub(super) file: usize,
    pub(super) complaints: &'c mut Complaints,
}

impl Reader<'_> {
    /// The entries of a table in the order in which they stand in the file.
    pub(super) fn entries<'a>(&self, table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
        let mut entries: Vec<Entry<'a>> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref(),
                key_place: self.place(key),
                value: Value {
                    inner: value.get_ref(),
                    place: self.place(value),
                    what: quoted(key.get_ref()),
                },
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_place.span.start);
        entries
    }

    fn place<T>(&self, of: &Spanned<T>) -> Place {
        Place {
            file: self.file,
            span: of.span(),
        }
    }

    /// Complains of `value`: its name, and then `words`.
    pub(super) fn refuse(&mut self, value: &Value<'_>, words: impl Display) {
        self.complaints.at(&value.place, format!("{} {words}", value.what));
    }

    /// Complains of a key that this table does not have. `later` are keys of a later version.
    pub(super) fn unknown_key(&mut self, entry: &Entry<'_>, title: &str, known: &[&str]) {
        let hint = near::hint(entry.key, known.iter().copied(), "keys");
        let message = format!("unknown key {} in {title}; {hint}", quoted(entry.key));
        self.complaints.at(&entry.key_place, message);
    }

    /// Complains of a value of the wrong type.
    pub(super) fn wrong_type(&mut self, value: &Value<'_>, expected: &str) {
        let found = match value.inner {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.refuse(value, format_args!("must be {expected}, but this is {found}"));
    }

    /// A string, not empty and without control characters.
    pub(super) fn string(&mut self, value: &Value<'_>) -> Option<String> {
        let DeValue::String(text) = value.inner else {
            self.wrong_type(value, "a string (in double quotes)");
            return None;
        };
        if text.is_empty() {
            self.refuse(value, "must not be empty");
            return None;
        }
        if let Some(control) = text.chars().find(|character| character.is_control()) {
            let control = control.escape_default();
            self.refuse(
                value,
                format_args!("must not have control characters in it, and has `{control}`"),
            );
            return None;
        }
        Some(text.to_string())
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, value: &Value<'_>) -> Option<bool> {
        let found = value.inner.as_bool();
        if found.is_none() {
            self.wrong_type(value, "true or false (without quotes)");
        }
        found
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, value: &Value<'_>, range: &RangeInclusive<u64>) -> Option<u64> {
        let Some(number) = value.inner.as_integer() else {
            self.wrong_type(value, "an integer (without quotes)");
            return None;
        };
        let found = u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|number| range.contains(number));
        if found.is_none() {
            let (least, most) = (range.start(), range.end());
            let written = quoted(&number.to_string());
            self.refuse(
                value,
                format_args!("must be between {least} and {most}, but this is {written}"),
            );
        }
        found
    }

    /// How many wrong answers there may be.
    pub(super) fn tries(&mut self, value: &Value<'_>) -> Option<u32> {
        let tries = self.integer(value, &(0..=u64::from(u32::MAX)))?;
        tries.try_into().ok()
    }

    /// A span of time: a string as systemd writes it, or a whole number of seconds.
    pub(super) fn duration(&mut self, value: &Value<'_>) -> Option<Duration> {
        match value.inner {
            DeValue::Integer(_) => {
                let seconds = self.integer(value, &(0..=duration::LONGEST.as_secs()))?;
                Some(Duration::from_secs(seconds))
            }
            DeValue::String(text) => match duration::parse(text) {
                Ok(span) => Some(span),
                Err(words) => {
                    self.refuse(value, format_args!("is not a span of time: {words}"));
                    None
                }
            },
            _ => {
                self.wrong_type(value, "a span of time such as \"90s\" or \"3min\"");
                None
            }
        }
    }

    /// An absolute path.
    pub(super) fn path(&mut self, value: &Value<'_>) -> Option<PathBuf> {
        let text = self.string(value)?;
        if text.starts_with('/') {
            return Some(text.into());
        }
        self.refuse(
            value,
            format_args!("must be an absolute path, but {} does not start with `/`", quoted(&text)),
        );
        None
    }

    /// The values of an array.
    pub(super) fn array<'a>(&mut self, value: &Value<'a>, expected: &str) -> Option<Vec<Value<'a>>> {
        let Some(array) = value.inner.as_array() else {
            self.wrong_type(value, expected);
            return None;
        };
        let values = array.iter().map(|item| Value {
            inner: item.get_ref(),
            place: self.place(item),
            what: format!("an entry of {}", value.what),
        });
        Some(values.collect())
    }

    /// An array of strings, each once, with their places.
    pub(super) fn strings(&mut self, value: &Value<'_>) -> Vec<Located<String>> {
        let mut found: Vec<Located<String>> = Vec::new();
        let items = self.array(value, "an array of strings such as [\"one\", \"two\"]");
        for item in items.into_iter().flatten() {
            let Some(text) = self.string(&item) else { continue };
            if let Some(first) = found.iter().find(|known| known.value == text) {
                let also = vec![(first.place.clone(), "the first time".to_owned())];
                let message = format!("{} stands twice in {}", quoted(&text), value.what);
                self.complaints.at_with(&item.place, message, also);
            } else {
                found.push(Located {
                    value: text,
                    place: item.place,
                });
            }
        }
        found
    }

    /// A string that is one of `known`: its place in that list.
    pub(super) fn word(&mut self, value: &Value<'_>, known: &[&str]) -> Option<usize> {
        let text = self.string(value)?;
        let place = known.iter().position(|word| *word == text);
        if place.is_none() {
            let hint = near::hint(&text, known.iter().copied(), "words");
            self.refuse(value, format_args!("cannot be {}; {hint}", quoted(&text)));
        }
        place
    }
}

/// A path with doubled and trailing slashes and `.` taken out, by its letters alone.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
