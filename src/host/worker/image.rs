//! Images that QEMU encrypts: a LUKS1 header as cryptsetup(8) makes it, but inside of a qcow2 file it lies anywhere. And their keys,
//! which QEMU takes from libvirt and not from us.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::key_file::{self, system_words};
use super::{KeyFile, MAX_ANSWER};
use crate::host::{OpenError, qcow2};
use crate::secret::Secret;

/// The longest header that is read, in bytes: that of LUKS1 with its eight keyslots takes about 2 MiB.
const LONGEST: u64 = 16 << 20;
/// What lies behind the header in the copy, in bytes: libcryptsetup wants to see data there.
const ROOM: u64 = 1 << 20;

/// A path to a copy of the LUKS header in the image, which is there until this process ends.
pub(super) fn lifted(image: &Path) -> Result<PathBuf, OpenError> {
    let wrong = |words: String| OpenError::Header(format!("{}: {words}", image.display()));
    let Some((file, from, length)) = qcow2::luks_header(image).map_err(|error| wrong(system_words(&error)))? else {
        return Err(wrong("it is not encrypted with LUKS".to_owned()));
    };
    if length > LONGEST {
        return Err(wrong(format!(
            "its LUKS header is damaged: {length} bytes are no length of one"
        )));
    }
    copy(&file, from, length).map_err(|error| wrong(system_words(&error)))
}

fn copy(file: &File, from: u64, length: u64) -> io::Result<PathBuf> {
    let mut header = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut header, from)?;
    let copy = File::from(memfd_create(c"luks-header", MFdFlags::MFD_CLOEXEC)?);
    copy.write_all_at(&header, 0)?;
    copy.set_len(length + ROOM)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    let _ = copy.into_raw_fd();
    Ok(path)
}

/// The bytes of a key, as far as an answer has room for them.
pub(super) fn read_key(key: &KeyFile) -> Result<Secret, OpenError> {
    let read = key_file::read(key).map_err(OpenError::KeyFile)?;
    let most = MAX_ANSWER / 2;
    if read.expose().len() > most {
        return Err(OpenError::KeyFile(format!("the key is longer than {most} bytes")));
    }
    Ok(read)
}
