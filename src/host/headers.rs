//! Changes of LUKS2 headers by libcryptsetup, each in a worker process of its own.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::volumes::{Cryptsetup, OPEN_LIMIT, PROBE_LIMIT, Parts, parts_of_bytes, place};
use super::worker::{Change, Job};
use super::{Headers, Key, OpenError};
use crate::cancel::Cancel;
use crate::config::Volume;
use crate::secret::Secret;

/// A whole LUKS2 header as cryptsetup(8) makes it, in bytes.
const SIZE: u64 = 16 << 20;

impl Headers for Cryptsetup {
    fn check(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError> {
        self.activate(volume, device, None, key, cancel)
    }

    /// One at a time: what an earlier one left unfinished is cleared away.
    fn create_master(&self, header: &Path, key: &Key, cancel: &Cancel) -> Result<String, OpenError> {
        let draft = Draft::begin(header).map_err(|error| not_made(header, &error))?;
        let Parts {
            key_file, passphrase, ..
        } = parts_of_bytes(key)?;
        let job = Job::CreateMaster {
            header: draft.path.clone(),
            key_file,
        };
        let uuid: Result<String, OpenError> = self.run(job, [passphrase, None], OPEN_LIMIT, cancel)?;
        let uuid = uuid?;
        draft.publish(header).map_err(|error| not_made(header, &error))?;
        Ok(uuid)
    }

    fn add_keyslot(&self, volume: &Volume, device: &Path, with: &Key, new: &Secret, cancel: &Cancel) -> Result<u32, OpenError> {
        let Parts {
            key_file, passphrase, ..
        } = parts_of_bytes(with)?;
        let job = Job::Change {
            place: place(volume, device),
            change: Change::AddKeyslot { key_file },
        };
        self.run(job, [passphrase, Some(new)], OPEN_LIMIT, cancel)?
    }

    fn add_token(&self, volume: &Volume, device: &Path, master: &str, keyslot: u32, cancel: &Cancel) -> Result<(), OpenError> {
        let master = master.to_owned();
        self.change(volume, device, Change::AddToken { master, keyslot }, cancel)
    }

    fn remove_keyslot(&self, volume: &Volume, device: &Path, keyslot: u32, cancel: &Cancel) -> Result<(), OpenError> {
        self.change(volume, device, Change::RemoveKeyslot(keyslot), cancel)
    }

    fn remove_token(&self, volume: &Volume, device: &Path, token: u32, cancel: &Cancel) -> Result<(), OpenError> {
        self.change(volume, device, Change::RemoveToken(token), cancel)
    }
}

impl Cryptsetup {
    /// A change that needs no key.
    fn change(&self, volume: &Volume, device: &Path, change: Change, cancel: &Cancel) -> Result<(), OpenError> {
        let place = place(volume, device);
        let changed: Result<u32, OpenError> = self.run(Job::Change { place, change }, [None, None], PROBE_LIMIT, cancel)?;
        changed.map(drop)
    }
}

fn not_made(header: &Path, error: &io::Error) -> OpenError {
    OpenError::Other(match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{} is there already, and is left as it is", header.display()),
        _ => format!("{} cannot be made: {error}", header.display()),
    })
}

/// A file beside the one that it is to become. Only when it is whole on the disk it gets that one's name.
struct Draft {
    path: PathBuf,
    file: File,
    folder: PathBuf,
}

impl Draft {
    fn begin(header: &Path) -> io::Result<Self> {
        if header.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (folder, name) = header
            .parent()
            .zip(header.file_name())
            .ok_or_else(|| io::Error::other("it is no name of a file"))?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join([".".as_ref(), name, ".part".as_ref()].join("".as_ref()));
        // Of one that was killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let draft = Self {
            path,
            file,
            folder: folder.to_owned(),
        };
        draft.file.set_len(SIZE)?;
        Ok(draft)
    }

    fn publish(&self, header: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        // Unlike rename(2) this never replaces a file, on any filesystem.
        fs::hard_link(&self.path, header)?;
        fs::remove_file(&self.path)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
