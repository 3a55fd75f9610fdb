//! A file on a device that is mounted for as long as it is read: read-only, and at no place. The mount belongs to this process alone
//! (fsmount(2)): nobody finds it below a path, and the kernel takes it back when this process ends, however that comes about.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::key_file::system_words;
use crate::host::devices::Kernel;

/// What a stick may have on it where udev does not say.
const USUAL: [&str; 5] = ["vfat", "exfat", "ext4", "xfs", "btrfs"];

// <linux/mount.h>, which libc does not carry.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
/// Read-only, without set-user-ID, devices and programs.
const MOUNT_ATTRIBUTES: libc::c_uint = 0x1 | 0x2 | 0x4 | 0x8;

/// Opens the file at `path` in the filesystem on `device`; or what is wrong.
pub(super) fn open(device: &Path, path: &Path) -> Result<File, String> {
    let root = mount(device).map_err(|error| {
        let (device, words) = (device.display(), system_words(&error));
        format!("the filesystem on {device} cannot be mounted: {words}; `dmesg` may tell why")
    })?;
    beneath(root, path)
}

/// The file at `path` below a folder, by no link: one could lead to anywhere. Folder by folder, for openat2(2), which could follow those
/// that stay inside, is not there for a unit with `RestrictSUIDSGID=` (systemd.exec(5)).
fn beneath(root: OwnedFd, path: &Path) -> Result<File, String> {
    let words = |errno: Errno, name: &Path| match errno {
        Errno::ELOOP | Errno::ENOTDIR => format!("{} is a symbolic link, or no folder", name.display()),
        errno => errno.desc().to_owned(),
    };
    let mut names = path
        .components()
        .filter(|part| !matches!(part, Component::RootDir))
        .peekable();
    let mut folder = root;
    while let Some(name) = names.next() {
        let name: &Path = name.as_ref();
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if names.peek().is_some() {
            let flags = flags | OFlag::O_PATH | OFlag::O_DIRECTORY;
            folder = openat(&folder, name, flags, Mode::empty()).map_err(|errno| words(errno, name))?;
        } else {
            let flags = flags | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            let file = openat(&folder, name, flags, Mode::empty()).map_err(|errno| words(errno, name))?;
            return Ok(File::from(file));
        }
    }
    Err(Errno::EISDIR.desc().to_owned())
}

fn mount(device: &Path) -> io::Result<OwnedFd> {
    let known = Kernel::new().filesystem(device);
    // The kernel's newer driver has a name of its own.
    let known = known.as_deref().map(|kind| if kind == "ntfs" { "ntfs3" } else { kind });
    let kinds = known.map_or(USUAL.to_vec(), |kind| vec![kind]);
    let mut result = Err(Errno::ENODEV.into());
    for kind in kinds {
        result = mount_as(kind, device, true);
        // It is mounted somewhere, to be written to: this mount shares what is there, and writes nothing.
        if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            result = mount_as(kind, device, false);
        }
        if result.is_ok() {
            break;
        }
    }
    result
}

fn mount_as(kind: &str, device: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let kind = CString::new(kind)?;
    let device = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: the call reads a string that outlives it, and gives a new descriptor or -1.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    configure(&context, FSCONFIG_SET_STRING, Some(c"source"), Some(&device))?;
    if read_only {
        configure(&context, FSCONFIG_SET_FLAG, Some(c"ro"), None)?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
    let context = context.as_raw_fd();
    // SAFETY: the call takes numbers alone, and gives a new descriptor or -1.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTRIBUTES) })
}

fn configure(context: &OwnedFd, what: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    let (context, zero) = (context.as_raw_fd(), 0 as libc::c_int);
    // SAFETY: the call reads strings that outlive it, or gets no pointer.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context, what, pointer(key), pointer(value), zero) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let Ok(descriptor @ 0..) = i32::try_from(descriptor) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_found_below_its_folder_and_by_no_link() {
        let root = tempfile::tempdir().unwrap();
        let keys = root.path().join("keys");
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("vm"), "a key").unwrap();
        symlink("/etc", root.path().join("away")).unwrap();
        symlink("vm", keys.join("link")).unwrap();
        let read = |path: &str| {
            let root = OwnedFd::from(File::open(root.path()).unwrap());
            let mut text = String::new();
            let result = beneath(root, Path::new(path)).map(|mut file| file.read_to_string(&mut text).is_ok());
            result.map(|_| text)
        };
        assert_eq!(read("/keys/vm"), Ok("a key".to_owned()));
        assert_eq!(read("/keys/none"), Err("No such file or directory".to_owned()));
        for path in ["/away/passwd", "/keys/link"] {
            assert!(read(path).is_err_and(|words| words.contains("is a symbolic link")), "{path}");
        }
    }
}
