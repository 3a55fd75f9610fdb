//! A passphrase or key in memory that is never swapped, never dumped, never printed, and wiped when it is let go.

use std::fmt;
use std::io::{self, Read};
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, mlock, munlock};
use nix::unistd::{SysconfVar, sysconf};
use zeroize::Zeroize;

/// The longest key that is taken, in bytes: what libcryptsetup takes from a key file (`DEFAULT_KEYFILE_SIZE_MAXKB`, 8 MiB).
pub const MAX_KEY: usize = 8 << 20;
/// The longest passphrase, in bytes: what libcryptsetup takes at a terminal (`DEFAULT_PASSPHRASE_SIZE_MAX`).
pub const MAX_PASSPHRASE: usize = 512;

/// Key bytes in locked memory. Neither `Display` nor a telling `Debug`: it cannot get into a message by accident.
pub struct Secret {
    // Never grown after it was locked: growing would leave a copy behind in memory that nobody wipes. It has room around the key,
    // so that whole pages are the key's alone: locks do not add up (mlock(2)), and who unlocks a page unlocks it for all that is on it.
    room: Vec<u8>,
    /// Where the key begins in it: at a page's beginning.
    start: usize,
    length: usize,
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
            match from.read(&mut secret.bytes()[length..]) {
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
        secret.bytes()[length..].zeroize();
        secret.length = length;
        Ok(secret)
    }

    /// A copy of `bytes` in locked memory; wiping `bytes` is the caller's.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut secret = Self::with_room(bytes.len());
        secret.bytes().copy_from_slice(bytes);
        secret
    }

    /// `size` bytes that `fill` writes in place, so that there is no copy of them elsewhere; and what `fill` gave.
    pub fn filled<R>(size: usize, fill: impl FnOnce(&mut [u8]) -> R) -> (Self, R) {
        let mut secret = Self::with_room(size);
        let given = fill(secret.bytes());
        (secret, given)
    }

    /// The key bytes.
    pub fn expose(&self) -> &[u8] {
        &self.room[self.start..self.start + self.length]
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.length]
    }

    fn with_room(size: usize) -> Self {
        let page = page_size();
        let room = vec![0; size.max(1).next_multiple_of(page) + page];
        let secret = Self {
            start: room.as_ptr().align_offset(page),
            room,
            length: size,
        };
        if let Some((start, length)) = secret.pages() {
            // SAFETY: the range is inside this vector's own allocation, which lives until `drop` unlocks it.
            // Locking may fail (RLIMIT_MEMLOCK of an ordinary user); the key is then still wiped, only not kept from swap.
            let _ = unsafe { mlock(start, length) };
            // SAFETY: whole pages inside the allocation are advised; nothing is unmapped or moved.
            let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTDUMP) };
        }
        secret
    }

    /// The whole pages that have the key.
    fn pages(&self) -> Option<(NonNull<libc::c_void>, usize)> {
        let page = page_size();
        let start = self.room[self.start..].as_ptr();
        Some((NonNull::new(start.cast_mut().cast())?, self.room.len() - page))
    }
}

/// In bytes.
fn page_size() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::copy_of(self.expose())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.room.as_mut_slice().zeroize();
        if let Some((start, length)) = self.pages() {
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

    /// Whether the page of this address is locked (`lo` among the `VmFlags` of `proc_pid_smaps(5)`).
    fn is_locked(at: *const u8) -> bool {
        let (smaps, at) = (std::fs::read_to_string("/proc/self/smaps").unwrap(), at.addr());
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(start), Some(end))) = range.map(|(start, end)| (number(start), number(end))) {
                inside = (start..end).contains(&at);
            }
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                return flags.split_whitespace().any(|flag| flag == "lo");
            }
        }
        false
    }

    /// Locks do not add up (mlock(2)): of two secrets on one page the first that goes would unlock the other.
    #[test]
    fn a_copy_that_is_let_go_leaves_the_other_locked() {
        let secrets: Vec<Secret> = (0..64).map(|_| Secret::copy_of(b"correct horse")).collect();
        let kept = secrets[31].clone();
        if !is_locked(kept.expose().as_ptr()) {
            println!("skipped: RLIMIT_MEMLOCK is too low");
            return;
        }
        drop(secrets);
        assert!(is_locked(kept.expose().as_ptr()));
        assert_eq!(kept.expose(), b"correct horse");
    }

    #[test]
    fn never_prints_what_it_holds() {
        assert_eq!(format!("{:?}", Secret::copy_of(b"correct horse")), "Secret");
    }
}
