//! The LUKS2 token that marks the keyslot of a master: `{"type":"virt-unlock-master","keyslots":["3"],"version":1,"master":"UUID"}`.

use libcryptsetup_rs::{CryptDevice, CryptTokenInfo};
use serde::Deserialize;

use crate::host::{Header, MasterToken, OtherToken};

/// Its type: whoever reads a header knows by it whose token it is.
const TYPE: &str = "virt-unlock-master";
/// The version that this program writes, and the only one that it knows.
const VERSION: u32 = 1;
/// How many tokens a LUKS2 header may have (`LUKS2_TOKENS_MAX`, `lib/luks2/luks2.h`).
const MAX_TOKENS: u32 = 32;

/// Reads the tokens of a LUKS2 header. Of those of another type no more is read than the keyslots that they name.
pub(super) fn read_all(device: &mut CryptDevice, header: &mut Header) {
    for number in 0..MAX_TOKENS {
        let Some((kind, has_plugin)) = kind_of(device, number) else {
            continue;
        };
        let json = device.token_handle().json_get(number);
        let named = json.as_ref().ok().map(named_by).unwrap_or_default();
        header.marked.extend(&named);
        if kind != TYPE {
            header.others.push(OtherToken {
                number,
                kind,
                keyslots: named,
                has_plugin,
            });
            continue;
        }
        let token = json
            .map_err(|error| format!("token {number} cannot be read: {error}"))
            .and_then(|json| read(number, &json));
        match token {
            Ok(token) => header.tokens.push(token),
            Err(words) => header.strange_tokens.push(words),
        }
    }
}

/// The type of the token of this number, and whether libcryptsetup has a plug-in for it; `None`: there is no such token.
fn kind_of(device: &mut CryptDevice, number: u32) -> Option<(String, bool)> {
    match device.token_handle().status(number).ok()? {
        CryptTokenInfo::Inactive | CryptTokenInfo::Invalid => None,
        CryptTokenInfo::Internal(kind) | CryptTokenInfo::External(kind) => Some((kind, true)),
        CryptTokenInfo::InternalUnknown(kind) | CryptTokenInfo::ExternalUnknown(kind) => Some((kind, false)),
    }
}

/// The keyslots that a token names.
fn named_by(json: &serde_json::Value) -> Vec<u32> {
    let named = json.get("keyslots").and_then(serde_json::Value::as_array);
    let numbers = named
        .into_iter()
        .flatten()
        .filter_map(|keyslot| keyslot.as_str()?.parse().ok());
    numbers.collect()
}

/// Whether this number has a token of our type. That no plug-in of libcryptsetup knows this type is as it should be.
pub(super) fn is_ours(device: &mut CryptDevice, number: u32) -> bool {
    kind_of(device, number).is_some_and(|(kind, _)| kind == TYPE)
}

/// The token that marks a keyslot.
pub(super) fn written(master: &str, keyslot: u32) -> serde_json::Value {
    serde_json::json!({
        "type": TYPE,
        "keyslots": [keyslot.to_string()],
        "version": VERSION,
        "master": master.to_lowercase(),
    })
}

/// As it stands in the header; numbers are strings there (LUKS2 On-Disk Format, 3.1).
#[derive(Deserialize)]
struct Written {
    keyslots: Vec<String>,
    master: String,
}

fn read(number: u32, json: &serde_json::Value) -> Result<MasterToken, String> {
    match json.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => sound(number, json),
        Some(version) => Err(format!(
            "token {number} is of version {version}, and this program knows version {VERSION} alone"
        )),
        None => Err(format!("token {number} is damaged: it has no version")),
    }
}

fn sound(number: u32, json: &serde_json::Value) -> Result<MasterToken, String> {
    let damaged = |words: String| format!("token {number} is damaged: {words}");
    let written = Written::deserialize(json).map_err(|error| damaged(error.to_string()))?;
    let keyslot = match written.keyslots.as_slice() {
        [] => None,
        [keyslot] => Some(keyslot.parse().map_err(|_| damaged(format!("{keyslot:?} is no keyslot")))?),
        more => return Err(damaged(format!("it names {} keyslots", more.len()))),
    };
    Ok(MasterToken {
        number,
        version: VERSION,
        master: written.master.to_lowercase(),
        keyslot,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sound_token_names_master_and_keyslot() {
        let mut token = json!({"type": TYPE, "keyslots": ["3"], "version": 1, "master": "AB-cd", "later": true});
        let read_of = |token: &serde_json::Value| read(7, token).unwrap();
        let expected = MasterToken {
            number: 7,
            version: 1,
            master: "ab-cd".to_owned(),
            keyslot: Some(3),
        };
        assert_eq!(read_of(&token), expected);
        token["keyslots"] = json!([]);
        assert_eq!(read_of(&token).keyslot, None);
    }

    #[test]
    fn what_is_written_is_read() {
        let token = read(7, &written("AB-cd", 3)).unwrap();
        assert_eq!((token.keyslot, token.master.as_str()), (Some(3), "ab-cd"));
    }

    #[test]
    fn what_it_does_not_understand_it_says() {
        for (token, words) in [
            (json!({"version": 2}), "version 2"),
            (json!({"version": "1"}), "no version"),
            (json!({"version": 1}), "master"),
            (json!({"version": 1, "master": 5}), "expected a string"),
            (json!({"version": 1, "master": "u", "keyslots": ["1", "2"]}), "2 keyslots"),
            (json!({"version": 1, "master": "u", "keyslots": ["x"]}), "no keyslot"),
            (json!({"version": 1, "master": "u", "keyslots": 1}), "damaged"),
        ] {
            let mut whole = json!({"type": TYPE, "keyslots": []});
            whole.as_object_mut().unwrap().extend(token.as_object().unwrap().clone());
            let refused = read(7, &whole).unwrap_err();
            assert!(
                refused.starts_with("token 7 is ") && refused.contains(words),
                "{token}: {refused}"
            );
        }
    }

    proptest::proptest! {
        /// A header is written by whoever has the disk: what its tokens say is read or refused, whatever it is.
        #[test]
        fn whatever_a_token_says_is_read_or_refused(which in 0..3_usize, at in 0..200_usize, put in "[ -~]{0,6}", cut in 0..9_usize) {
            let name = ["sound", "newer", "other"][which];
            let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/token");
            let mut text = std::fs::read_to_string(format!("{corpus}/{name}.json")).unwrap();
            let at = at.min(text.len());
            text.replace_range(at..(at + cut).min(text.len()), &put);
            if let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) {
                let _ = named_by(&json);
                match read(7, &json) {
                    Ok(token) => assert!(token.number == 7 && token.version == VERSION),
                    Err(words) => assert!(words.starts_with("token 7 is ")),
                }
            }
        }
    }
}
