//! A passphrase or key in memory that is never swapped, never dumped, never printed, and wiped when it is let go.

use std::fmt;
use std::io::{self, Read};
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, mlock, munlock};
use zeroize::Zeroize;

/// The longest key that is taken, in bytes: what libcryptsetup takes from a key file (`DEFAULT_KEYFILE_SIZE_MAXKB`, 8 MiB).
pub const MAX_KEY: usize = 8 << 20;
/// The longest passphrase, in bytes: what libcryptsetup takes at a terminal (`DEFAULT_PASSPHRASE_SIZE_MAX`).
pub const MAX_PASSPHRASE: usize = 512;

/// Key bytes in locked memory. Neither `Display` nor a telling `Debug`: it cannot get into a message by accident.
pub struct Secret {
    // Never grown after it was locked: growing would leave a copy behind in memory that nobody wipes.
    bytes: Vec<u8>,
}

impl Secret {
    /// Reads at most `limit` bytes until the end of `from`, straight into locked memory.
    ///
    /// # Errors
    /// What reading says, and `InvalidData` when there is more than `limit`.
    pub fn read_from(from: &mut impl Read, limit: usize) -> io::Result<Self> {
        let mut secret = Self::with_room(limit + 1);
        let mut length = 0;
        loop {
            match from.read(&mut secret.bytes[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if length > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("longer than {limit} bytes"),
                ));
            }
        }
        secret.bytes[length..].zeroize();
        secret.bytes.truncate(length);
        Ok(secret)
    }

    /// A copy of `bytes` in locked memory; wiping `bytes` is the caller's.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut secret = Self::with_room(bytes.len());
        secret.bytes.copy_from_slice(bytes);
        secret
    }

    /// The key bytes.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    fn with_room(size: usize) -> Self {
        let bytes = vec![0; size];
        let secret = Self { bytes };
        if let Some((start, length)) = secret.area() {
            // SAFETY: the range is this vector's own allocation, which lives until `drop` unlocks it.
            // Locking may fail (RLIMIT_MEMLOCK of an ordinary user); the key is then still wiped, only not kept from swap.
            let _ = unsafe { mlock(start, length) };
            page_range(start, length, |start, length| {
                // SAFETY: only pages that lie wholly inside the allocation are advised; nothing is unmapped or moved.
                let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTDUMP) };
            });
        }
        secret
    }

    fn area(&self) -> Option<(NonNull<libc::c_void>, usize)> {
        let start = NonNull::new(self.bytes.as_ptr().cast_mut().cast())?;
        (self.bytes.capacity() > 0).then_some((start, self.bytes.capacity()))
    }
}

/// Calls `advise` with the whole pages inside `start..start+length`, where there are any.
fn page_range(start: NonNull<libc::c_void>, length: usize, advise: impl FnOnce(NonNull<libc::c_void>, usize)) {
    const PAGE: usize = 4096;
    let skip = start.as_ptr().align_offset(PAGE);
    let whole = length.saturating_sub(skip) / PAGE * PAGE;
    if whole > 0
        && let Some(first) = NonNull::new(start.as_ptr().wrapping_byte_add(skip))
    {
        advise(first, whole);
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::copy_of(&self.bytes)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
        if let Some((start, length)) = self.area() {
            // SAFETY: the same range that `with_room` locked; the vector is freed only after this.
            let _ = unsafe { munlock(start, length) };
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Keeps this process's memory out of core dumps and out of reach of an ordinary user's debugger
/// (`PR_SET_DUMPABLE`, prctl(2); `RLIMIT_CORE`, setrlimit(2)).
pub fn protect_process() {
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_to_the_end_and_no_further_than_the_limit() {
        assert_eq!(
            Secret::read_from(&mut &b"correct horse"[..], 13).unwrap().expose(),
            b"correct horse"
        );
        assert!(Secret::read_from(&mut &b"correct horse"[..], 12).is_err());
        assert_eq!(Secret::read_from(&mut &b""[..], 12).unwrap().expose(), b"");
    }

    #[test]
    fn never_prints_what_it_holds() {
        assert_eq!(format!("{:?}", Secret::copy_of(b"correct horse")), "Secret");
    }
}
