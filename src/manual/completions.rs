//! What a shell shows at TAB. Its script asks this program, with a variable of the environment set, what could stand at the cursor;
//! the answer comes from the command line itself and, for volumes and guests, from this host.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::builder::StyledStr;
use clap_complete::env::{Bash, EnvCompleter, Fish, Shells, Zsh};
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate};
use virt_unlock::cli::Cli;
use virt_unlock::text;
use virt_unlock::verbs::{self, Connect};

use super::Generated;

/// The variable, which names the shell. Not the crate's `COMPLETE`, which somebody may have set for something else.
const ASKED: &str = "VIRT_UNLOCK_COMPLETE";
const PROGRAM: &str = "virt-unlock";
/// The argument, of whichever command, that stands for volumes and guests.
const NAMES: &str = "names";
/// Those of `master` that stand for a master, and for volumes.
const MASTER: &str = "master";
const VOLUMES: &str = "volumes";

/// Each shell with its place in the distribution, below /usr/share.
const SCRIPTS: [(&dyn EnvCompleter, &str); 3] = [
    (&Bash, "bash-completion/completions/virt-unlock"),
    (&Zsh, "zsh/vendor-completions/_virt-unlock"),
    (&Fish, "fish/vendor_completions.d/virt-unlock.fish"),
];

/// zsh reads a script of its completions when the first TAB is pressed, and takes what it does for the answer to that.
const ZSH_FIRST: &str = "\
if [[ $funcstack[1] == _virt-unlock ]]; then
    _clap_dynamic_completer_virt_unlock
fi
";

/// The script of each shell.
pub fn scripts() -> io::Result<Vec<Generated>> {
    let script = |(shell, path): (&dyn EnvCompleter, &str)| {
        let mut text = Vec::new();
        shell.write_registration(ASKED, PROGRAM, PROGRAM, PROGRAM, &mut text)?;
        let text = String::from_utf8_lossy(&text).trim().to_owned() + "\n";
        let after = if shell.name() == Zsh.name() { ZSH_FIRST } else { "" };
        Ok((path.to_owned(), text + after))
    };
    SCRIPTS.into_iter().map(script).collect()
}

/// The answer to a shell. `None`: no shell asks.
pub fn answer(connect: Connect) -> Option<ExitCode> {
    let shell = env::var_os(ASKED)?;
    let arguments: Vec<OsString> = env::args_os().collect();
    let names = Names {
        config: config_file(&arguments),
        connect,
        quotes: shell == Bash.name(),
    };
    let shells = SCRIPTS.map(|(shell, _)| shell);
    let answered = CompleteEnv::with_factory(|| command(&names))
        .var(ASKED)
        .shells(Shells(&shells))
        .try_complete(arguments, env::current_dir().ok().as_deref());
    match answered {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        // In the middle of a line that somebody is typing there is no place for words.
        Err(_) => Some(ExitCode::FAILURE),
    }
}

/// The command line, whose names complete to those of this host.
fn command(names: &Names) -> clap::Command {
    completed(Cli::command(), names)
}

fn completed(command: clap::Command, names: &Names) -> clap::Command {
    let command = command.mut_subcommands(|below| completed(below, names));
    [NAMES, MASTER, VOLUMES].into_iter().fold(command, |command, id| {
        if !command.get_arguments().any(|argument| argument.get_id() == id) {
            return command;
        }
        let names = names.clone();
        command.mut_arg(id, |argument| {
            argument.add(ArgValueCompleter::new(move |typed: &OsStr| names.candidates(id, typed)))
        })
    })
}

/// The names of this host's volumes and guests.
#[derive(Clone)]
struct Names {
    config: Option<PathBuf>,
    connect: Connect,
    /// Whether the shell puts a name into the line as it is, so that it must be quoted here.
    quotes: bool,
}

impl Names {
    /// For the argument of this id.
    fn candidates(&self, id: &str, typed: &OsStr) -> Vec<CompletionCandidate> {
        let typed = typed.to_string_lossy();
        let config = self.config.as_deref();
        let all = |names: Vec<String>, kind| names.into_iter().map(|name| (name, kind)).collect();
        let known: Vec<(String, &str)> = match id {
            MASTER => all(verbs::names_of_masters(config).0, "master"),
            VOLUMES => all(verbs::names_of_masters(config).1, "volume"),
            _ => verbs::known_names(config, self.connect).into_iter().collect(),
        };
        known
            .into_iter()
            // Shells read the answer line by line.
            .filter(|(name, _)| !name.contains(text::moves))
            .map(|(name, kind)| (if self.quotes { quoted(&name) } else { name }, kind))
            .filter(|(name, _)| name.starts_with(&*typed))
            .map(|(name, kind)| CompletionCandidate::new(name).help(Some(StyledStr::from(kind))))
            .collect()
    }
}

/// As a person would type it: what a shell would take apart or replace has a backslash before it.
fn quoted(name: &str) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || "#+-.:=@_,%/".contains(char);
    name.chars().fold(String::new(), |mut quoted, char| {
        if !is_plain(char) {
            quoted.push('\\');
        }
        quoted.push(char);
        quoted
    })
}

/// The `--config FILE` that stands in the line.
fn config_file(arguments: &[OsString]) -> Option<PathBuf> {
    let (option, joined) = ("--config", "--config=");
    let mut line = arguments.iter().skip_while(|argument| *argument != "--").skip(1);
    while let Some(argument) = line.next() {
        if argument == option {
            // bash takes `--config=FILE` apart at the `=`.
            return line.find(|next| *next != "=").map(PathBuf::from);
        }
        if let Some(file) = argument.to_str().and_then(|argument| argument.strip_prefix(joined)) {
            return Some(file.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_a_person_would() {
        assert_eq!(quoted("web-1.raw"), "web-1.raw");
        assert_eq!(quoted("Mail server (old) $x"), r"Mail\ server\ \(old\)\ \$x");
        assert_eq!(quoted("mäil"), "mäil");
    }

    #[test]
    fn the_configuration_of_the_line_is_found() {
        let of = |line: &str| config_file(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("x -- virt-unlock --config a up"), Some("a".into()));
        assert_eq!(of("x -- virt-unlock --config=a up"), Some("a".into()));
        assert_eq!(of("x -- virt-unlock --config = a up"), Some("a".into()));
        assert_eq!(of("x --config b -- virt-unlock up"), None);
        assert_eq!(of("x -- virt-unlock up --config"), None);
    }
}
