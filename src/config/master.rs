//! `[master.NAME]`

use std::path::PathBuf;

use toml::de::DeTable;

use super::problem::header;
use super::types::{Master, Unlock};
use super::value::{Entry, Located, Reader};
use super::{names, unlock};

pub(super) const KEYS: [&str; 3] = ["header", "unlock", "tries"];

/// A master's table with the places that the checks between tables need.
#[derive(Debug)]
pub(super) struct MasterTable {
    pub(super) master: Master,
    /// Files that must be there before it can be opened: what each is ("header"), and where it lies.
    pub(super) files: Vec<(&'static str, Located<PathBuf>)>,
}

/// Reads the table. `whole`: all of it could be read, so what is not there is missing.
pub(super) fn read(reader: &mut Reader<'_>, entry: &Entry<'_>, table: &DeTable<'_>, whole: bool) -> MasterTable {
    if let Err(words) = names::check_master(entry.key) {
        reader.complaints.at(&entry.key_place, words);
    }
    let title = header("master", entry.key);
    let mut read = MasterTable {
        // The placeholder never leaves this module: without a header there is a complaint, and then no configuration.
        master: Master::new(entry.key, PathBuf::new()),
        files: Vec::new(),
    };
    let entries = reader.entries(table);
    for entry in &entries {
        let value = &entry.value;
        match entry.key {
            "header" => {
                if let Some(path) = reader.path(value) {
                    read.master.header.clone_from(&path);
                    let place = value.place.clone();
                    read.files.push(("header", Located { value: path, place }));
                }
            }
            "unlock" => {
                let Some(ways) = unlock::read(reader, value) else { continue };
                for way in &ways {
                    if let Unlock::Master { .. } = way.value {
                        reader
                            .complaints
                            .at(&way.place, "a master cannot be opened by a master: give it ways of its own");
                    }
                }
                read.files.extend(unlock::key_files(&ways));
                read.master.unlock = ways.into_iter().map(|way| way.value).collect();
            }
            "tries" => read.master.tries = reader.tries(value).unwrap_or(read.master.tries),
            _ => reader.unknown_key(entry, &title, &KEYS),
        }
    }
    if whole && !entries.iter().any(|entry| entry.key == "header") {
        let message = format!("{title} needs `header = \"…\"`: the file that is its LUKS header");
        reader.complaints.at(&entry.key_place, message);
    }
    read
}
