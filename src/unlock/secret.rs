//! The value of a secret of libvirt's: the passphrase of disks that QEMU decrypts itself. It is looked at on those disks before libvirt
//! gets it, as far as they can be read now; what it opens there, QEMU opens too.

use std::cell::OnceCell;

use super::Unlocker;
use super::ask::Asked;
use super::volume::{OnTheWay, Target};
use crate::cancel::Cancel;
use crate::config::{Config, SecretConfig, Unlock};
use crate::event::{Outcome, Phase, Progress};
use crate::host::{Header, Image, Key, OpenError};
use crate::secret::Secret;

/// A secret that is wanted.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Its table.
    pub secret: &'a SecretConfig,
    /// The images that it should open.
    pub images: &'a [Image],
    /// The guests that wait for it.
    pub guests: &'a [String],
    /// How many values of it QEMU has refused: then a person alone is asked for another.
    pub refused: u32,
    /// Its place in the order of the questions.
    pub rank: usize,
}

impl Unlocker {
    /// Also for these secrets, which share groups with the volumes.
    #[must_use]
    pub fn with_secrets(self, config: &Config, secrets: &[&str]) -> Self {
        let secrets = secrets.iter().filter_map(|name| config.secret(name));
        for group in secrets.filter_map(|secret| self.group_named(secret.passphrase_group.as_ref())) {
            group.expect_another();
        }
        self
    }

    /// Soon [`Unlocker::value_of`] is called for this secret.
    pub fn announce_secret(&self, secret: &SecretConfig, rank: usize) {
        if self.asks(&secret.unlock) {
            self.turn.announce(rank);
        }
    }

    /// The secret is through, or will not be asked for: nobody is to wait for it.
    pub fn pass_over_secret(&self, secret: &SecretConfig) {
        if let Some(group) = self.group_named(secret.passphrase_group.as_ref()) {
            group.member_is_through();
        }
    }

    /// The value, whatever that takes.
    ///
    /// # Errors
    /// What it came to instead.
    pub fn value_of(&self, wanted: Wanted<'_>, progress: Progress<'_>, cancel: &Cancel) -> Result<Secret, Outcome> {
        let value = self.find_value(wanted, progress, cancel);
        self.turn.not_now(wanted.rank);
        if wanted.refused == 0 {
            self.pass_over_secret(wanted.secret);
        }
        value
    }

    fn find_value(&self, wanted: Wanted<'_>, progress: Progress<'_>, cancel: &Cancel) -> Result<Secret, Outcome> {
        let (mut images, mut header) = (Vec::new(), Header::default());
        for image in wanted.images {
            match progress.during(Phase::Header, || self.host.volumes.probe_image(image, cancel)) {
                Ok(found) => {
                    images.push(image.clone());
                    header = found;
                }
                Err(OpenError::Cancelled) => return Err(Outcome::Cancelled),
                Err(error) => progress.note(format!(
                    "whether its passphrase is right shows only when the guest starts: {error}"
                )),
            }
        }
        let Ok(asking) = cancel.child() else {
            return Err(Outcome::Failed("no file descriptor is left".to_owned()));
        };
        let value = OnceCell::new();
        let way = OnTheWay {
            target: Target::Secret {
                wanted,
                images: &images,
                value: &value,
            },
            header: &header,
            rank: wanted.rank,
            progress,
            cancel,
            asking: &asking,
        };
        let asked = if wanted.refused == 0 {
            self.try_ways(&way)
        } else if wanted.secret.unlock.contains(&Unlock::Passphrase) {
            self.ask_and_open(&way)
        } else {
            Asked::GivenUp("a disk does not open with it, and nobody is to be asked (`unlock`)".to_owned())
        };
        match (asked, value.into_inner()) {
            (Asked::Through(ending), Some(value)) if ending.outcome.is_good() => Ok(value),
            (Asked::Through(ending), _) => Err(ending.outcome),
            (Asked::GivenUp(words), _) => Err(Outcome::Failed(format!("{words}; `virt-unlock up` tries again"))),
        }
    }

    /// Takes one key for the value, if it opens every image that can be looked at.
    pub(super) fn try_value(
        &self,
        images: &[Image],
        value: &OnceCell<Secret>,
        key: &Key,
        cancel: &Cancel,
    ) -> Result<(), OpenError> {
        let found = match key {
            Key::Passphrase(typed) => typed.clone(),
            other => self.host.volumes.read_key(other, cancel)?,
        };
        // QEMU takes nothing else (`qcrypto_secret_lookup_as_utf8` in its crypto/secret_common.c).
        if found.expose().is_empty() || std::str::from_utf8(found.expose()).is_err() {
            return Err(match key {
                Key::Passphrase(_) => OpenError::WrongKey,
                _ => OpenError::NoKey("it is not a text in UTF-8, and QEMU takes nothing else for a passphrase".to_owned()),
            });
        }
        for image in images {
            self.host.volumes.check_image(image, &found, cancel)?;
        }
        // Only what opens nothing is tried again, so it is empty.
        let _ = value.set(found);
        Ok(())
    }
}
