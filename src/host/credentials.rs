//! Credentials that systemd gives a unit (systemd.exec(5), systemd-creds(1)): a file each, in a folder that only its processes and
//! root can read. Encrypted ones were decrypted before the unit began.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::worker::KeyFile;

/// Where systemd says that they are.
const FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// What a unit's `SetCredential=` gives in place of a file that is not there. systemd ignores one with nothing in it, and does not
/// start the unit then.
const MISSING: &[u8] = b"-";

/// The file of a credential of this process; or why there is none, and what to do.
pub(super) fn find(name: &str) -> Result<KeyFile, String> {
    let folder = env::var_os(FOLDER).map(PathBuf::from);
    find_in(folder.as_deref(), name)
}

fn find_in(folder: Option<&Path>, name: &str) -> Result<KeyFile, String> {
    let Some(folder) = folder else {
        return Err(
            "this process has no credentials: systemd gives them to a unit, by a drop-in that virt-unlock.toml(5) shows, and not to \
             what is started by hand"
                .to_owned(),
        );
    };
    let path = folder.join(name);
    match path.metadata() {
        Ok(file) if file.len() > MISSING.len() as u64 || !is_missing(&path) => Ok(KeyFile {
            path,
            offset: 0,
            size: None,
            device: None,
        }),
        Ok(_) => Err(
            "its file was not there when the unit started; `systemd-creds encrypt` makes it, see virt-unlock.toml(5)".to_owned(),
        ),
        Err(_) => Err("its unit has no credential of this name; a drop-in that virt-unlock.toml(5) shows gives it".to_owned()),
    }
}

/// Whether it is what the unit gives in place of a file that is not there. It is too short to be a key that is worth to be kept secret.
fn is_missing(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.is_empty() || bytes == MISSING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mail"), "key").unwrap();
        for (name, bytes) in [("void", ""), ("none", "-"), ("short", "x")] {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let find = |name| find_in(Some(folder.path()), name).map(|file| file.path);
        assert_eq!(find("mail"), Ok(folder.path().join("mail")));
        assert!(find("short").is_ok());
        for name in ["void", "none"] {
            assert!(find(name).unwrap_err().starts_with("its file was not there"), "{name}");
        }
        assert!(find("web").unwrap_err().starts_with("its unit has no credential"));
        assert!(
            find_in(None, "mail")
                .unwrap_err()
                .starts_with("this process has no credentials")
        );
    }
}
