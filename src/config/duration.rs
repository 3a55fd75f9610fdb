//! Spans of time as systemd writes them, systemd.time(7): `90s`, `3min`, `1h 30min`, `500ms`; a bare number is seconds.

use std::time::Duration;

use super::problem::quoted;

/// The longest span, so that no deadline computed from one can overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// Units and their length in milliseconds.
const UNITS: [(&[&str], u64); 5] = [
    (&["ms", "msec"], 1),
    (&["", "s", "sec", "second", "seconds"], 1000),
    (&["m", "min", "minute", "minutes"], 60 * 1000),
    (&["h", "hr", "hour", "hours"], 60 * 60 * 1000),
    (&["d", "day", "days"], DAY * 1000),
];

/// The span that is written, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write it as `90s`, `3min`, `1h 30min` or `0`";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("an empty span of time; {FORM}"));
    }
    if rest.starts_with('-') {
        return Err(format!("{} is negative; {FORM}", quoted(text)));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return Err(format!("{} is no span of time; {FORM}", quoted(text)));
        }
        let after = after.trim_start();
        let letters = after.len() - after.trim_start_matches(char::is_alphabetic).len();
        let (unit, after) = after.split_at(letters);
        let Some((_, length)) = UNITS.iter().find(|(names, _)| names.contains(&unit)) else {
            return Err(format!(
                "{} is no unit of time; use `ms`, `s`, `min`, `h` or `d`",
                quoted(unit)
            ));
        };
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*length));
        total = part
            .and_then(|part| total.checked_add(Duration::from_millis(part)))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| format!("{} is longer than a year", quoted(text)))?;
        rest = after.trim_start();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemd_writes() {
        let spans = [
            ("0", 0),
            ("90", 90_000),
            ("90s", 90_000),
            ("3min", 180_000),
            ("1h", 3_600_000),
            ("1h 30min", 5_400_000),
            ("1h30min", 5_400_000),
            (" 2 hours 5 sec ", 7_205_000),
            ("500ms", 500),
            ("1d", 86_400_000),
            ("365 days", 31_536_000_000),
            ("1 minute 1 second 1 hr", 3_661_000),
        ];
        for (text, millis) in spans {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text:?}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let wrong = [
            ("", "an empty span"),
            ("-5s", "`-5s` is negative"),
            ("soon", "`soon` is no span of time"),
            ("1.5h", "`1.5h` is no span of time"),
            ("s", "`s` is no span of time"),
            ("5 parsecs", "`parsecs` is no unit of time"),
            ("3M", "`M` is no unit of time"),
            ("infinity", "`infinity` is no span of time"),
            ("366d", "longer than a year"),
            ("99999999999999999999s", "longer than a year"),
            ("18446744073709551615h", "longer than a year"),
            ("5s\u{663}", "is no span of time"),
        ];
        for (text, words) in wrong {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn reads_back_what_the_program_writes() {
        for seconds in [0, 1, 59, 60, 90, 180, 3601, 5400, 90_061] {
            let span = Duration::from_secs(seconds);
            assert_eq!(parse(&crate::text::duration(span)), Ok(span));
        }
    }
}
