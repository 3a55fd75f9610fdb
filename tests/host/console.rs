//! A terminal of the host, used as a person uses it: read, wait for words, type.

use super::{
    patience,
    tape::{Missed, Tape},
};
use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// Between two keys. Our program takes an answer that comes at once for a machine's.
const KEY: Duration = Duration::from_millis(50);

/// One terminal line of a running host.
pub struct Console {
    name: &'static str,
    tape: Arc<Tape>,
    keys: Mutex<UnixStream>,
    read_to: Mutex<usize>,
    log: PathBuf,
}

/// Words that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Since power-on.
    pub at: Duration,
    offset: usize,
}

impl Console {
    pub(super) fn new(name: &'static str, tape: Arc<Tape>, keys: UnixStream, log: PathBuf) -> Self {
        Self {
            name,
            tape,
            keys: Mutex::new(keys),
            read_to: Mutex::new(0),
            log,
        }
    }

    /// Waits until `words` stand in the text after what was last waited for, and reads up to there.
    #[track_caller]
    pub fn expect(&self, words: &str, limit: Duration) -> Seen {
        let mut read_to = self.read_to.lock().unwrap_or_else(PoisonError::into_inner);
        let from = *read_to;
        let found = self.tape.wait(patience(limit), |record| {
            let offset = from + record.text()[from..].find(words)?;
            Some(Seen {
                at: record.time_at(offset),
                offset,
            })
        });
        match found {
            Ok(seen) => {
                *read_to = seen.offset + words.len();
                seen
            }
            Err(Missed::Late) => self.fail(&format!("no {words:?} within {limit:?}")),
            Err(Missed::Ended) => self.fail(&format!("no {words:?} before the host went off")),
        }
    }

    /// True when `words` stand in the text after what was last waited for; reads nothing.
    pub fn shows(&self, words: &str) -> bool {
        let from = *self.read_to.lock().unwrap_or_else(PoisonError::into_inner);
        self.tape.lock().text()[from..].contains(words)
    }

    /// Where `words` first stood since power-on.
    #[track_caller]
    pub fn seen(&self, words: &str) -> Seen {
        self.find(words)
            .unwrap_or_else(|| self.fail(&format!("{words:?} was never seen")))
    }

    /// Fails unless all of these were seen since power-on, their first appearances in this order.
    #[track_caller]
    pub fn assert_order(&self, words: &[&str]) {
        for pair in words.windows(2) {
            if self.seen(pair[0]) >= self.seen(pair[1]) {
                self.fail(&format!("{:?} was not before {:?}", pair[0], pair[1]));
            }
        }
    }

    /// Fails if `words` were seen since power-on.
    #[track_caller]
    pub fn assert_never(&self, words: &str) {
        if let Some(seen) = self.find(words) {
            self.fail(&format!("{words:?} was seen at {:?}", seen.at));
        }
    }

    /// The rest of the line that was heard after `words`, once it has ended, and when.
    #[track_caller]
    pub fn line_after(&self, words: &str, limit: Duration) -> (String, Duration) {
        let seen = self.expect(words, limit);
        let from = seen.offset + words.len();
        let rest = self.tape.wait(patience(limit), |record| {
            let text = &record.text()[from..];
            Some(text[..text.find('\n')?].to_owned())
        });
        match rest {
            Ok(rest) => (rest, seen.at),
            Err(_) => self.fail(&format!("the line of {words:?} has no end")),
        }
    }

    /// All the text since power-on.
    pub fn text(&self) -> String {
        self.tape.lock().text().to_owned()
    }

    /// Types `text` and Enter at a person's speed.
    #[track_caller]
    pub fn type_line(&self, text: &str) {
        self.type_keys(text);
        self.type_keys("\r");
    }

    /// Types `text` alone: control characters work too (`\x03` is Ctrl-C).
    #[track_caller]
    pub fn type_keys(&self, text: &str) {
        let mut bytes = [0; 4];
        for key in text.chars() {
            thread::sleep(KEY);
            self.send(key.encode_utf8(&mut bytes).as_bytes());
        }
    }

    #[track_caller]
    fn send(&self, bytes: &[u8]) {
        let sent = self.keys.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
        if let Err(error) = sent {
            self.fail(&format!("cannot type: {error}"));
        }
    }

    pub(super) fn keys(&self) -> std::io::Result<UnixStream> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).try_clone()
    }

    pub(super) fn tape(&self) -> &Tape {
        &self.tape
    }

    fn find(&self, words: &str) -> Option<Seen> {
        let record = self.tape.lock();
        record.text().find(words).map(|offset| Seen {
            at: record.time_at(offset),
            offset,
        })
    }

    /// Ends the test, showing what this line said last.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        let tail = self.tape.lock().tail(40);
        panic!(
            "{}: {what}\n---- last lines of {} ----\n{tail}\n---- all of it: {} ----",
            self.name,
            self.name,
            self.log.display()
        );
    }
}
