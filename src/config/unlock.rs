//! `unlock = …`: the ways to a volume's key.

use std::path::PathBuf;

use super::device;
use super::names;
use super::types::{DeviceSpec, KeyFile, Unlock};
use super::value::{Entry, Located, Reader, Value};
use crate::secret::MAX_KEY;

/// What tells the ways apart that are tables.
const TABLE_KEYS: [&str; 3] = ["key-file", "credential", "master"];
const KEY_FILE_KEYS: [&str; 5] = [
    "key-file",
    "key-file-offset",
    "key-file-size",
    "key-file-device",
    "key-file-timeout",
];
const CREDENTIAL_KEYS: [&str; 1] = ["credential"];
const EXPECTED: &str = "an array of ways such as [\"passphrase\", { key-file = \"/path\" }]";

/// The ways with their places; a key file's place is that of its path, a master's that of its name. `None`: something is wrong.
pub(super) fn read(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Vec<Located<Unlock>>> {
    let items = reader.array(value, EXPECTED)?;
    if items.is_empty() {
        reader.refuse(value, "must name at least one way, such as \"passphrase\"");
        return None;
    }
    let mut ways: Vec<Located<Unlock>> = Vec::new();
    let mut sound = true;
    for item in &items {
        let Some(way) = read_way(reader, item) else {
            sound = false;
            continue;
        };
        if let Some(first) = ways.iter().find(|known| known.value == way.value) {
            let also = vec![(first.place.clone(), "the first time".to_owned())];
            reader
                .complaints
                .at_with(&item.place, "this way stands twice in `unlock`", also);
        }
        ways.push(way);
    }
    sound.then_some(ways)
}

/// The key files of this host among these ways, as what they are ("key file").
pub(super) fn key_files(ways: &[Located<Unlock>]) -> Vec<(&'static str, Located<PathBuf>)> {
    let of = |way: &Located<Unlock>| match &way.value {
        Unlock::KeyFile(file) if file.device.is_none() => Some(way.with(file.path.clone())),
        _ => None,
    };
    ways.iter().filter_map(of).map(|file| ("key file", file)).collect()
}

/// The names of the masters among these ways.
pub(super) fn masters(ways: &[Located<Unlock>]) -> Vec<Located<String>> {
    let of = |way: &Located<Unlock>| match &way.value {
        Unlock::Master { name } => Some(way.with(name.clone())),
        _ => None,
    };
    ways.iter().filter_map(of).collect()
}

fn read_way(reader: &mut Reader<'_>, item: &Value<'_>) -> Option<Located<Unlock>> {
    let Some(table) = item.inner.as_table() else {
        if !item.inner.is_str() {
            reader.wrong_type(item, "\"passphrase\", \"token\" or a table such as { key-file = \"/path\" }");
            return None;
        }
        let (words, ways) = (["passphrase", "token"], [Unlock::Passphrase, Unlock::Token]);
        let word = reader.word(item, &words)?;
        return ways.into_iter().nth(word).map(|value| Located {
            value,
            place: item.place.clone(),
        });
    };
    let entries = reader.entries(table);
    let has = |key: &str| entries.iter().any(|entry| entry.key == key);
    if has("master") {
        return read_master(reader, &entries);
    }
    let value = if has("credential") {
        read_credential(reader, &entries)?
    } else {
        return read_key_file(reader, item, &entries);
    };
    Some(Located {
        place: item.place.clone(),
        value,
    })
}

/// `{ credential = "NAME" }`
fn read_credential(reader: &mut Reader<'_>, entries: &[Entry<'_>]) -> Option<Unlock> {
    let mut credential = None;
    let mut sound = true;
    for entry in entries {
        if entry.key != "credential" {
            reader.unknown_key(entry, "a way by `credential`", &CREDENTIAL_KEYS);
            sound = false;
        } else if let Some(name) = reader.string(&entry.value) {
            match names::check_credential(&name) {
                Ok(()) => credential = Some(Unlock::Credential { name }),
                Err(words) => reader.refuse(&entry.value, words),
            }
        }
    }
    credential.filter(|_| sound)
}

/// `{ key-file = "/path", … }`, with the place of the path.
fn read_key_file(reader: &mut Reader<'_>, item: &Value<'_>, entries: &[Entry<'_>]) -> Option<Located<Unlock>> {
    let alone = entries.len() == 1;
    let mut path: Option<Located<PathBuf>> = None;
    let (mut offset, mut size, mut device, mut timeout, mut sound) = (0, None, None, None, true);
    for entry in entries {
        let value = &entry.value;
        match entry.key {
            "key-file" => match reader.path(value) {
                Some(found) => {
                    path = Some(Located {
                        value: found,
                        place: value.place.clone(),
                    });
                }
                None => sound = false,
            },
            "key-file-offset" => match reader.integer(value, &(0..=i64::MAX as u64)) {
                Some(found) => offset = found,
                None => sound = false,
            },
            "key-file-size" => match reader.integer(value, &(1..=MAX_KEY as u64)) {
                Some(found) => size = usize::try_from(found).ok(),
                None => sound = false,
            },
            "key-file-device" => match read_device(reader, value) {
                Some(found) => device = Some(found),
                None => sound = false,
            },
            "key-file-timeout" => match reader.duration(value) {
                Some(found) => timeout = Some(found),
                None => sound = false,
            },
            _ => {
                // What is alone in its table may have been meant to be any of them.
                let known: &[&str] = if alone { &TABLE_KEYS } else { &KEY_FILE_KEYS };
                reader.unknown_key(entry, "a way of `unlock`", known);
                sound = false;
            }
        }
    }
    if !sound {
        return None;
    }
    let Some(path) = path else {
        reader.refuse(item, "that is a table needs `key-file = \"/path\"` or `master = \"NAME\"`");
        return None;
    };
    Some(Located {
        place: path.place,
        value: Unlock::KeyFile(KeyFile {
            path: path.value,
            offset,
            size,
            timeout: timeout.unwrap_or(KeyFile::default_timeout(device.is_some())),
            device,
        }),
    })
}

/// The device of a key file.
fn read_device(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<DeviceSpec> {
    let text = reader.string(value)?;
    device::parse_filesystem(&text)
        .map_err(|words| reader.refuse(value, words))
        .ok()
}

/// `{ master = "NAME" }`
fn read_master(reader: &mut Reader<'_>, entries: &[Entry<'_>]) -> Option<Located<Unlock>> {
    let (mut way, mut sound) = (None, true);
    for entry in entries {
        if entry.key == "master" {
            way = reader.string(&entry.value).map(|name| Located {
                value: Unlock::Master { name },
                place: entry.value.place.clone(),
            });
        } else {
            reader.unknown_key(entry, "a way of `unlock` by a master", &["master"]);
            sound = false;
        }
    }
    way.filter(|_| sound)
}
