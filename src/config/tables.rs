//! Every table of every file, read by itself. What stands in several files goes into one list; a table may stand once in all.

use std::collections::HashMap;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::domain::DomainTable;
use super::master::MasterTable;
use super::problem::{Complaints, Place, header, quoted};
use super::secret::SecretTable;
use super::syntax::{self, Parsed};
use super::types::{Config, HostConfig};
use super::value::{Entry, Reader};
use super::volume::VolumeTable;
use super::{domain, host, master, near, secret, volume};

/// Tables of the first level.
const TABLES: [&str; 5] = ["host", "volume", "master", "secret", "domain"];

/// Tables that have names, with their keys.
const NAMED: [(&str, &[&str]); 4] = [
    ("volume", &volume::KEYS),
    ("master", &master::KEYS),
    ("secret", &secret::KEYS),
    ("domain", &domain::KEYS),
];

/// All tables of all files.
#[derive(Debug)]
pub(super) struct Tables {
    host: Option<(HostConfig, Place)>,
    pub(super) volumes: Vec<VolumeTable>,
    pub(super) masters: Vec<MasterTable>,
    pub(super) secrets: Vec<SecretTable>,
    pub(super) domains: Vec<DomainTable>,
    /// Where each table with a name stands first, by its kind and its name.
    first: HashMap<(String, String), Place>,
    /// Whether there are files that could not be read at all.
    unread: bool,
    /// Parts of files that could not be read.
    broken: Vec<String>,
}

impl Tables {
    /// Whether something could not be read, so that what is not here may be there all the same.
    pub(super) fn is_incomplete(&self) -> bool {
        self.unread || !self.broken.is_empty()
    }

    /// Whether what could not be read may have a table of this name.
    pub(super) fn may_have(&self, name: &str) -> bool {
        self.unread || self.broken.iter().any(|text| text.contains(name))
    }

    /// The configuration that the tables are.
    pub(super) fn into_config(self) -> Config {
        Config {
            host: self.host.map_or_else(HostConfig::default, |(host, _)| host),
            volumes: self.volumes.into_iter().map(|read| read.volume).collect(),
            masters: self.masters.into_iter().map(|read| read.master).collect(),
            secrets: self.secrets.into_iter().map(|read| read.secret).collect(),
            domains: self.domains.into_iter().map(|read| read.domain).collect(),
        }
    }
}

/// Reads all files. `unread`: there are more, which could not be read.
pub(super) fn read(files: &[(PathBuf, String)], unread: bool, complaints: &mut Complaints) -> Tables {
    let mut tables = Tables {
        host: None,
        volumes: Vec::new(),
        masters: Vec::new(),
        secrets: Vec::new(),
        domains: Vec::new(),
        first: HashMap::new(),
        unread,
        broken: Vec::new(),
    };
    for (file, (_, text)) in files.iter().enumerate() {
        let parsed = syntax::parse(text);
        for error in &parsed.errors {
            let also = error
                .first
                .clone()
                .map(|span| (Place { file, span }, "the first time".to_owned()));
            let span = error.span.clone();
            complaints.at_with(&Place { file, span }, error.message.as_str(), also.into_iter().collect());
        }
        tables
            .broken
            .extend(parsed.blanked.iter().map(|blanked| text[blanked.clone()].to_owned()));
        tables.read_file(&mut Reader { file, complaints }, &parsed);
    }
    tables
}

impl Tables {
    fn read_file(&mut self, reader: &mut Reader<'_>, parsed: &Parsed) {
        let root = parsed.table();
        for entry in reader.entries(&root) {
            match entry.key {
                "host" => {
                    if let Some(table) = table(reader, &entry, "[host]") {
                        self.read_host(reader, &entry, table);
                    }
                }
                "volume" | "master" | "secret" | "domain" => {
                    let title = format!("[{}.NAME]", entry.key);
                    let Some(inner) = table(reader, &entry, &title) else {
                        continue;
                    };
                    for named in reader.entries(inner) {
                        self.read_named(reader, entry.key, &named, parsed);
                    }
                }
                _ => unknown(reader, &entry),
            }
        }
    }

    fn read_host(&mut self, reader: &mut Reader<'_>, entry: &Entry<'_>, table: &DeTable<'_>) {
        let host = host::read(reader, table);
        match &self.host {
            Some((_, first)) => twice(reader, &entry.key_place, "[host]", first),
            None => self.host = Some((host, entry.key_place.clone())),
        }
    }

    fn read_named(&mut self, reader: &mut Reader<'_>, kind: &str, entry: &Entry<'_>, parsed: &Parsed) {
        let title = header(kind, entry.key);
        let Some(inner) = entry.value.inner.as_table() else {
            let known = NAMED
                .iter()
                .find(|(named, _)| *named == kind)
                .map_or(&[][..], |(_, keys)| keys);
            let message = if known.contains(&entry.key) {
                format!(
                    "{} stands in [{kind}] itself; it belongs below a header with a name: [{kind}.NAME]",
                    quoted(entry.key)
                )
            } else {
                format!(
                    "{} must be a table of its own: {title}",
                    quoted(&format!("{kind}.{}", entry.key))
                )
            };
            reader.complaints.at(&entry.key_place, message);
            return;
        };
        let at = entry.key_place.span.start;
        // What is not in the second of two tables may be in the first one.
        let is_whole = |is_first: bool| is_first && !parsed.blanked.iter().any(|blanked| blanked.contains(&at));
        let known = (kind.to_owned(), entry.key.to_owned());
        let first = self.first.get(&known).cloned();
        match kind {
            "volume" => {
                let read = volume::read(reader, entry, inner, is_whole(first.is_none()));
                self.volumes.extend(first.is_none().then_some(read));
            }
            "master" => {
                let read = master::read(reader, entry, inner, is_whole(first.is_none()));
                self.masters.extend(first.is_none().then_some(read));
            }
            "secret" => {
                let read = secret::read(reader, entry, inner);
                self.secrets.extend(first.is_none().then_some(read));
            }
            _ => {
                let read = domain::read(reader, entry, inner);
                self.domains.extend(first.is_none().then_some(read));
            }
        }
        match first {
            Some(first) => twice(reader, &entry.key_place, &title, &first),
            None => {
                self.first.insert(known, entry.key_place.clone());
            }
        }
    }
}

fn table<'a>(reader: &mut Reader<'_>, entry: &Entry<'a>, header: &str) -> Option<&'a DeTable<'a>> {
    match entry.value.inner {
        DeValue::Table(table) => return Some(table),
        DeValue::Array(_) => {
            let message = format!("{} is a table, not an array: write {header}", quoted(entry.key));
            reader.complaints.at(&entry.key_place, message);
        }
        _ => reader.wrong_type(&entry.value, &format!("a table: {header}")),
    }
    None
}

/// Only two files can have the same table here: of one file the parser says it itself.
fn twice(reader: &mut Reader<'_>, second: &Place, title: &str, first: &Place) {
    let message = format!("the table {title} stands twice; write all its keys below one header, in one file");
    let also = vec![(first.clone(), "the first time".to_owned())];
    reader.complaints.at_with(second, message, also);
}

fn unknown(reader: &mut Reader<'_>, entry: &Entry<'_>) {
    let shown = quoted(entry.key);
    let is_table = entry.value.inner.is_table();
    let named = NAMED.iter().map(|(kind, keys)| (format!("[{kind}.NAME]"), *keys));
    let mut kinds = std::iter::once(("[host]".to_owned(), &host::KEYS[..])).chain(named);
    let home = kinds.find(|(_, keys)| keys.contains(&entry.key)).filter(|_| !is_table);
    let message = if let Some((home, _)) = home {
        format!("{shown} stands outside of every table; it belongs below the header {home}")
    } else {
        let kind = if is_table { "table" } else { "key" };
        format!("unknown {kind} {shown}; {}", near::hint(entry.key, TABLES, "tables"))
    };
    reader.complaints.at(&entry.key_place, message);
}
