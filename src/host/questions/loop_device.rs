//! A header in a file, as a block device for as long as a question for it is open: clevis' agent answers for block devices alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// The agent for whom it is done.
const AGENT: &str = "/usr/libexec/clevis-luks-askpass";
/// What is before the path in a question's id.
const PREFIX: &str = "cryptsetup:";
/// How often another device is tried when somebody was faster.
const TRIES: usize = 8;

// <linux/loop.h>, which libc does not carry.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const READ_ONLY: u32 = 1;
/// It is free again when nobody has it open.
const AUTOCLEAR: u32 = 4;

#[repr(C)]
struct Configuration {
    backing: u32,
    block_size: u32,
    /// Numbers that the kernel fills in, offset, size limit, kind and size of an encryption that is long gone.
    before: [u64; 5],
    before_flags: [u32; 3],
    flags: u32,
    /// Names, key, and room for later.
    after: [u64; 30],
}

/// The device, until it is dropped.
pub(super) struct LoopDevice {
    _open: File,
    path: PathBuf,
}

impl LoopDevice {
    /// For the question with this id; `None` where it is for a block device already, nobody needs it, or it cannot be had.
    pub fn for_question(id: &str) -> Option<Self> {
        let file = Path::new(id.strip_prefix(PREFIX)?);
        if !Path::new(AGENT).exists() || !file.is_file() {
            return None;
        }
        Self::on(file).ok()
    }

    /// The id that an agent knows what to do with.
    pub fn id(&self) -> String {
        format!("{PREFIX}{}", self.path.display())
    }

    fn on(file: &Path) -> io::Result<Self> {
        let backing = File::open(file)?;
        let control = File::open("/dev/loop-control")?;
        let mut result = Err(Errno::EBUSY.into());
        for _ in 0..TRIES {
            result = Self::next(&control, &backing);
            if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EBUSY)) {
                break;
            }
        }
        result
    }

    fn next(control: &File, backing: &File) -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let number = said(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(&path)?;
        let configuration = Configuration {
            backing: u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 0,
            before: [0; 5],
            before_flags: [0; 3],
            flags: READ_ONLY | AUTOCLEAR,
            after: [0; 30],
        };
        // SAFETY: the structure is the kernel's, and outlives the call, which only reads it.
        said(unsafe { libc::ioctl(open.as_raw_fd(), LOOP_CONFIGURE, &raw const configuration) })?;
        Ok(Self { _open: open, path })
    }
}

fn said(result: libc::c_int) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_the_kernel_s() {
        assert_eq!(size_of::<Configuration>(), 304);
        assert_eq!(std::mem::offset_of!(Configuration, flags), 60);
    }

    #[test]
    fn what_is_no_file_keeps_its_id() {
        for id in ["cryptsetup:/dev/null", "virt-unlock:new:/etc/passwd", "cryptsetup:/none"] {
            assert!(LoopDevice::for_question(id).is_none(), "{id}");
        }
    }
}
