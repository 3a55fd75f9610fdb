//! What our units have written to the journal of this boot, read by systemd's own program.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::child::Child;
use crate::cancel::Cancel;
use crate::text;

/// A journal of months on a slow disk.
const LIMIT: Duration = Duration::from_secs(60);
/// More than a way up of hundreds of guests takes, in bytes.
const KEPT: usize = 8 << 20;
const FIELDS: &str = "--output-fields=MESSAGE_ID,PRIORITY,VIRT_UNLOCK_LAYER,VIRT_UNLOCK_SPAN";

/// The entries of our units, one object of JSON in a line (journalctl(1)), the newest first. Of very many only those are there, and
/// the last line may be cut.
///
/// # Errors
/// When the journal cannot be read; the words say why.
pub fn entries_of_units(cancel: &Cancel) -> Result<String, String> {
    let mut command = Command::new("journalctl");
    command
        .args([
            "--boot",
            "--quiet",
            "--no-pager",
            "--all",
            "--reverse",
            "--output=json",
            FIELDS,
        ])
        .args(["--identifier=virt-unlock", "_UID=0"])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = Child::spawn(&mut command)
        .map_err(|error| format!("journalctl cannot be started: {error}"))?
        .keeping(KEPT)
        .wait(&[], Some(LIMIT), cancel)
        .map_err(|error| format!("journalctl: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = text::plain(&String::from_utf8_lossy(&output.stderr));
    Err(format!("journalctl does not read the journal of this boot: {words}"))
}
