//! What somebody typed a moment ago for the root disk: systemd-ask-password(1) leaves it in the kernel's keyring, as the `user` key
//! `cryptsetup` of root's user keyring, for 150 s (systemd: src/shared/ask-password-api.c, `KEYRING_TIMEOUT_USEC`).

use std::io::{self, Read};

use linux_keyutils::{Key, KeyRing, KeyRingIdentifier};

use crate::secret::Secret;

/// The key's description.
const DESCRIPTION: &str = "cryptsetup";
/// The longest payload of a `user` key, in bytes (keyrings(7)).
const MAX_PAYLOAD: usize = 32_767;

/// The passphrases in the keyring, oldest first; empty where there are none or they cannot be read. Nothing is written, and the
/// key's time to live is left as it is.
pub fn cached_passphrases() -> Vec<Secret> {
    // Its owner may see such a key, and whoever possesses it, which is whose own keyrings lead to it, may read it (keyrings(7),
    // "Possession"). A service's keyrings do not lead to root's. The process's own one ends with it.
    let own = KeyRing::from_special_id(KeyRingIdentifier::Process, true);
    let _ = own.and_then(|own| own.link_keyring_id(KeyRingIdentifier::User));
    read(KeyRingIdentifier::User, DESCRIPTION)
}

fn read(keyring: KeyRingIdentifier, description: &str) -> Vec<Secret> {
    let key = KeyRing::from_special_id(keyring, false).and_then(|keyring| keyring.search(description));
    let payload = key
        .ok()
        .and_then(|key| Secret::read_from(&mut Payload(Some(key)), MAX_PAYLOAD).ok());
    payload.map(|payload| split(&payload)).unwrap_or_default()
}

/// A list of strings, each with a NUL at its end (systemd's `strv_make_nulstr`).
fn split(payload: &Secret) -> Vec<Secret> {
    payload
        .expose()
        .split(|byte| *byte == 0)
        .filter(|passphrase| !passphrase.is_empty())
        .map(Secret::copy_of)
        .collect()
}

/// A key's payload, read once and as a whole, straight into the reader's own (locked) memory.
struct Payload(Option<Key>);

impl Read for Payload {
    fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
        let Some(key) = self.0.take() else { return Ok(0) };
        match key.read(&mut buffer) {
            Ok(length) if length <= buffer.len() => Ok(length),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(_) => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(secrets: &[Secret]) -> Vec<&[u8]> {
        secrets.iter().map(Secret::expose).collect()
    }

    #[test]
    fn a_list_of_strings_is_taken_apart() {
        let split_up = |bytes: &[u8]| split(&Secret::copy_of(bytes)).len();
        assert_eq!(
            exposed(&split(&Secret::copy_of(b"one\0zwei \xff\0"))),
            [&b"one"[..], b"zwei \xff"]
        );
        assert_eq!(split_up(b"no end"), 1);
        assert_eq!(split_up(b""), 0);
        assert_eq!(split_up(b"\0\0"), 0);
    }

    #[test]
    fn reads_a_key_of_the_kernel() {
        // The process's own keyring: nothing of it is left when the test ends.
        let keyring = KeyRing::from_special_id(KeyRingIdentifier::Process, true).unwrap();
        keyring.add_key("virt-unlock-test", b"correct horse\0battery\0").unwrap();
        let read = read(KeyRingIdentifier::Process, "virt-unlock-test");
        assert_eq!(exposed(&read), [&b"correct horse"[..], b"battery"]);
    }

    #[test]
    fn no_key_no_passphrases() {
        assert!(read(KeyRingIdentifier::Process, "virt-unlock-nothing").is_empty());
    }
}
