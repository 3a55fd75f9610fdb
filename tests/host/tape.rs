//! What was heard on a line since power-on: text without terminal escapes, each piece with its time.

use std::{
    fs::File,
    io::{Read, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A growing record that one thread writes and others wait on.
pub struct Tape {
    record: Mutex<Record>,
    news: Condvar,
    start: Instant,
}

/// The record itself; offsets count bytes of `text`.
#[derive(Default)]
pub struct Record {
    text: String,
    stamps: Vec<(usize, Duration)>,
    ended: bool,
}

impl Record {
    /// All the text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True once the other end is gone.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// When the byte at `offset` was heard, counted from power-on.
    pub fn time_at(&self, offset: usize) -> Duration {
        let next = self.stamps.partition_point(|(start, _)| *start <= offset);
        next.checked_sub(1).map_or(Duration::ZERO, |i| self.stamps[i].1)
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> String {
        let lines: Vec<_> = self.text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The time limit passed.
    Late,
    /// The line went dead: the host is off.
    Ended,
}

impl Tape {
    /// An empty tape whose clock starts at `start`.
    pub fn new(start: Instant) -> Self {
        Self {
            record: Mutex::default(),
            news: Condvar::new(),
            start,
        }
    }

    /// Reads `line` until it ends; each whole line of text also goes to `log`, stamped. `raw` gets every byte as it came.
    pub fn record(&self, mut line: impl Read, mut log: File, mut raw: impl FnMut(&[u8])) {
        let (mut strip, mut buffer, mut written) = (Strip::default(), [0; 4096], 0);
        while let Ok(count @ 1..) = line.read(&mut buffer) {
            raw(&buffer[..count]);
            let now = self.start.elapsed();
            let mut record = self.lock();
            let from = record.text.len();
            record.stamps.push((from, now));
            strip.feed(&buffer[..count], &mut record.text);
            while let Some(length) = record.text[written..].find('\n') {
                let _ = writeln!(log, "{:9.3} {}", now.as_secs_f64(), &record.text[written..written + length]);
                written += length + 1;
            }
            drop(record);
            self.news.notify_all();
        }
        let mut record = self.lock();
        record.ended = true;
        let _ = writeln!(log, "{:9.3} {}", self.start.elapsed().as_secs_f64(), &record.text[written..]);
        drop(record);
        self.news.notify_all();
    }

    /// Waits until `test` finds what it looks for; looks again only when something new was heard.
    pub fn wait<T>(&self, limit: Duration, mut test: impl FnMut(&Record) -> Option<T>) -> Result<T, Missed> {
        let deadline = Instant::now() + limit;
        let mut record = self.lock();
        loop {
            if let Some(found) = test(&record) {
                return Ok(found);
            }
            if record.ended {
                return Err(Missed::Ended);
            }
            let Some(rest) = deadline.checked_duration_since(Instant::now()) else {
                return Err(Missed::Late);
            };
            record = self.news.wait_timeout(record, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The record as it is now.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves out terminal escapes, carriage returns and bells; bytes that are not UTF-8 become U+FFFD.
#[derive(Default)]
struct Strip {
    escape: Escape,
    partial: Vec<u8>,
}

#[derive(Default, Clone, Copy)]
enum Escape {
    #[default]
    No,
    Begun,
    Csi,
    Osc,
}

impl Strip {
    fn feed(&mut self, bytes: &[u8], text: &mut String) {
        for &byte in bytes {
            self.escape = match (self.escape, byte) {
                (Escape::No | Escape::Osc, 0x1b) | (Escape::Begun, 0x20..=0x2f) => Escape::Begun,
                (Escape::Begun, b'[') | (Escape::Csi, 0x20..=0x3f) => Escape::Csi,
                // Ends with a bell (systemd's "ESC ] 104") or with another escape.
                (Escape::Begun, b']') => Escape::Osc,
                (Escape::Osc, byte) if byte != 0x07 => Escape::Osc,
                (Escape::No, byte) => {
                    if !matches!(byte, b'\r' | 0x07 | 0) {
                        self.partial.push(byte);
                    }
                    Escape::No
                }
                _ => Escape::No,
            };
        }
        self.flush(text);
    }

    /// Moves what is whole into `text`; a character that is cut in the middle waits for its rest.
    fn flush(&mut self, text: &mut String) {
        let whole = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let rest = self.partial.split_off(whole);
        text.push_str(&String::from_utf8_lossy(&self.partial));
        self.partial = rest;
    }
}
