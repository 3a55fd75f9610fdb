//! Volumes: their headers, opening and closing, by libcryptsetup.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use libcryptsetup_rs::consts::flags::{CryptActivate, CryptDeactivate};
use libcryptsetup_rs::consts::vals::{CryptKdf, CryptStatusInfo, EncryptionFormat, KeyslotInfo};
use libcryptsetup_rs::{CryptDevice, CryptInit, CryptKeyslotHandle, Either, LibcryptErr, status};
use nix::errno::Errno;

use super::key_file::{self, system_words};
use super::{KeyFile, Place, image, log, token};
use crate::host::{CloseError, Header, Keyslot, OpenError};
use crate::secret::Secret;
use crate::text;

/// How often closing is tried when libcryptsetup cannot say why it failed.
const CLOSE_ATTEMPTS: usize = 3;

/// No header is smaller: one copy of a LUKS2 header's binary part, in bytes.
const SMALLEST: u64 = 4096;

/// Reads the header.
pub(super) fn probe(place: &Place) -> Result<Header, OpenError> {
    let mut device = load(place)?;
    header_of(&mut device).map_err(|error| unreadable(place, &error))
}

/// Opens the volume, or looks whether the key is right where there is no name.
pub(super) fn open(
    place: &Place,
    name: Option<&str>,
    flags: u32,
    key_file: Option<&KeyFile>,
    keyslot: Option<u32>,
    passphrase: Option<Secret>,
) -> Result<(), OpenError> {
    let flags = known(flags)?;
    // First of all: a key file that is not there needs no derivation to be found out.
    let key = given(key_file, passphrase)?;
    let not_this_one = wrong_key(key_file, &key);
    let mut device = load(place)?;
    let opened = device
        .activate_handle()
        .activate_by_passphrase(name, keyslot, key.expose(), flags);
    drop(key);
    let Err(error) = opened else { return Ok(()) };
    // The keyslot that was named is not in use: a key for nothing.
    if keyslot.is_some() && errno_of(&error) == Errno::ENOENT && readable(&place.device).is_ok() {
        return Err(OpenError::WrongKey);
    }
    match refused(place, name, &mut device, &error) {
        OpenError::WrongKey => Err(not_this_one),
        error => Err(error),
    }
}

/// What is said of a key that opens nothing. Whoever made a file of it with echo(1) meant the key without its line end.
pub(super) fn wrong_key(key_file: Option<&KeyFile>, key: &Secret) -> OpenError {
    if key_file.is_some() && key.expose().ends_with(b"\n") {
        return OpenError::NoKey(
            "no keyslot opens with this key; it ends with a line end, which is part of the key (`printf %s` or `head -c -1` makes one \
             without)"
                .to_owned(),
        );
    }
    OpenError::WrongKey
}

/// The flags, as libcryptsetup knows them.
pub(super) fn known(flags: u32) -> Result<CryptActivate, OpenError> {
    CryptActivate::from_bits(flags).ok_or_else(|| OpenError::Other("libcryptsetup does not know one of the flags".to_owned()))
}

/// The key of a request.
pub(super) fn given(key_file: Option<&KeyFile>, passphrase: Option<Secret>) -> Result<Secret, OpenError> {
    match (key_file, passphrase) {
        (Some(key_file), _) => key_file::read(key_file).map_err(OpenError::KeyFile),
        (None, Some(passphrase)) => Ok(passphrase),
        (None, None) => Err(OpenError::Other("no key was given".to_owned())),
    }
}

/// Closes a volume.
pub(super) fn close(name: &str) -> Result<(), CloseError> {
    let said = |error: &LibcryptErr| (errno_of(error), words(error));
    judged(
        name,
        || {
            // Neither FORCE nor DEFERRED: what is in use stays open.
            let closed = CryptInit::init_by_name_and_header(name, None).and_then(|mut device| {
                let mut handle = device.activate_handle();
                handle.deactivate(name, CryptDeactivate::empty())
            });
            closed.map_err(|error| said(&error))
        },
        || status(None, name).map_err(|error| said(&error).1),
    )
}

/// Takes a volume's key out of the kernel; its mapping stays.
pub(super) fn suspend(name: &str, header: Option<&Path>) -> Result<(), CloseError> {
    let suspended = CryptInit::init_by_name_and_header(name, header).and_then(|mut device| device.context_handle().suspend(name));
    suspended.map_err(|error| CloseError::Other(words(&error)))
}

/// Whatever an attempt said, the kernel has the last word: gone is gone, and what is there is not closed.
fn judged(
    name: &str,
    mut attempt: impl FnMut() -> Result<(), (Errno, String)>,
    mut status: impl FnMut() -> Result<CryptStatusInfo, String>,
) -> Result<(), CloseError> {
    let mut attempts_left = CLOSE_ATTEMPTS;
    loop {
        attempts_left -= 1;
        match (attempt(), status()) {
            (_, Ok(CryptStatusInfo::Inactive)) => return Ok(()),
            (Ok(()), Ok(_)) | (Err((Errno::EBUSY, _)), _) | (Err(_), Ok(CryptStatusInfo::Busy)) => return Err(CloseError::Busy),
            // Its last user left between the kernel's refusal and libcryptsetup's question why (`crypt_deactivate_by_name`, lib/setup.c):
            // that is EINVAL, and nothing is wrong.
            (Err((Errno::EINVAL, _)), Ok(CryptStatusInfo::Active)) if attempts_left > 0 => {}
            (Err((_, words)), _) => return Err(CloseError::Other(format!("/dev/mapper/{name} was not closed: {words}"))),
            (Ok(()), Err(words)) => {
                return Err(CloseError::Other(format!(
                    "device-mapper does not say whether /dev/mapper/{name} is closed: {words}"
                )));
            }
        }
    }
}

/// The loaded header. Where one of the two copies of a LUKS2 header is damaged or old, libcryptsetup writes the good one over it, as
/// any `cryptsetup` command does; there is no switch against that (`LUKS2_hdr_read`, `lib/luks2/luks2_json_metadata.c`).
pub(super) fn load(place: &Place) -> Result<CryptDevice, OpenError> {
    // libcryptsetup says EINVAL for a device that is not there, as it does for one without a header.
    readable(&place.device).map_err(|error| {
        let words = format!("{}: {}", place.device.display(), system_words(&error));
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::ENOMEDIUM) => OpenError::DeviceGone(words),
            Some(Errno::EBUSY) => OpenError::Busy(words),
            _ => OpenError::Other(format!("the device cannot be read: {words}")),
        }
    })?;
    let device = if place.qcow2 {
        image::lifted(&place.device)?
    } else {
        place.device.clone()
    };
    let mut paths = Either::Left(device.as_path());
    if let Some(header) = &place.header {
        readable(header).map_err(|error| OpenError::Header(format!("{}: {}", header.display(), system_words(&error))))?;
        paths = Either::Right((header.as_path(), place.device.as_path()));
    }
    let mut device = CryptInit::init_with_data_device(paths).map_err(|error| unreadable(place, &error))?;
    let loaded = device.context_handle().load::<()>(None, None);
    loaded.map_err(|error| unreadable(place, &error))?;
    Ok(device)
}

pub(super) fn readable(path: &Path) -> io::Result<()> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map(drop)
}

/// The magic number of LUKS1 and of LUKS2's first copy.
fn begins_as_luks(path: &Path) -> bool {
    let mut magic = [0; 6];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"LUKS\xba\xbe"
}

fn is_short_file(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() < SMALLEST)
}

pub(super) fn header_of(device: &mut CryptDevice) -> Result<Header, LibcryptErr> {
    let format = device.format_handle().get_type()?;
    let version = if format == EncryptionFormat::Luks1 { 1 } else { 2 };
    let mut status = device.status_handle();
    let (uuid, cipher) = (status.get_uuid()?.to_string(), status.get_cipher()?);
    let mut keyslots = Vec::new();
    for number in 0..CryptKeyslotHandle::max_keyslots(format)? {
        let mut handle = device.keyslot_handle();
        // An unbound keyslot opens nothing.
        if matches!(handle.status(number)?, KeyslotInfo::Active | KeyslotInfo::ActiveLast) {
            let pbkdf = handle.get_pbkdf(number)?;
            let kdf = match pbkdf.type_ {
                CryptKdf::Pbkdf2 => "pbkdf2",
                CryptKdf::Argon2I => "argon2i",
                CryptKdf::Argon2Id => "argon2id",
            };
            keyslots.push(Keyslot {
                number,
                kdf: kdf.to_owned(),
                memory_kib: pbkdf.max_memory_kb.into(),
                cost: pbkdf.iterations.into(),
                threads: pbkdf.parallel_threads.max(1),
            });
        }
    }
    let mut header = Header {
        version,
        uuid,
        cipher,
        keyslots,
        ..Header::default()
    };
    if version == 2 {
        token::read_all(device, &mut header);
    }
    Ok(header)
}

/// Why the header did not load.
pub(super) fn unreadable(place: &Place, error: &LibcryptErr) -> OpenError {
    let path = place.header.as_ref().unwrap_or(&place.device);
    let at = path.display();
    match errno_of(error) {
        Errno::EIO if is_short_file(path) => OpenError::Header(format!("{at} is too short to have one")),
        Errno::EINVAL => OpenError::Header(log::words().unwrap_or_else(|| {
            if begins_as_luks(path) {
                format!("{at} begins with one, but it is damaged")
            } else {
                format!("{at} does not begin with one (is it the right device?)")
            }
        })),
        Errno::ENOMEM => OpenError::Memory(words(error)),
        Errno::ENODEV | Errno::ENXIO | Errno::ENOENT => OpenError::DeviceGone(words(error)),
        Errno::EBUSY => OpenError::Busy(words(error)),
        _ => OpenError::Other(format!("the LUKS header on {at} cannot be read: {}", words(error))),
    }
}

/// Why the key opened nothing.
pub(super) fn refused(place: &Place, name: Option<&str>, device: &mut CryptDevice, error: &LibcryptErr) -> OpenError {
    let at = place.device.display();
    match errno_of(error) {
        Errno::EPERM => OpenError::WrongKey,
        Errno::ENOMEM => OpenError::Memory(costliest(device).unwrap_or_else(|| words(error))),
        Errno::ENODEV | Errno::ENXIO => OpenError::DeviceGone(words(error)),
        Errno::EBUSY => OpenError::Busy(words(error)),
        Errno::EEXIST => OpenError::Exists(name.unwrap_or_default().to_owned()),
        // Said of keyslots too, when there is none to be tried.
        Errno::ENOENT if header_of(device).is_ok_and(|header| header.keyslots.is_empty()) => {
            OpenError::Header("it has no keyslot in use, so no key can open it (was it erased?)".to_owned())
        }
        Errno::ENOENT if readable(&place.device).is_err() => OpenError::DeviceGone(words(error)),
        _ => OpenError::Other(format!("{at} does not open: {}", words(error))),
    }
}

fn costliest(device: &mut CryptDevice) -> Option<String> {
    let header = header_of(device).ok()?;
    let slot = header.keyslots.iter().max_by_key(|slot| slot.memory_kib)?;
    let memory = text::bytes(slot.memory_kib * 1024);
    (slot.memory_kib > 0).then(|| format!("keyslot {} ({}) takes {memory}", slot.number, slot.kdf))
}

/// The errno; `EIO` where the binding itself could not do it.
pub(super) fn errno_of(error: &LibcryptErr) -> Errno {
    match error {
        LibcryptErr::IOError(error) => error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        _ => Errno::EIO,
    }
}

pub(super) fn words(error: &LibcryptErr) -> String {
    log::words().unwrap_or_else(|| match error {
        LibcryptErr::IOError(error) => system_words(error),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use CryptStatusInfo::{Active, Busy, Inactive};

    /// What becomes of a close whose attempts say `said`, each followed by this look at the mapping.
    fn close_with(said: &[(Errno, CryptStatusInfo)]) -> Result<(), CloseError> {
        let (mut attempts, mut looks) = (said.iter(), said.iter());
        judged(
            "mail",
            || Err((attempts.next().unwrap().0, "Invalid device mail.".to_owned())),
            || Ok(looks.next().unwrap().1),
        )
    }

    #[test]
    fn a_user_that_leaves_in_the_middle_of_closing_is_no_failure() {
        assert_eq!(close_with(&[(Errno::EINVAL, Active), (Errno::EINVAL, Inactive)]), Ok(()));
        assert_eq!(close_with(&[(Errno::EINVAL, Busy)]), Err(CloseError::Busy));
        assert_eq!(
            close_with(&[(Errno::EINVAL, Active), (Errno::EBUSY, Active)]),
            Err(CloseError::Busy)
        );
        let failed = CloseError::Other("/dev/mapper/mail was not closed: Invalid device mail.".to_owned());
        assert_eq!(close_with(&[(Errno::EINVAL, Active); CLOSE_ATTEMPTS]), Err(failed.clone()));
        assert_eq!(close_with(&[(Errno::ENOMEM, Active)]), Err(failed));
    }
}
