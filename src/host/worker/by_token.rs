//! Keys that the tokens of a LUKS2 header give, by libcryptsetup's plug-ins: systemd's for TPMs, FIDO2 sticks and smart cards, or any
//! other that is installed. One token after the other is tried: libcryptsetup's own loop (`CRYPT_ANY_TOKEN`) ends at the first that
//! fails in an unusual way, and does not tell which asks for a PIN.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use libcryptsetup_rs::consts::flags::CryptActivate;
use libcryptsetup_rs::{CryptDevice, LibcryptErr};
use libcryptsetup_rs_sys as sys;
use nix::errno::Errno;

use super::luks::{errno_of, header_of, known, load, readable, refused, unreadable};
use super::master::{missing, place};
use super::{Place, Tokens, log};
use crate::host::{OpenError, tokens};
use crate::secret::Secret;

/// Opens the volume, or looks whether a token opens it where there is no name.
pub(super) fn open(place: &Place, name: Option<&str>, flags: u32, tried: Tokens, pin: Option<&Secret>) -> Result<(), OpenError> {
    let bits = known(flags)?.bits();
    let mut device = load(place)?;
    let pin = pin.map(Secret::expose);
    each(place, name, &mut device, tried, pin, &mut |device, token| {
        let flags = CryptActivate::from_bits_retain(bits);
        let mut handle = device.token_handle();
        let opened = match pin {
            Some(pin) => handle.activate_by_token_pin::<()>(name, None, Some(token), pin, None, flags),
            None => handle.activate_by_token::<()>(name, Some(token), None, flags),
        };
        opened.map(drop)
    })
}

/// The volume key of a master's header.
pub(super) fn volume_key(file: &Path, tried: Tokens, pin: Option<&Secret>) -> Result<Secret, OpenError> {
    let place = place(file);
    let mut device = load(&place).map_err(missing)?;
    let pin = pin.map(Secret::expose);
    let mut key = None;
    each(&place, None, &mut device, tried, pin, &mut |device, token| {
        let size = usize::try_from(device.status_handle().get_volume_key_size()).unwrap_or(0);
        let (secret, got) = Secret::filled(size, |room| get_volume_key(file, token, pin, room));
        got.map(|()| key = Some(secret))
    })?;
    key.ok_or_else(|| OpenError::Other("a token opened the header, and gave no key".to_owned()))
}

/// Tries the tokens in their order until one opens.
fn each(
    place: &Place,
    name: Option<&str>,
    device: &mut CryptDevice,
    tried: Tokens,
    pin: Option<&[u8]>,
    attempt: &mut dyn FnMut(&mut CryptDevice, u32) -> Result<(), LibcryptErr>,
) -> Result<(), OpenError> {
    // systemd's plug-ins end the process where a PIN is empty.
    if pin.is_some_and(<[u8]>::is_empty) {
        return Err(OpenError::WrongKey);
    }
    let header = header_of(device).map_err(|error| unreadable(place, &error))?;
    if let Some(lack) = tokens::lack(&header) {
        return Err(OpenError::NoKey(lack));
    }
    let (mut asking, mut said) = (Vec::new(), Vec::new());
    for token in header
        .others
        .iter()
        .filter(|token| tried.only.is_none_or(|only| only == token.number))
    {
        if !token.has_plugin {
            said.push(format!("{token}: {}", tokens::without_plugin(&token.kind)));
            continue;
        }
        log::forget();
        let Err(error) = attempt(device, token.number) else {
            return Ok(());
        };
        let errno = errno_of(&error);
        // libcryptsetup itself has words where it is not supported, and plug-ins have none there: there is no device-mapper.
        let is_not_supported = errno == Errno::EOPNOTSUPP && log::words().is_some();
        let is_of_the_volume = is_not_supported || matches!(errno, Errno::EEXIST | Errno::EBUSY | Errno::ENOMEM);
        if is_of_the_volume || readable(&place.device).is_err() {
            return Err(refused(place, name, device, &error));
        }
        match Refusal::of(errno, pin.is_some()) {
            Refusal::PinNeeded => asking.push(token.number),
            Refusal::WrongPin => return Err(OpenError::WrongKey),
            Refusal::Other(words) => {
                let words = log::words().map_or_else(|| words.to_owned(), |also| format!("{words} ({also})"));
                said.push(format!("{token}: {words}"));
            }
        }
    }
    let said = (!said.is_empty()).then(|| said.join("; "));
    if asking.is_empty() {
        return Err(OpenError::NoKey(
            said.unwrap_or_else(|| "the token is not in the header any more".to_owned()),
        ));
    }
    Err(OpenError::PinNeeded {
        tokens: asking,
        others: said,
    })
}

/// Why a token gave no key.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    PinNeeded,
    WrongPin,
    Other(&'static str),
}

impl Refusal {
    /// What libcryptsetup documents (`crypt_activate_by_token_pin`), and beyond that what systemd's plug-ins say
    /// (`src/shared/libfido2-util.c`, `src/shared/tpm2-util.c`, `src/shared/pkcs11-util.c`).
    fn of(errno: Errno, with_pin: bool) -> Self {
        match errno {
            // A TPM tells a wrong PIN by the second since systemd 254, and by the third, as all that it refuses, before.
            Errno::ENOANO | Errno::EILSEQ | Errno::ENOTRECOVERABLE if with_pin => Self::WrongPin,
            Errno::ENOANO => Self::PinNeeded,
            Errno::EAGAIN | Errno::ENODEV | Errno::ENXIO => Self::Other("its device is not there (TPM, stick or card)"),
            Errno::EPERM => Self::Other("its key opens no keyslot of this header, or it is locked"),
            Errno::ENOLCK | Errno::EOWNERDEAD => Self::Other("it is locked after too many wrong PINs"),
            Errno::EBADSLT => Self::Other("another stick or card is there than the one that was enrolled"),
            Errno::ENOSTR | Errno::ETIMEDOUT => Self::Other("nobody touched it in time"),
            Errno::ENOENT => Self::Other("it gives no key for a keyslot that is in use"),
            Errno::ENOTRECOVERABLE | Errno::EREMCHG | Errno::EUCLEAN => Self::Other(
                "the TPM refuses: this boot was measured in another way than when it was enrolled; `systemd-cryptenroll` enrolls it anew",
            ),
            Errno::EOPNOTSUPP => Self::Other("its plug-in lacks a library (libtss2, libfido2 or libp11-kit)"),
            other => Self::Other(other.desc()),
        }
    }
}

/// By libcryptsetup itself (2.6 or later): its binding has no call for it.
fn get_volume_key(file: &Path, token: u32, pin: Option<&[u8]>, room: &mut [u8]) -> Result<(), LibcryptErr> {
    let path = CString::new(file.as_os_str().as_bytes()).map_err(|_| failed(-libc::EINVAL))?;
    let number = i32::try_from(token).map_err(|_| failed(-libc::EINVAL))?;
    let mut raw = ptr::null_mut();
    // SAFETY: the path is a C string that outlives the call, and `raw` takes the context.
    checked(unsafe { sys::crypt_init(&raw mut raw, path.as_ptr()) })?;
    // Frees the context when it goes, after all that is done with it here.
    let mut device = CryptDevice::from_ptr(raw);
    device.context_handle().load::<()>(None, None)?;
    let (bytes, length) = pin.map_or((ptr::null(), 0), |pin| (pin.as_ptr().cast(), pin.len()));
    let mut context = ptr::null_mut();
    // SAFETY: the PIN outlives the keyslot context, which refers to it; it and the type may be null.
    checked(unsafe {
        sys::crypt_keyslot_context_init_by_token(raw, number, ptr::null(), bytes, length, ptr::null_mut(), &raw mut context)
    })?;
    let mut size = room.len();
    // SAFETY: the library writes at most `size` bytes into the room, which has so many; both contexts live.
    let got = unsafe {
        sys::crypt_volume_key_get_by_keyslot_context(raw, sys::CRYPT_ANY_SLOT, room.as_mut_ptr().cast(), &raw mut size, context)
    };
    // SAFETY: it was made above and is not used after this.
    unsafe { sys::crypt_keyslot_context_free(context) };
    drop(device);
    checked(got)
}

fn checked(code: i32) -> Result<(), LibcryptErr> {
    if code < 0 { Err(failed(code)) } else { Ok(()) }
}

fn failed(code: i32) -> LibcryptErr {
    LibcryptErr::IOError(std::io::Error::from_raw_os_error(-code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pin_is_asked_for_and_a_wrong_one_is_a_try() {
        assert_eq!(Refusal::of(Errno::ENOANO, false), Refusal::PinNeeded);
        for wrong in [Errno::ENOANO, Errno::EILSEQ, Errno::ENOTRECOVERABLE] {
            assert_eq!(Refusal::of(wrong, true), Refusal::WrongPin, "{wrong}");
        }
    }

    #[test]
    fn what_no_pin_helps_against_is_said() {
        for (errno, words) in [
            (Errno::EAGAIN, "is not there"),
            (Errno::EOWNERDEAD, "is locked"),
            (Errno::EPERM, "opens no keyslot"),
            (Errno::EIO, "I/O error"),
        ] {
            for with_pin in [false, true] {
                let refusal = Refusal::of(errno, with_pin);
                assert!(
                    matches!(refusal, Refusal::Other(said) if said.contains(words)),
                    "{errno}: {refusal:?}"
                );
            }
        }
        let refusal = Refusal::of(Errno::ENOTRECOVERABLE, false);
        assert!(
            matches!(refusal, Refusal::Other(said) if said.contains("measured")),
            "{refusal:?}"
        );
    }
}
