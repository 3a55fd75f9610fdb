//! Files of ours that root alone reads, replaced as a whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `bytes` beside `path` and renames: who reads it finds the old or the new, never half of one. Its folder is made where it is
/// not there.
///
/// # Errors
/// What the system says of the folder, of the file beside, or of the rename.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, bytes, |_| Ok(()))
}

/// The same, and on the disk before it takes its name: for what is to be known after a power cut.
///
/// # Errors
/// Those of [`replace`], and of the disk.
pub fn replace_lasting(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, bytes, File::sync_all)
}

fn write_beside(path: &Path, bytes: &[u8], settle: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut beside = OsString::from(path);
    beside.push(".new");
    // What a killed run has left there may have another mode, or be a link.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    settle(&file)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_a_killed_run_left_beside_it_gives_neither_its_mode_nor_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("a/guests.json"), folder.path().join("a/guests.json.new"));
        replace(&path, b"first").unwrap();
        for lasting in [false, true] {
            fs::write(&beside, "half").unwrap();
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
            let written = if lasting {
                replace_lasting(&path, b"new")
            } else {
                replace(&path, b"new")
            };
            written.unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!beside.exists());
        }
        let others = folder.path().join("others");
        fs::write(&others, "theirs").unwrap();
        symlink(&others, &beside).unwrap();
        replace(&path, b"newer").unwrap();
        assert_eq!(fs::read(&others).unwrap(), b"theirs");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}
