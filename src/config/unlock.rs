//! `unlock = …`: the ways to a volume's key.

use std::path::PathBuf;

use super::types::Unlock;
use super::value::{Located, Reader, Value};
use crate::secret::MAX_KEY;

const KEY_FILE_KEYS: [&str; 3] = ["key-file", "key-file-offset", "key-file-size"];
const EXPECTED: &str = "an array of ways such as [\"passphrase\", { key-file = \"/path\" }]";

/// The ways with their places; a key file's place is that of its path. `None`: something is wrong.
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

fn read_way(reader: &mut Reader<'_>, item: &Value<'_>) -> Option<Located<Unlock>> {
    let Some(table) = item.inner.as_table() else {
        if !item.inner.is_str() {
            reader.wrong_type(item, "\"passphrase\" or { key-file = \"/path\" }");
            return None;
        }
        return reader.word(item, &["passphrase"], &["token"]).map(|_| Located {
            value: Unlock::Passphrase,
            place: item.place.clone(),
        });
    };
    let entries = reader.entries(table);
    if let Some(later) = entries.iter().find(|entry| matches!(entry.key, "credential" | "master")) {
        let written = format!("`{{ {} = … }}`", later.key);
        reader.not_yet(item, &written);
        return None;
    }
    let mut path: Option<Located<PathBuf>> = None;
    let (mut offset, mut size, mut sound) = (0, None, true);
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
            _ => {
                reader.unknown_key(&entry, "a way of `unlock`", &KEY_FILE_KEYS);
                sound = false;
            }
        }
    }
    if !sound {
        return None;
    }
    let Some(path) = path else {
        reader.refuse(item, "that is a table needs `key-file = \"/path\"`");
        return None;
    };
    Some(Located {
        place: path.place,
        value: Unlock::KeyFile {
            path: path.value,
            offset,
            size,
        },
    })
}
