//! A master and a volume: the keyslot and the token by which the one opens the other, put there and taken away. Each step is done
//! wholly or not at all, and the steps stand in an order in which whoever is killed between two of them leaves a volume that opens
//! as before, and a state that the next run completes.

use std::path::Path;

use super::derived::derive;
use crate::cancel::Cancel;
use crate::config::Volume;
use crate::host::{Header, Headers, Key, MasterToken, OpenError};
use crate::secret::Secret;

/// What a keyslot of ours costs at most, in iterations.
const CHEAPEST: u64 = 1000;

/// A volume whose header is to be changed.
pub struct Enrolment<'a> {
    /// Who changes it.
    pub headers: &'a dyn Headers,
    /// The volume.
    pub volume: &'a Volume,
    /// Its device.
    pub device: &'a Path,
    /// The LUKS UUID of the master's header.
    pub master: &'a str,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

/// How a volume came to be enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// It was; nothing was changed.
    Already(u32),
    /// An earlier run had added the keyslot and no more.
    Completed(u32),
    /// Now.
    New(u32),
}

/// What was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// The keyslots.
    pub keyslots: Vec<u32>,
    /// How many tokens.
    pub tokens: usize,
    /// Keyslots that are as cheap as those of a master and that no token names: an enrolment that was interrupted leaves one.
    pub unmarked: Vec<u32>,
}

/// Tries one key of the volume after the other until one opens it.
pub type Offer<'a> = dyn FnMut(&mut dyn FnMut(&Key) -> Result<u32, OpenError>) -> Result<u32, OpenError> + 'a;

/// The tokens of this master.
fn tokens<'a>(header: &'a Header, master: &str) -> impl Iterator<Item = &'a MasterToken> {
    let master = master.to_lowercase();
    header.tokens.iter().filter(move |token| token.master == master)
}

impl Enrolment<'_> {
    /// Lets the master open the volume. `own` offers the keys that the volume has.
    ///
    /// # Errors
    /// Also when the volume cannot be enrolled, in words; nothing was changed then, but for tokens that led nowhere.
    pub fn enroll(&self, master_key: &Secret, own: &mut Offer<'_>) -> Result<Enrolled, OpenError> {
        let header = self.probe()?;
        let key = derive(master_key, &header.uuid);
        for token in tokens(&header, self.master) {
            if let Some(keyslot) = token.keyslot
                && self.opens(&key, keyslot)?
            {
                return Ok(Enrolled::Already(keyslot));
            }
        }
        for token in tokens(&header, self.master) {
            self.headers
                .remove_token(self.volume, self.device, token.number, self.cancel)?;
        }
        for keyslot in unmarked(&header) {
            if self.opens(&key, keyslot)? {
                self.mark(keyslot)?;
                return Ok(Enrolled::Completed(keyslot));
            }
        }
        let keyslot = own(&mut |own| self.headers.add_keyslot(self.volume, self.device, own, &key, self.cancel))?;
        self.mark(keyslot)?;
        Ok(Enrolled::New(keyslot))
    }

    /// Takes away what lets the master open the volume.
    ///
    /// # Errors
    /// Also when that is the only way into the volume; nothing was changed then.
    pub fn revoke(&self) -> Result<Revoked, OpenError> {
        let header = self.probe()?;
        let tokens: Vec<&MasterToken> = tokens(&header, self.master).collect();
        let ours: Vec<u32> = tokens.iter().filter_map(|token| token.keyslot).collect();
        if !ours.is_empty() && header.keyslots.iter().all(|slot| ours.contains(&slot.number)) {
            let place = self.volume.header.as_deref().unwrap_or(self.device).display();
            return Err(OpenError::Other(format!(
                "it has no keyslot but the master's, so nothing could open it any more (`cryptsetup erase {place}` does that on purpose)"
            )));
        }
        // The keyslot before its token: a token that is gone would leave a keyslot that nobody finds.
        for keyslot in &ours {
            self.headers.remove_keyslot(self.volume, self.device, *keyslot, self.cancel)?;
        }
        for token in &tokens {
            self.headers
                .remove_token(self.volume, self.device, token.number, self.cancel)?;
        }
        Ok(Revoked {
            unmarked: unmarked(&header).collect(),
            tokens: tokens.len(),
            keyslots: ours,
        })
    }

    fn probe(&self) -> Result<Header, OpenError> {
        let header = self.headers.probe(self.volume, self.device, self.cancel)?;
        if header.version == 2 {
            return Ok(header);
        }
        let place = self.volume.header.as_deref().unwrap_or(self.device).display();
        Err(OpenError::Other(format!(
            "volume {} is LUKS{}, which has no tokens; `cryptsetup convert --type luks2 {place}` makes it LUKS2 while it is closed",
            self.volume.name, header.version
        )))
    }

    fn mark(&self, keyslot: u32) -> Result<(), OpenError> {
        self.headers
            .add_token(self.volume, self.device, self.master, keyslot, self.cancel)
    }

    /// Whether the keyslot opens with this key.
    fn opens(&self, key: &Secret, keyslot: u32) -> Result<bool, OpenError> {
        let key = Key::Derived {
            key: key.clone(),
            keyslot,
        };
        match self.headers.check(self.volume, self.device, &key, self.cancel) {
            Ok(()) => Ok(true),
            Err(OpenError::WrongKey) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The keyslots that look like a master's, and that no token names.
fn unmarked(header: &Header) -> impl Iterator<Item = u32> {
    let slots = header.keyslots.iter().filter(|slot| {
        let is_cheap = slot.kdf == "pbkdf2" && slot.cost <= CHEAPEST;
        is_cheap && !header.marked.contains(&slot.number)
    });
    slots.map(|slot| slot.number)
}
