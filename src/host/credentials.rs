//! Credentials that systemd gives a unit (systemd.exec(5), systemd-creds(1)): a file each, in a folder that only its processes and
//! root can read. Encrypted ones were decrypted before the unit began.

use std::env;
use std::path::{Path, PathBuf};

use super::worker::KeyFile;

/// Where systemd says that they are.
const FOLDER: &str = "CREDENTIALS_DIRECTORY";

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
    // One that could not be had is empty where the unit has a SetCredential= for that case.
    match path.metadata() {
        Ok(file) if file.len() > 0 => Ok(KeyFile {
            path,
            offset: 0,
            size: None,
            device: None,
        }),
        Ok(_) => Err("it is empty; `systemd-creds encrypt` makes it, see virt-unlock.toml(5)".to_owned()),
        Err(_) => Err("its unit has no credential of this name; a drop-in that virt-unlock.toml(5) shows gives it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mail"), "key").unwrap();
        std::fs::write(folder.path().join("void"), "").unwrap();
        let find = |name| find_in(Some(folder.path()), name).map(|file| file.path);
        assert_eq!(find("mail"), Ok(folder.path().join("mail")));
        assert!(find("void").unwrap_err().starts_with("it is empty"));
        assert!(find("web").unwrap_err().starts_with("its unit has no credential"));
        assert!(
            find_in(None, "mail")
                .unwrap_err()
                .starts_with("this process has no credentials")
        );
    }
}
