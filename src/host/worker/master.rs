//! A master: a LUKS2 header in a file, without a data device.

use std::path::Path;

use libcryptsetup_rs::consts::flags::CryptVolumeKey;
use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptDevice, CryptInit, Either, LibcryptErr};
use nix::errno::Errno;

use super::luks::{errno_of, given, header_of, load, refused, unreadable, words, wrong_key};
use super::{KeyFile, Place};
use crate::host::{Header, OpenError};
use crate::secret::Secret;

/// The length of its volume key in bytes: as long as the keys that are derived from it, and AES-XTS takes it.
const KEY: usize = 64;

/// Reads the header.
pub(super) fn probe(file: &Path) -> Result<Header, OpenError> {
    let place = place(file);
    let mut device = load(&place).map_err(missing)?;
    let header = header_of(&mut device).map_err(|error| unreadable(&place, &error))?;
    if header.version != 2 {
        return Err(OpenError::Header(format!(
            "{} is LUKS{}, and a master is LUKS2",
            file.display(),
            header.version
        )));
    }
    Ok(header)
}

/// The volume key.
pub(super) fn open(file: &Path, key_file: Option<&KeyFile>, passphrase: Option<Secret>) -> Result<Secret, OpenError> {
    let key = given(key_file, passphrase)?;
    let not_this_one = wrong_key(key_file, &key);
    let place = place(file);
    let mut device = load(&place).map_err(missing)?;
    let size = usize::try_from(device.status_handle().get_volume_key_size())
        .map_err(|_| OpenError::Header(format!("{} does not tell the length of its key", file.display())))?;
    let (master, got) = Secret::filled(size, |room| {
        let mut handle = device.volume_key_handle();
        handle.get(None, room, Some(key.expose()))
    });
    match got {
        Ok(_) => Ok(master),
        Err(error) => match refused(&place, None, &mut device, &error) {
            OpenError::WrongKey => Err(not_this_one),
            error => Err(error),
        },
    }
}

/// Makes a header in a file that is there and has its size already; the UUID.
pub(super) fn create(file: &Path, key_file: Option<&KeyFile>, passphrase: Option<Secret>) -> Result<String, OpenError> {
    let key = given(key_file, passphrase)?;
    let mut device = CryptInit::init(file).map_err(|error| not_made(file, &error))?;
    let made = format(&mut device).and_then(|()| {
        // By the library's own choice of derivation and cost, which it measures on this machine.
        let mut handle = device.keyslot_handle();
        handle.add_by_key(None, None, key.expose(), CryptVolumeKey::empty())
    });
    made.map_err(|error| not_made(file, &error))?;
    let uuid = device.status_handle().get_uuid();
    uuid.map(|uuid| uuid.to_string()).map_err(|error| not_made(file, &error))
}

/// With a volume key of its random number generator, and no data behind the header.
fn format(device: &mut CryptDevice) -> Result<(), LibcryptErr> {
    let (cipher, key) = (("aes", "xts-plain64"), Either::Right(KEY));
    device
        .context_handle()
        .format::<()>(EncryptionFormat::Luks2, cipher, None, key, None)
}

fn not_made(file: &Path, error: &LibcryptErr) -> OpenError {
    match errno_of(error) {
        Errno::ENOMEM => OpenError::Memory(words(error)),
        _ => OpenError::Other(format!("{} cannot be made: {}", file.display(), words(error))),
    }
}

/// The file is all that there is.
pub(super) fn place(file: &Path) -> Place {
    Place {
        qcow2: false,
        device: file.to_owned(),
        header: None,
    }
}

/// There is no device that could be gone.
pub(super) fn missing(error: OpenError) -> OpenError {
    match error {
        OpenError::DeviceGone(words) => OpenError::Header(words),
        other => other,
    }
}
