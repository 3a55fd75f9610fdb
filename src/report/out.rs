//! Words to the standard streams. `println!` and its kin panic where nobody listens any more: the reader of a pipe that has seen
//! enough, a terminal that went away, a journal that was stopped before us. None of this may end a run.

use std::io::{self, ErrorKind, Write};

/// Puts an answer on standard output. A reader who has seen enough (`virt-unlock status | head -1`) is no error.
///
/// # Errors
/// When it cannot be written, for instance to a full disk.
pub fn answer(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Puts a line on standard error. Where nobody listens there is nobody to tell.
pub fn complain(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
