//! Man pages and completions of shells, made from the command line (`virt_unlock::cli`), so that there is one source for both and
//! for `--help`. It belongs to the main program alone: the half that asks and opens stays small.

mod completions;
mod pages;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use virt_unlock::report::complain;
use virt_unlock::verbs::Connect;

/// The hidden command of `make`, which no other program has.
const GENERATE: &str = "generate";

/// Writes what belongs to the command line, for `make build`; not for people.
#[derive(Debug, Parser)]
#[command(name = "virt-unlock generate")]
enum Generate {
    /// The man pages: man5, man7 and man8 below DIR.
    Man {
        /// Such as /usr/share/man.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// The completions: bash-completion, zsh and fish below DIR.
    Completions {
        /// Such as /usr/share.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// A file that is generated: its path below the folder, and its text.
type Generated = (String, String);

/// Answers a shell that completes, or does the hidden command. `None`: neither is what this run is for.
pub fn run(connect: Connect) -> Option<ExitCode> {
    if let Some(status) = completions::answer(connect) {
        return Some(status);
    }
    let is_asked = std::env::args_os().nth(1).is_some_and(|argument| argument == GENERATE);
    is_asked.then(|| match Generate::parse_from(std::env::args_os().skip(1)) {
        Generate::Man { folder } => write(&folder, pages::all()),
        Generate::Completions { folder } => write(&folder, completions::scripts()),
    })
}

fn write(folder: &Path, files: io::Result<Vec<Generated>>) -> ExitCode {
    let written = files.and_then(|files| {
        for (name, text) in files {
            let path = folder.join(name);
            let place = |error| io::Error::other(format!("{}: {error}", path.display()));
            write_file(&path, &text).map_err(place)?;
        }
        Ok(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("virt-unlock: not everything is written: {error}"));
            ExitCode::from(3)
        }
    }
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mut file = File::create(path)?;
    // Whatever the umask: these are for everybody to read.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())
}
