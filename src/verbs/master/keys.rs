//! The keys of what is there already: files first, then the person. It is a person who works on headers, so there is one to be asked.

use super::Work;
use crate::config::{Master, Unlock, Volume};
use crate::host::{Key, OpenError, Question, QuestionError};
use crate::secret::Secret;
use crate::text::plain;
use crate::unlock::key_file;

/// A token locks itself after a few wrong PINs: a slip or two, and then the next way.
const PIN_TRIES: u32 = 3;

/// What is to be opened.
pub(super) struct Locked<'a> {
    /// What it is: `volume mail`.
    what: String,
    /// The question's, by which agents know whose key is asked for.
    id: String,
    unlock: &'a [Unlock],
    tries: u32,
    /// Whether its tokens may open it: they never give away the key itself, which a change of a volume's header takes.
    by_token: bool,
}

impl<'a> Locked<'a> {
    pub fn master(master: &'a Master) -> Self {
        Self {
            what: format!("master {}", master.name),
            id: format!("cryptsetup:{}", master.header.display()),
            unlock: &master.unlock,
            tries: master.tries,
            by_token: true,
        }
    }

    pub fn volume(volume: &'a Volume, device: &std::path::Path) -> Self {
        Self {
            what: format!("volume {}", volume.name),
            id: format!("cryptsetup:{}", device.display()),
            unlock: &volume.unlock,
            tries: volume.tries,
            by_token: false,
        }
    }
}

impl Work {
    /// Tries one key after the other; also what was typed where that opened it. `known`: passphrases that opened others of its group.
    pub fn unlock<R>(
        &self,
        locked: &Locked<'_>,
        known: &[Secret],
        attempt: &mut dyn FnMut(&Key) -> Result<R, OpenError>,
    ) -> Result<(R, Option<Secret>), OpenError> {
        for way in locked.unlock {
            if *way == Unlock::Token && locked.by_token {
                match self.by_token(locked, attempt) {
                    Err(OpenError::NoKey(words)) => self.warn(format!("{}: token: {words}", locked.what)),
                    result => return result.map(|opened| (opened, None)),
                }
            }
            let Unlock::KeyFile(file) = way else { continue };
            let Some(key) = key_file::find(self.session.host.devices.as_ref(), file) else {
                self.warn(format!("{}: {file}: the device is not there", locked.what));
                continue;
            };
            match attempt(&key) {
                Err(error @ (OpenError::WrongKey | OpenError::KeyFile(_) | OpenError::NoKey(_))) => {
                    self.warn(format!("{}: {file}: {error}", locked.what));
                }
                result => return result.map(|opened| (opened, None)),
            }
        }
        for secret in known {
            match attempt(&Key::Passphrase(secret.clone())) {
                Err(OpenError::WrongKey) => {}
                result => return result.map(|opened| (opened, Some(secret.clone()))),
            }
        }
        let mut used = 0;
        loop {
            let mut words = format!("Passphrase for {}, try {}", locked.what, used + 1);
            if locked.tries > 0 {
                words.push_str(&format!(" of {}", locked.tries));
            }
            if used > 0 {
                words.push_str(", the last one was wrong");
            }
            let secret = self.ask(&(words + ":"), &locked.id)?;
            match attempt(&Key::Passphrase(secret.clone())) {
                Err(OpenError::WrongKey) => used += 1,
                result => return result.map(|opened| (opened, Some(secret))),
            }
            if used == locked.tries {
                return Err(OpenError::Other(format!("given up after {used} wrong passphrases")));
            }
        }
    }

    /// Tries its tokens, and asks for the PIN of those that want one.
    fn by_token<R>(&self, locked: &Locked<'_>, attempt: &mut dyn FnMut(&Key) -> Result<R, OpenError>) -> Result<R, OpenError> {
        let (tokens, others) = match attempt(&Key::Token { token: None, pin: None }) {
            Err(OpenError::PinNeeded { tokens, others }) => (tokens, others),
            result => return result,
        };
        let mut given_up = Vec::from_iter(others);
        for token in tokens {
            let mut last = "";
            for _ in 0..PIN_TRIES {
                let id = locked.id.replacen("cryptsetup", "virt-unlock:pin", 1);
                let pin = Some(self.ask(&format!("PIN of token {token} of {}{last}:", locked.what), &id)?);
                match attempt(&Key::Token { token: Some(token), pin }) {
                    Err(OpenError::WrongKey) => last = ", the last one was wrong",
                    Err(OpenError::NoKey(words)) => {
                        given_up.push(words);
                        last = "";
                        break;
                    }
                    result => return result,
                }
            }
            if !last.is_empty() {
                given_up.push(format!("token {token}: given up after {PIN_TRIES} wrong PINs"));
            }
        }
        Err(OpenError::NoKey(given_up.join("; ")))
    }

    /// Puts one question.
    pub fn ask(&self, words: &str, id: &str) -> Result<Secret, OpenError> {
        let question = Question {
            words: plain(words),
            id: id.to_owned(),
        };
        match self.session.host.questions.ask(&question, &self.cancel) {
            Ok(secret) => Ok(secret),
            Err(QuestionError::Cancelled) => Err(OpenError::Cancelled),
            Err(error) => Err(OpenError::Other(error.to_string())),
        }
    }
}
