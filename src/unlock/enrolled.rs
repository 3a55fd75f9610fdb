//! Which keyslot of a volume a master opens, by the token that says so.

use crate::host::{Header, MasterToken};

/// Why a master does not open a volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEnrolled {
    /// The header has no place for a token.
    #[error("the volume is LUKS1, which has no tokens")]
    Luks1,
    /// No token names the master.
    #[error("not enrolled")]
    Never,
    /// The keyslot that was made for it was removed.
    #[error("not enrolled any more, the keyslot of token {token} is gone")]
    KeyslotGone {
        /// The token's number.
        token: u32,
    },
    /// No token names the master, and there is one that cannot be read, in words.
    #[error("not enrolled, or {0}")]
    Strange(String),
}

impl NotEnrolled {
    /// What to do about it.
    pub fn remedy(&self, master: &str, volume: &str) -> String {
        let enroll = format!("`virt-unlock master enroll {master} {volume}`");
        match self {
            Self::Luks1 => format!("`cryptsetup convert --type luks2` makes it LUKS2, then {enroll}"),
            Self::Never | Self::KeyslotGone { .. } | Self::Strange(_) => enroll,
        }
    }
}

/// The keyslot of a volume with this header that the master with the LUKS UUID `master` opens.
pub fn keyslot_for(header: &Header, master: &str) -> Result<u32, NotEnrolled> {
    if header.version == 1 {
        return Err(NotEnrolled::Luks1);
    }
    let of_master = |token: &&MasterToken| token.master.eq_ignore_ascii_case(master);
    let tokens = || header.tokens.iter().filter(of_master);
    let in_use = |slot: &u32| header.keyslots.iter().any(|keyslot| keyslot.number == *slot);
    if let Some(keyslot) = tokens().filter_map(|token| token.keyslot).find(in_use) {
        return Ok(keyslot);
    }
    Err(match (tokens().next(), header.strange_tokens.first()) {
        (Some(token), _) => NotEnrolled::KeyslotGone { token: token.number },
        (None, Some(words)) => NotEnrolled::Strange(words.clone()),
        (None, None) => NotEnrolled::Never,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Keyslot;

    fn token(number: u32, master: &str, keyslot: Option<u32>) -> MasterToken {
        MasterToken {
            number,
            version: 1,
            master: master.to_owned(),
            keyslot,
        }
    }

    fn header(tokens: &[MasterToken]) -> Header {
        let slot = |number| Keyslot {
            number,
            ..Keyslot::default()
        };
        Header {
            version: 2,
            keyslots: vec![slot(0), slot(3)],
            tokens: tokens.to_vec(),
            ..Header::default()
        }
    }

    #[test]
    fn the_token_of_this_master_that_has_its_keyslot_counts() {
        let tokens = [
            token(0, "aaaa", Some(0)),
            token(1, "BBBB", Some(2)),
            token(2, "bbbb", Some(3)),
        ];
        assert_eq!(keyslot_for(&header(&tokens), "bbbb"), Ok(3));
        assert_eq!(
            keyslot_for(&header(&tokens[..2]), "bbbb"),
            Err(NotEnrolled::KeyslotGone { token: 1 })
        );
        assert_eq!(keyslot_for(&header(&tokens[..1]), "bbbb"), Err(NotEnrolled::Never));
        let gone = [token(4, "bbbb", None)];
        assert_eq!(
            keyslot_for(&header(&gone), "bbbb"),
            Err(NotEnrolled::KeyslotGone { token: 4 })
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_as_what_it_is() {
        let strange = Header {
            strange_tokens: vec!["token 5 is of version 2".to_owned()],
            ..header(&[token(0, "aaaa", Some(0))])
        };
        assert_eq!(keyslot_for(&strange, "aaaa"), Ok(0));
        let words = keyslot_for(&strange, "bbbb").unwrap_err().to_string();
        assert_eq!(words, "not enrolled, or token 5 is of version 2");
        let old = Header {
            version: 1,
            ..header(&[])
        };
        let luks1 = keyslot_for(&old, "bbbb").unwrap_err();
        assert_eq!(luks1.to_string(), "the volume is LUKS1, which has no tokens");
        assert_eq!(
            luks1.remedy("office", "mail"),
            "`cryptsetup convert --type luks2` makes it LUKS2, then `virt-unlock master enroll office mail`"
        );
    }
}
