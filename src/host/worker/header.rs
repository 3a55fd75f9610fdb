//! Changes of a volume's LUKS2 header. Each is one write of its metadata: libcryptsetup locks it against others meanwhile, and writes
//! one copy after the other, so that one is whole at any time (LUKS2 On-Disk Format, 2.2).

use libcryptsetup_rs::consts::flags::CryptPbkdf;
use libcryptsetup_rs::consts::vals::{CryptKdf, EncryptionFormat};
use libcryptsetup_rs::{CryptDevice, CryptPbkdfType, LibcryptErr, TokenInput};

use nix::errno::Errno;

use super::luks::{errno_of, given, load, refused, words};
use super::{Change, Place, token};
use crate::host::OpenError;
use crate::secret::Secret;

/// The least that LUKS2 takes (`MIN_PBKDF_ITERATIONS`, `lib/internal.h`).
const ITERATIONS: u32 = 1000;

/// Does it; the number of the keyslot or the token.
pub(super) fn change(
    place: &Place,
    change: &Change,
    passphrase: Option<Secret>,
    new_key: Option<Secret>,
) -> Result<u32, OpenError> {
    let mut device = load(place)?;
    if !matches!(device.format_handle().get_type(), Ok(EncryptionFormat::Luks2)) {
        return Err(OpenError::Header("it is not LUKS2".to_owned()));
    }
    let changed = match change {
        Change::AddKeyslot { key_file } => {
            let key = given(key_file.as_ref(), passphrase)?;
            let new = given(None, new_key)?;
            return add_keyslot(place, &mut device, &key, &new);
        }
        Change::AddToken { master, keyslot } => {
            let json = token::written(master, *keyslot);
            device.token_handle().json_set(TokenInput::AddToken(&json))
        }
        Change::RemoveKeyslot(keyslot) => device.keyslot_handle().destroy(*keyslot).map(|()| *keyslot),
        Change::RemoveToken(number) => {
            if !token::is_ours(&mut device, *number) {
                return Err(OpenError::Header(format!("token {number} is not a master's")));
            }
            device.token_handle().json_set(TokenInput::RemoveToken(*number))
        }
    };
    changed.map_err(|error| unchanged(place, &error))
}

/// The volume key comes from the keyslot of `key`, and that one is left as it is.
fn add_keyslot(place: &Place, device: &mut CryptDevice, key: &Secret, new: &Secret) -> Result<u32, OpenError> {
    let cheapest = CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha256".to_owned()),
        time_ms: 0,
        iterations: ITERATIONS,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    };
    let set = device.settings_handle().set_pbkdf_type(&cheapest);
    set.map_err(|error| unchanged(place, &error))?;
    let added = device.keyslot_handle().add_by_passphrase(None, key.expose(), new.expose());
    added.map_err(|error| match errno_of(&error) {
        // All keyslots are in use, for one.
        Errno::EINVAL => unchanged(place, &error),
        _ => refused(place, None, device, &error),
    })
}

fn unchanged(place: &Place, error: &LibcryptErr) -> OpenError {
    let at = place.header.as_ref().unwrap_or(&place.device).display();
    OpenError::Other(format!("the LUKS header on {at} is not changed: {}", words(error)))
}
