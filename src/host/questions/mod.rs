//! Questions by systemd-ask-password(1): whoever is there to answer does, on the console, at a splash screen, in a terminal, or
//! a machine that knows the key by the question's `Id=` (the protocol: <https://systemd.io/PASSWORD_AGENTS/>).

mod loop_device;
mod terminal;

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::lock::{self, Demand, FOLDER, Lock, LockError, Part};
use super::ports::{Question, QuestionError, Questions};
use super::tool::{Tool, last_line};
use crate::cancel::Cancel;
use crate::secret::{MAX_PASSPHRASE, Secret};

use loop_device::LoopDevice;
use terminal::Agent;

/// How long a question that is taken back may need to clean up after itself.
const GRACE: Duration = Duration::from_secs(2);

/// Asks whoever can answer.
#[derive(Clone, Copy, Debug)]
pub struct AskPassword {
    /// Whether somebody sits at this process's terminal and is to be asked there too.
    pub terminal: bool,
}

impl Questions for AskPassword {
    fn alone(&self, say: &dyn Fn(), cancel: &Cancel) -> Result<Option<Lock>, QuestionError> {
        let say = |_: &lock::Holder| say();
        match lock::acquire(Path::new(FOLDER), Part::Question, "a question", Demand::Patience, say, cancel) {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::Cancelled) => Err(QuestionError::Cancelled),
            // Two questions side by side are better than none.
            Err(LockError::Io { .. }) => Ok(None),
        }
    }

    fn ask(&self, question: &Question, cancel: &Cancel) -> Result<Secret, QuestionError> {
        if cancel.is_raised() {
            return Err(QuestionError::Cancelled);
        }
        // Dropped after the question, whose end is what makes it let go of the terminal.
        let _agent = if self.terminal {
            Agent::start().map_err(|error| cannot_run(&error))?
        } else {
            None
        };
        let device = LoopDevice::for_question(&question.id);
        let id = device.as_ref().map_or_else(|| question.id.clone(), LoopDevice::id);
        let mut tool = Tool::spawn(&mut command(&question.words, &id), GRACE).map_err(|error| cannot_run(&error))?;
        let status = tool.wait(None, cancel).map_err(|_| QuestionError::Cancelled)?;
        // What it says fits into the pipes (an answer has one page at most), so it never waited for us to read.
        let process = tool.process();
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        if status.success() {
            let mut stdout = stdout.ok_or_else(|| QuestionError::Failed("there is no answer to read".to_owned()))?;
            return Secret::read_from(&mut stdout, MAX_PASSPHRASE)
                .map_err(|error| QuestionError::Failed(format!("the answer cannot be taken: {error}")));
        }
        Err(why(status, stderr))
    }

    fn cached(&self) -> Vec<Secret> {
        super::keyring::cached_passphrases()
    }
}

/// The options that systemd 252 and 257 both have.
fn command(words: &str, id: &str) -> Command {
    let mut command = Command::new("systemd-ask-password");
    command
        // Never at a terminal by itself: agents alone know that a question was answered elsewhere.
        .arg("--no-tty")
        .arg("--timeout=0")
        .arg("-n")
        .arg(format!("--id={id}"))
        .arg("--")
        .arg(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // It would take a credential named "password" of our service for the answer.
        .env_remove("CREDENTIALS_DIRECTORY")
        // Its words come to us, and in the language in which we know them.
        .env("LC_ALL", "C")
        .env("SYSTEMD_LOG_TARGET", "console")
        .env("SYSTEMD_LOG_LEVEL", "info")
        .env("SYSTEMD_LOG_COLOR", "0")
        // Ctrl+C is for us to hear: we take the question back then.
        .process_group(0);
    command
}

fn cannot_run(error: &io::Error) -> QuestionError {
    QuestionError::Failed(match error.kind() {
        io::ErrorKind::NotFound => {
            "systemd-ask-password or systemd-tty-ask-password-agent is not installed; they are in the package systemd".to_owned()
        }
        _ => format!("cannot run systemd-ask-password: {error}"),
    })
}

fn why(status: ExitStatus, stderr: Option<ChildStderr>) -> QuestionError {
    let mut words = String::new();
    if let Some(mut stderr) = stderr {
        let _ = stderr.read_to_string(&mut words);
    }
    match last_line(&words) {
        // strerror(ECANCELED): somebody declined.
        line if line.contains("Operation canceled") => QuestionError::Declined,
        "" => QuestionError::Failed(match status.signal() {
            Some(signal) => format!("systemd-ask-password was ended by signal {signal}"),
            None => format!("systemd-ask-password ended with {status} and without a word"),
        }),
        line => QuestionError::Failed(format!("systemd-ask-password says: {line}")),
    }
}
