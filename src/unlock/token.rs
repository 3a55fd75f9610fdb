//! The way by the header's own tokens: a TPM, a FIDO2 stick, a smart card, by whatever plug-in libcryptsetup has for them. Nobody is
//! asked unless one of them wants its PIN.

use super::Unlocker;
use super::ask::{Asked, Tries, Wanted};
use super::volume::{OnTheWay, Target};
use crate::event::Outcome;
use crate::host::{Key, OpenError, OtherToken};
use crate::secret::Secret;

/// How a volume, or a master, was opened.
const DONE: &str = "opened by its token";

impl Unlocker {
    /// Tries all tokens, and then with their PINs those that want one. Why none opens is said, for the next way may.
    pub(super) fn open_by_token(&self, way: &OnTheWay<'_>) -> Asked {
        match self.try_tokens(way) {
            Asked::GivenUp(words) => {
                let words = match way.target {
                    Target::Volume { .. } | Target::Secret { .. } => format!("token: {words}"),
                    Target::Master { master, .. } => format!("token of master {}: {words}", master.name),
                };
                way.progress.warning(words.clone());
                Asked::GivenUp(words)
            }
            through @ Asked::Through(_) => through,
        }
    }

    fn try_tokens(&self, way: &OnTheWay<'_>) -> Asked {
        let (asking, others) = match self.at_token(way, None, None) {
            Err(OpenError::PinNeeded { tokens, others }) => (tokens, others),
            Err(error @ (OpenError::WrongKey | OpenError::NoKey(_))) => return Asked::GivenUp(error.to_string()),
            result => return Asked::Through(self.ending(way, result, DONE)),
        };
        let mut given_up = Vec::from_iter(others);
        for token in asking {
            match self.ask_for_pin(way, token) {
                Asked::GivenUp(words) => given_up.push(words),
                through @ Asked::Through(_) => return through,
            }
        }
        Asked::GivenUp(given_up.join("; "))
    }

    /// Asks until the token opens, or its tries are used up.
    fn ask_for_pin(&self, way: &OnTheWay<'_>, number: u32) -> Asked {
        let known = way.header.others.iter().find(|token| token.number == number);
        let token = known.map_or_else(|| format!("token {number}"), OtherToken::to_string);
        way.progress.note(format!("{token} asks for a PIN"));
        self.turn.announce(way.rank);
        if self.turn.in_order(way.rank, self.pace.order_patience, way.asking).is_err() {
            return Asked::Through(Outcome::Cancelled.into());
        }
        let mut tries = Tries::new(Wanted::Pin, &self.pace);
        loop {
            let (pin, took) = match self.ask(way, &tries, None) {
                Ok(answered) => answered,
                Err(Asked::GivenUp(words)) => return Asked::GivenUp(format!("{token}: {words}")),
                Err(through) => return through,
            };
            // One that was wrong is not tried again: the token would count it.
            let known = tries.remember(&pin);
            let result = if known {
                Err(OpenError::WrongKey)
            } else {
                self.at_token(way, Some(number), Some(pin))
            };
            match result {
                Err(OpenError::WrongKey) => match tries.count(way, known, took, &self.pace) {
                    Some(Asked::GivenUp(words)) => return Asked::GivenUp(format!("{token}: {words}")),
                    Some(through) => return through,
                    None => {}
                },
                Err(error @ (OpenError::NoKey(_) | OpenError::PinNeeded { .. })) => return Asked::GivenUp(error.to_string()),
                result => return Asked::Through(self.ending(way, result, DONE)),
            }
        }
    }

    /// One attempt, when nobody else is at a token.
    fn at_token(&self, way: &OnTheWay<'_>, token: Option<u32>, pin: Option<Secret>) -> Result<(), OpenError> {
        // Those after it are not to wait while it waits.
        self.turn.not_now(way.rank);
        if self.at_token.is_taken() {
            way.progress.waiting("waiting until no other volume is at its token");
        }
        let Ok(_at_token) = self.at_token.take(way.rank, way.asking) else {
            return Err(OpenError::Cancelled);
        };
        self.open(way, &Key::Token { token, pin })
    }
}
