//! Figures in words for people.

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

/// A size in MiB, or GiB from 10 GiB on.
pub fn bytes(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
