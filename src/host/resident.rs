//! Memory that a process holds without needing it: the pages of its program and libraries that were read while it began.

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// One mapping of a file that was never written to.
#[derive(Debug, PartialEq, Eq)]
struct Clean {
    from: usize,
    length: usize,
}

/// Lets go of the pages of files that this process has mapped and only reads. The kernel has them in its cache and gives them back
/// when they are read again; a service that waits for weeks need not hold them.
pub(super) fn let_go() {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for clean in clean(&text) {
        if let Some(from) = NonNull::new(clean.from as *mut c_void) {
            // SAFETY: the kernel says that the mapping is of a file, that it cannot be written to and has no page of its own, so that
            // each page is read from the file again, and is the same.
            let _ = unsafe { madvise(from, clean.length, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

/// The mappings in `/proc/self/smaps` (`proc_pid_smaps(5)`) whose pages can all be had again from their file.
fn clean(text: &str) -> Vec<Clean> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in text.lines() {
        if let Some((begins, can_go)) = head(line) {
            mapping = can_go.then_some(begins);
        } else if line.split_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(mapping.take());
        }
    }
    found
}

/// What the first line of a mapping says, and whether the mapping is of a file and only read.
fn head(line: &str) -> Option<(Clean, bool)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    let rights = fields.next()?;
    let is_file = fields
        .nth(3)
        .is_some_and(|path| path.starts_with('/') && !path.starts_with("/dev/"));
    let length = to.checked_sub(from)?;
    Some((Clean { from, length }, is_file && !rights.contains('w')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "55d0-55e0 r-xp 00000000 fe:00 12 /usr/bin/virt-unlock\nRss: 16 kB\nAnonymous:             0 kB\nVmFlags: rd ex\n\
        55e0-55f0 r--p 00010000 fe:00 12 /usr/bin/virt-unlock\nAnonymous:             4 kB\n\
        55f0-5600 rw-p 00020000 fe:00 12 /usr/bin/virt-unlock\nAnonymous:             0 kB\n\
        7f00-7f10 r-xp 00000000 00:00 0 [vdso]\nAnonymous:             0 kB\n\
        7f20-7f30 r--s 00000000 00:05 9 /dev/something\nAnonymous:             0 kB\n\
        7f30-7f40 r--p 00000000 fe:00 13 /usr/lib/a library.so\nAnonymous:             0 kB\n";

    #[test]
    fn only_what_was_never_written_to_is_let_go() {
        let found: Vec<_> = clean(SMAPS).iter().map(|clean| (clean.from, clean.length)).collect();
        assert_eq!(found, [(0x55d0, 0x10), (0x7f30, 0x10)]);
    }

    #[test]
    fn the_process_goes_on_with_less() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("RssFile:"))
                .unwrap_or_default();
            line.trim_end_matches("kB").trim().parse::<u32>().unwrap_or_default()
        };
        let before = resident();
        let_go();
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }
}
