//! What libcryptsetup says of its errors: better words than an errno's.

use std::sync::{Mutex, PoisonError};

use libcryptsetup_rs::consts::vals::CryptLogLevel;
use libcryptsetup_rs::{c_logging_callback, set_log_callback};

/// One log for the process, as libcryptsetup has one callback; a worker does one thing.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

c_logging_callback!(callback, (), note);

#[allow(clippy::needless_pass_by_value)] // as the binding's macro calls it
fn note(level: CryptLogLevel, words: &str, _: Option<&mut ()>) {
    if level == CryptLogLevel::Error {
        let words = words.trim_end_matches('.');
        SAID.lock().unwrap_or_else(PoisonError::into_inner).push(words.to_owned());
    }
}

/// Begins to listen. Without this, errors go to standard error and other words into standard output.
pub(super) fn collect() {
    set_log_callback::<()>(Some(callback), None);
}

/// Forgets the errors until now.
pub(super) fn forget() {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The errors until now, in one line; `None`: it said nothing.
pub(super) fn words() -> Option<String> {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    (!said.is_empty()).then(|| said.join("; "))
}
