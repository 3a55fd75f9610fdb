//! Words for people: figures, and text without anything that could move a cursor.

use std::time::Duration;

/// A duration as systemd writes it: `90s`, `3min`, `1h 30min`, `500ms`, `0`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match duration.subsec_millis() {
            0 => "0".to_owned(),
            millis => format!("{millis}ms"),
        };
    }
    if seconds < 120 && !seconds.is_multiple_of(60) {
        return format!("{seconds}s");
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let words: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    words.join(" ")
}

/// The same, in whole seconds.
pub fn seconds(length: Duration) -> String {
    duration(Duration::from_secs_f64(length.as_secs_f64().round()))
}

/// A time in seconds since 1970, as RFC 3339 has it: `2025-11-27T23:21:39Z`.
pub fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March: the leap day is their last. Day 0 is that of the year 0 (Hinnant, chrono-Compatible Low-Level Date
    // Algorithms, civil_from_days).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A size in MiB, or GiB from 10 GiB on.
pub fn bytes(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

/// One line without control characters: names of guests and words of other programs may hold anything.
pub fn plain(text: &str) -> String {
    let text = text.trim_end();
    if text.contains(moves) {
        text.replace(['\n', '\t'], " ").replace(moves, "?")
    } else {
        text.to_owned()
    }
}

/// Whether a character does something else than to stand where it is: control characters, line separators, and those that turn the
/// direction of what follows, with which one name could look like another (Unicode, `Bidi_Control`).
pub fn moves(char: char) -> bool {
    let turns = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    char.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_its_date() {
        for (seconds, words) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_764_285_699, "2025-11-27T23:21:39Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), words);
        }
    }

    #[test]
    fn nothing_of_a_name_moves_the_cursor() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}d"), "a?[2Jb c?d");
        assert_eq!(plain("ab\u{202e}cd\u{2028}"), "ab?cd");
        assert_eq!(plain("größe 客户"), "größe 客户");
    }

    #[test]
    fn durations_read_as_systemd_writes_them() {
        let words = [
            (0, "0"),
            (1, "1s"),
            (60, "1min"),
            (90, "90s"),
            (180, "3min"),
            (5400, "1h 30min"),
            (3601, "1h 1s"),
        ];
        for (seconds, written) in words {
            assert_eq!(duration(Duration::from_secs(seconds)), written);
        }
        assert_eq!(duration(Duration::from_millis(500)), "500ms");
    }
}
