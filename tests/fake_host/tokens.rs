//! Tokens in headers: a TPM, a stick, by a script.

use virt_unlock::host::{Header, Keyslot, OpenError, OtherToken};
use virt_unlock::secret::Secret;

use super::FakeHost;
use super::world::World;

/// The PIN of every token that has one.
pub const RIGHT_PIN: &str = "1234";
/// How the script of answers tells a PIN from a passphrase.
pub const PIN: &str = " PIN";

/// What a token does.
#[derive(Clone, Debug)]
pub enum FakeToken {
    /// Opens.
    Opens,
    /// Opens with its PIN, until it has seen so many wrong ones.
    WantsPin(u32),
    /// Says this.
    Refuses(&'static str),
}

/// What the person is asked for where a token of this volume (or master) wants its PIN.
pub(super) fn pin_of(volume: &str) -> String {
    format!("{volume}{PIN}")
}

/// Whether the keyslot is one that [`FakeHost::token`] made.
pub(super) fn is_of_token(slot: &Keyslot) -> bool {
    slot.kdf == "pbkdf2" && slot.memory_kib == 0
}

impl FakeHost {
    /// Gives a volume, or `master NAME`, a token with a cheap keyslot of its own.
    pub fn token(&self, what: &str, token: FakeToken) -> &Self {
        self.set(|world| {
            let header = match what.strip_prefix("master ") {
                Some(master) => &mut world.masters.get_mut(master).unwrap().header,
                None => &mut world.volumes.get_mut(what).unwrap().header,
            };
            let tokens = world.tokens.entry(what.to_owned()).or_default();
            add(header.as_mut().unwrap(), u32::try_from(tokens.len()).unwrap());
            tokens.push(token);
        })
    }
}

fn add(header: &mut Header, number: u32) {
    let keyslot = u32::try_from(header.keyslots.len()).unwrap();
    header.keyslots.push(Keyslot {
        number: keyslot,
        kdf: "pbkdf2".to_owned(),
        cost: 1000,
        ..Keyslot::default()
    });
    header.others.push(OtherToken {
        number,
        kind: "systemd-fido2".to_owned(),
        keyslots: vec![keyslot],
        has_plugin: true,
    });
}

impl World {
    /// Whether one of its tokens opens it.
    pub(super) fn ask_tokens(&mut self, what: &str, only: Option<u32>, pin: Option<&Secret>) -> Result<(), OpenError> {
        let (mut asking, mut said) = (Vec::new(), Vec::new());
        let tokens = self.tokens.get_mut(what).map(Vec::as_mut_slice).unwrap_or_default();
        for (number, token) in (0..).zip(tokens) {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            match (token, pin) {
                (FakeToken::Opens, _) => return Ok(()),
                (FakeToken::Refuses(words), _) => said.push(format!("token {number}: {words}")),
                (FakeToken::WantsPin(0), Some(_)) => said.push(format!("token {number}: locked")),
                (FakeToken::WantsPin(_), None) => asking.push(number),
                (FakeToken::WantsPin(_), Some(pin)) if pin.expose() == RIGHT_PIN.as_bytes() => return Ok(()),
                (FakeToken::WantsPin(left), Some(_)) => {
                    *left -= 1;
                    return Err(OpenError::WrongKey);
                }
            }
        }
        let others = (!said.is_empty()).then(|| said.join("; "));
        if asking.is_empty() {
            return Err(OpenError::NoKey(others.unwrap_or_else(|| "there is no token".to_owned())));
        }
        Err(OpenError::PinNeeded { tokens: asking, others })
    }
}
