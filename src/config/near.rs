//! The nearest known word for one that nobody knows.

use super::problem::quoted;

/// What to say after "unknown X": the nearest of the `known`, or all of them.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, kind: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(near) = nearest(word, &known) {
        return format!("did you mean {}?", quoted(near));
    }
    if known.is_empty() {
        return format!("there are no {kind}");
    }
    let all: Vec<String> = known.iter().map(|word| quoted(word)).collect();
    format!("known {kind}: {}", all.join(", "))
}

/// The known word that `word` was most likely meant to be: few letters away, whatever its case, `_` for `-`.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('_', "-");
    let written = plain(word);
    // A word so long is no typing error, and the distance takes the product of both lengths.
    if written.len() > 256 {
        return None;
    }
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&written, &plain(known)), *known))
        .filter(|(distance, known)| *distance <= (known.chars().count().max(written.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant_and_nothing_where_nothing_is_near() {
        let known = ["device", "device-timeout", "tries", "read-only", "mount"];
        let expected = [
            ("devise", Some("device")),
            ("device_timeout", Some("device-timeout")),
            ("Mount", Some("mount")),
            ("readonly", Some("read-only")),
            ("try", None),
            ("colour", None),
            ("", None),
        ];
        for (word, meant) in expected {
            assert_eq!(nearest(word, &known), meant, "{word:?}");
        }
    }

    #[test]
    fn hints_name_the_nearest_or_all() {
        assert_eq!(hint("mial", ["mail", "web"], "volumes"), "did you mean `mail`?");
        assert_eq!(hint("zzz", ["mail", "web"], "volumes"), "known volumes: `mail`, `web`");
        assert_eq!(hint("zzz", [], "volumes"), "there are no volumes");
    }
}
