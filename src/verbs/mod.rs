//! What a person or a unit can have done, one story each.

mod check;
mod down;
mod failure;
mod notes;
mod plan;
mod service;
mod session;
mod status;
mod surroundings;
mod up;

use std::process::ExitCode;
use std::sync::Arc;

pub use failure::Failure;

use crate::cli::{Cli, Command, Part, Way};
use crate::host::{self, Hypervisor};
use crate::report::Verbosity;
use crate::secret;

/// Makes the adapter for libvirt; the half that runs without it has none.
pub type Connect = fn(uri: &str) -> Arc<dyn Hypervisor>;

/// Whether all is as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All as asked.
    AsAsked,
    /// Something is not; the rest was done, and it was said what.
    NotAll,
}

impl From<bool> for Verdict {
    fn from(good: bool) -> Self {
        if good { Self::AsAsked } else { Self::NotAll }
    }
}

/// Does what the command line says, and returns the exit status (see `cli`).
pub fn run(cli: &Cli, connect: Option<Connect>) -> ExitCode {
    secret::protect_process();
    let app = App {
        config: cli.config.clone(),
        verbosity: match (cli.quiet, cli.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        },
        connect,
    };
    let result = match &cli.command {
        Command::Up { names } => up::up(&app, names),
        Command::Down { names } => down::down(&app, names),
        Command::Status { json } => status::status(&app, *json),
        Command::Plan(args) => plan::plan(&app, args),
        Command::Check => check::check(&app),
        Command::Service { part, way } => match (part, way) {
            (Part::Volumes, Way::Up) => service::volumes_up(&app),
            (Part::Volumes, Way::Down) => service::volumes_down(&app),
            (Part::Guests, Way::Up) => service::guests_up(&app),
            (Part::Guests, Way::Down) => service::guests_down(&app),
        },
    };
    match result {
        Ok(Verdict::AsAsked) => ExitCode::SUCCESS,
        Ok(Verdict::NotAll) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("{}", failure.for_terminal());
            ExitCode::from(failure.status())
        }
    }
}

/// A worker is this program again, with one hidden argument: it is no command of the command line, so that nothing is parsed
/// before the passphrase is in locked memory.
pub fn is_worker() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == host::worker::ARGUMENT)
}

/// What every verb starts from.
struct App {
    config: Option<std::path::PathBuf>,
    verbosity: Verbosity,
    connect: Option<Connect>,
}

/// Runs the worker that the hidden argument asks for.
pub use crate::host::worker::main as worker;
