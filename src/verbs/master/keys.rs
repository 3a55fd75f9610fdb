//! The keys of what is there already: files first, then the person. It is a person who works on headers, so there is one to be asked.

use super::Work;
use crate::config::{Master, Unlock, Volume};
use crate::host::{Key, OpenError, Question, QuestionError};
use crate::secret::Secret;
use crate::text::plain;

/// What is to be opened.
pub(super) struct Locked<'a> {
    /// What it is: `volume mail`.
    what: String,
    /// The question's, by which agents know whose key is asked for.
    id: String,
    unlock: &'a [Unlock],
    tries: u32,
}

impl<'a> Locked<'a> {
    pub fn master(master: &'a Master) -> Self {
        Self {
            what: format!("master {}", master.name),
            id: format!("cryptsetup:{}", master.header.display()),
            unlock: &master.unlock,
            tries: master.tries,
        }
    }

    pub fn volume(volume: &'a Volume, device: &std::path::Path) -> Self {
        Self {
            what: format!("volume {}", volume.name),
            id: format!("cryptsetup:{}", device.display()),
            unlock: &volume.unlock,
            tries: volume.tries,
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
        for path in locked.unlock {
            let Unlock::KeyFile { path, offset, size } = path else {
                continue;
            };
            let key = Key::File {
                path: path.clone(),
                offset: *offset,
                size: *size,
            };
            match attempt(&key) {
                Err(error @ (OpenError::WrongKey | OpenError::KeyFile(_))) => {
                    self.warn(format!("{}: key file {}: {error}", locked.what, path.display()));
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
