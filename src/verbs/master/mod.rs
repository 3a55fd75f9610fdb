//! `virt-unlock master`: makes masters, and lets them open volumes.

mod create;
mod keys;
mod list;
mod members;

use std::io::IsTerminal;

use super::session::Session;
use super::{App, Failure, Verdict};
use crate::cancel::Cancel;
use crate::cli::MasterCommand;
use crate::config::{self, Config, Master, Volume};
use crate::event::{Events, Happened};
use crate::host::OpenError;
use crate::host::lock::{Demand, Lock, Part};
use crate::host::orders::{Order, Orders};
use crate::host::volumes::Cryptsetup;
use crate::report::Report;

/// Where masters lie unless somebody wants them elsewhere.
const FOLDER: &str = "/etc/virt-unlock/masters";

pub(super) fn master(app: &App, command: &MasterCommand) -> Result<Verdict, Failure> {
    match command {
        MasterCommand::Create { master } => create::create(&Work::begin(app, "create")?, master),
        MasterCommand::Enroll { master, volumes } => members::enroll(&Work::begin(app, "enroll")?, master, volumes),
        MasterCommand::Revoke { master, volumes } => members::revoke(&Work::begin(app, "revoke")?, master, volumes),
        MasterCommand::List { json } => list::list(app, *json),
    }
}

/// What each command that changes headers starts from.
struct Work {
    session: Session,
    headers: Cryptsetup,
    events: Events,
    cancel: Cancel,
    what: String,
}

impl Work {
    fn begin(app: &App, command: &str) -> Result<Self, Failure> {
        Session::need_root(&format!("master {command}"))?;
        let session = Session::begin(app, std::io::stderr().is_terminal())?;
        let orders = Orders::listen(|order| order == Order::Terminate)?;
        Ok(Self {
            session,
            headers: Cryptsetup::default(),
            events: Report::in_passing(app.verbosity).events(),
            cancel: orders.cancel(),
            what: format!("`virt-unlock master {command}`"),
        })
    }

    /// Only one at a time changes headers.
    fn lock(&self) -> Result<Lock, Failure> {
        Session::lock(Part::Headers, &self.what, Demand::Patience, &self.events, &self.cancel)
    }

    fn warn(&self, words: impl Into<String>) {
        self.events.say(None, Happened::Warning(words.into()));
    }
}

/// The master of this name.
fn find<'a>(config: &'a Config, name: &str) -> Result<&'a Master, Failure> {
    if let Some(master) = config.master(name) {
        return Ok(master);
    }
    config::check_master(name).map_err(|why| Failure::Usage(format!("no master can have the name {name:?}: {why}")))?;
    let there_are: Vec<&str> = config.masters.iter().map(|master| master.name.as_str()).collect();
    let there_are = match there_are.as_slice() {
        [] => String::new(),
        names => format!(" (there are {})", names.join(", ")),
    };
    let table = config::master_table(&Master::new(name, format!("{FOLDER}/{name}.luks").into()));
    Err(Failure::NotConfigured {
        words: format!("the configuration has no master {name:?}{there_are}; a new one needs these two lines in config.toml"),
        table: table.unwrap_or_default(),
    })
}

/// What a master did not come to.
fn not_done(name: &str, error: &OpenError) -> Failure {
    match error {
        OpenError::Cancelled => Failure::Cancelled,
        error => Failure::NotDone(format!("master {name}: {error}")),
    }
}

/// The volumes of these names, each once.
fn volumes<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Volume>, Failure> {
    let mut found: Vec<&Volume> = Vec::new();
    for name in names {
        let volume = config
            .volume(name)
            .ok_or_else(|| Failure::Usage(format!("no volume {name:?} in the configuration")))?;
        if !found.iter().any(|known| known.name == volume.name) {
            found.push(volume);
        }
    }
    Ok(found)
}
