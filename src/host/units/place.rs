//! The directory that a filesystem is mounted on.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What a directory that was missing gets, whatever the umask: guests' processes have to pass it.
const MODE: u32 = 0o755;

/// Makes sure that the mount point is a directory that has no symbolic link on its way: systemd mounts at none, and what a link
/// leads to can change behind our back.
///
/// # Errors
/// In words, when it is not and cannot be made.
pub(super) fn prepare(at: &Path) -> Result<(), String> {
    let mut way = PathBuf::new();
    for part in at.components() {
        way.push(part);
        match fs::symlink_metadata(&way) {
            Ok(found) if found.is_symlink() => {
                let real = fs::canonicalize(at).unwrap_or_else(|_| at.to_owned());
                return Err(format!(
                    "the mount point {} leads over the symbolic link {}, and systemd mounts nothing there; set `mount` to the real \
                     path ({} now)",
                    at.display(),
                    way.display(),
                    real.display()
                ));
            }
            Ok(found) if !found.is_dir() => {
                return Err(format!(
                    "the mount point {} cannot be: {} is no directory; move it away, or choose another mount point",
                    at.display(),
                    way.display()
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&way).map_err(|error| {
                format!(
                    "cannot make the directory {} for the mount point {}: {error}",
                    way.display(),
                    at.display()
                )
            })?,
            Err(error) => return Err(format!("cannot look at {}: {error}", way.display())),
        }
    }
    Ok(())
}

fn make(at: &Path) -> io::Result<()> {
    match fs::create_dir(at) {
        // Another volume's mount made it just now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs::set_permissions(at, fs::Permissions::from_mode(MODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_made_for_all_to_pass() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = root.join("a/b");
        prepare(&at).unwrap();
        prepare(&at).unwrap();
        for made in [root.join("a"), at] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, MODE);
        }
    }

    #[test]
    fn a_link_on_the_way_is_refused_and_the_real_path_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("real/vm")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let words = prepare(&root.join("link/vm")).unwrap_err();
        assert!(
            words.contains(&format!("symbolic link {}", root.join("link").display())),
            "{words}"
        );
        assert!(words.contains(&root.join("real/vm").display().to_string()), "{words}");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().canonicalize().unwrap().join("file");
        fs::write(&file, "").unwrap();
        let words = prepare(&file.join("vm")).unwrap_err();
        assert!(words.contains(&format!("{} is no directory", file.display())), "{words}");
    }
}
