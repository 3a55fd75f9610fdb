//! What a person or a unit can have done, one story each.

mod at_once;
mod by_hand;
mod check;
mod discover;
mod down;
mod ending;
mod failure;
mod hook;
mod in_force;
mod initramfs;
mod master;
mod names;
mod notes;
mod plan;
mod service;
mod session;
mod status;
mod surroundings;
mod timeline;
mod up;

use std::process::ExitCode;
use std::sync::Arc;

pub use failure::Failure;
pub use names::{known as known_names, of_masters as names_of_masters};

use crate::cancel;
use crate::cli::{Cli, Command, InitramfsPart, MasterCommand, Part, Way};
use crate::host::{self, Hypervisor};
use crate::report::{self, Verbosity};
use crate::secret;
use crate::text;

/// Makes the adapter for libvirt; the half that runs without it has none.
pub type Connect = fn(uri: &str) -> Arc<dyn Hypervisor>;

/// What the half that runs without libvirt does without: the adapter, and the commands that only a person calls. By this they are no
/// part of that program, which goes into every initramfs.
pub struct Whole {
    connect: Connect,
    check: fn(&App) -> Result<Verdict, Failure>,
    at_once: fn(&App, &[String]) -> Result<Verdict, Failure>,
    discover: fn(&App) -> Result<Verdict, Failure>,
    timeline: fn(bool) -> Result<Verdict, Failure>,
    hook: fn(&App) -> Verdict,
    master: fn(&App, &MasterCommand) -> Result<Verdict, Failure>,
    guests: fn(&App, Way) -> Result<Verdict, Failure>,
    named: fn(&App, Way, &str) -> Result<Verdict, Failure>,
}

impl Whole {
    /// With this adapter.
    pub fn new(connect: Connect) -> Self {
        Self {
            connect,
            check: check::check,
            at_once: at_once::at_once,
            discover: discover::discover,
            timeline: timeline::timeline,
            hook: hook::hook,
            master: master::master,
            guests: service::guests,
            named: service::named,
        }
    }
}

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
pub fn run(cli: &Cli, whole: Option<&Whole>) -> ExitCode {
    secret::protect_process();
    cancel::allow_many_waits();
    let app = App {
        config: cli.config.clone(),
        verbosity: match (cli.quiet, cli.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        },
        // The unit of the volumes runs before libvirt and must not wait for it, whichever program it is run by.
        connect: whole.map(|whole| whole.connect).filter(|_| {
            !matches!(
                cli.command,
                Command::Service { part: Part::Volumes, .. } | Command::Initramfs { .. }
            )
        }),
    };
    let result = match &cli.command {
        Command::Up { names } => up::up(&app, names),
        Command::Down { names, now: false } => down::down(&app, names),
        Command::Status { json } => status::status(&app, *json),
        Command::Plan(args) => plan::plan(&app, args),
        Command::Initramfs { part } => initramfs::initramfs(&app, *part),
        Command::Service {
            part: Part::Volumes,
            way,
            ..
        } => service::volumes(&app, *way),
        other => whole.map_or_else(|| Err(not_here()), |whole| of_the_whole(&app, whole, other)),
    };
    match result {
        Ok(Verdict::AsAsked) => ExitCode::SUCCESS,
        Ok(Verdict::NotAll) => ExitCode::from(1),
        Err(failure) => {
            let words = failure.for_terminal();
            if is_of_a_unit(&cli.command) {
                report::remark(failure.priority(), failure.kind(), &words);
            } else {
                report::complain(&words);
            }
            ExitCode::from(failure.status())
        }
    }
}

/// What only the whole program has.
fn of_the_whole(app: &App, whole: &Whole, command: &Command) -> Result<Verdict, Failure> {
    match command {
        Command::Hook => Ok((whole.hook)(app)),
        Command::Check => (whole.check)(app),
        Command::Down { names, .. } => (whole.at_once)(app, names),
        Command::Discover => (whole.discover)(app),
        Command::Timeline { svg } => (whole.timeline)(*svg),
        Command::Master(command) => (whole.master)(app, command),
        Command::Service {
            part: Part::Guests, way, ..
        } => (whole.guests)(app, *way),
        Command::Service {
            part: Part::Named,
            way,
            name,
        } => (whole.named)(app, *way, name.as_deref().unwrap_or_default()),
        _ => Err(not_here()),
    }
}

fn not_here() -> Failure {
    Failure::Usage("this half of the program opens volumes, and does not have this command: `virt-unlock` does".to_owned())
}

/// Whether systemd runs this, so that what it says belongs to the journal.
fn is_of_a_unit(command: &Command) -> bool {
    matches!(
        command,
        Command::Service { .. }
            | Command::Initramfs {
                part: InitramfsPart::Open
            }
    )
}

/// A worker is this program again, with one hidden argument: it is no command of the command line, so that nothing is parsed
/// before the passphrase is in locked memory.
pub fn is_worker() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == host::worker::ARGUMENT)
}

/// Puts a verb's answer on standard output.
fn answer(text: &str) -> Result<(), Failure> {
    report::answer(text).map_err(|error| Failure::Unable(format!("the answer cannot be written to standard output: {error}")))
}

/// A verb's answer for programs.
fn answer_json(document: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::Unable(format!("the answer cannot be put into JSON: {error}")))?;
    answer(&(ascii_where_it_moves(&text) + "\n"))
}

/// The same document, with those characters of its strings escaped that would move the cursor of a terminal it is shown at.
/// Between strings there is no such character but the ends of lines.
fn ascii_where_it_moves(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter != '\n' && text::moves(letter) {
            // All of them have four digits (`text::moves`).
            safe.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// What a verb says where no volume and no guest is configured.
const NOTHING_CONFIGURED: &str =
    "nothing is configured: each encrypted volume needs a [volume.NAME] table (config.example.toml shows how)";

/// What every verb starts from.
struct App {
    config: Option<std::path::PathBuf>,
    verbosity: Verbosity,
    connect: Option<Connect>,
}

/// Runs the worker that the hidden argument asks for.
pub use crate::host::worker::main as worker;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_means_the_same_and_moves_no_cursor() {
        let document = serde_json::json!({ "na\u{202e}me": "a\u{9b}2J\x1b[2J\n\u{7f}größe 客户\u{2028}" });
        let text = ascii_where_it_moves(&serde_json::to_string_pretty(&document).unwrap());
        assert!(!text.contains(|letter| letter != '\n' && text::moves(letter)), "{text:?}");
        assert!(text.contains("größe 客户") && text.contains("\\u009b2J"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), document);
    }
}
