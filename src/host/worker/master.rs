//! A master: a LUKS2 header in a file, without a data device.

use std::path::Path;

use super::luks::{given, header_of, load, refused, unreadable};
use super::{KeyFile, Place};
use crate::host::{Header, OpenError};
use crate::secret::Secret;

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
        Err(error) => Err(refused(&place, None, &mut device, &error)),
    }
}

/// The file is all that there is.
fn place(file: &Path) -> Place {
    Place {
        device: file.to_owned(),
        header: None,
    }
}

/// There is no device that could be gone.
fn missing(error: OpenError) -> OpenError {
    match error {
        OpenError::DeviceGone(words) => OpenError::Header(words),
        other => other,
    }
}
