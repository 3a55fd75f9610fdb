//! `virt-unlock master create`

use super::{Work, find};
use crate::config::{Master, Unlock};
use crate::event::{Happened, Outcome};
use crate::host::{Headers, Key, OpenError};
use crate::unlock::key_file;
use crate::verbs::{Failure, Verdict};

/// How often two different passphrases are taken for a slip.
const SLIPS: u32 = 3;

pub(super) fn create(work: &Work, name: &str) -> Result<Verdict, Failure> {
    let master = find(&work.session.config, name)?;
    let _lock = work.lock()?;
    let uuid = make(work, master).map_err(|error| super::not_done(name, &error))?;
    let place = master.header.display();
    let words =
        format!("master {name}: made in {place} (UUID {uuid}); keep a copy of this file: without it no volume opens by it");
    work.events.say(None, Happened::Ended(Outcome::Done(words)));
    Ok(Verdict::AsAsked)
}

fn make(work: &Work, master: &Master) -> Result<String, OpenError> {
    // Before anybody is asked for anything.
    if master.header.symlink_metadata().is_ok() {
        return Err(OpenError::Other(format!(
            "{} is there already, and is left as it is",
            master.header.display()
        )));
    }
    let key = match master.unlock.as_slice() {
        ways if ways.contains(&Unlock::Passphrase) => passphrase(work, master)?,
        [Unlock::KeyFile(file), ..] => key_file::find(work.session.host.devices.as_ref(), file)
            .ok_or_else(|| OpenError::NoKey(format!("{file}: the device is not there")))?,
        _ => passphrase(work, master)?,
    };
    work.events
        .say(None, Happened::Working(format!("making {}", master.header.display())));
    work.headers.create_master(&master.header, &key, &work.cancel)
}

/// Asks for a new one, twice. No agent that knows keys is to answer this, so the question has an id of its own.
fn passphrase(work: &Work, master: &Master) -> Result<Key, OpenError> {
    let id = format!("virt-unlock:new:{}", master.header.display());
    let mut why = "";
    for _ in 0..SLIPS {
        let first = work.ask(&format!("New passphrase for master {}{why}:", master.name), &id)?;
        if first.expose().is_empty() {
            why = ", not an empty one";
            continue;
        }
        let second = work.ask(&format!("The same passphrase for master {} again:", master.name), &id)?;
        if first.expose() == second.expose() {
            return Ok(Key::Passphrase(first));
        }
        why = ", the last two were different";
    }
    Err(OpenError::Other(format!(
        "given up after {SLIPS} times without the same passphrase twice; nothing was made"
    )))
}
