//! Reads a key from a file, as cryptsetup(8) does with `--key-file`, `--keyfile-offset` and `--keyfile-size`: the bytes as they are, a
//! newline at the end too.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use super::{KeyFile, stick};
use crate::secret::{MAX_KEY, Secret};
use crate::text;

/// Room for a key where the file's own size says too little (a file below `/sys` or `/proc`), in bytes.
const ROOM: u64 = 4096;

/// The key, or what is wrong with the file (without its path).
pub(super) fn read(key: &KeyFile) -> Result<Secret, String> {
    let words = |error: io::Error| system_words(&error);
    let mut file = match &key.device {
        Some(device) => stick::open(device, &key.path)?,
        // Without O_NONBLOCK, a named pipe there would be waited for.
        None => OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&key.path)
            .map_err(words)?,
    };
    let metadata = file.metadata().map_err(words)?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err("it is neither a file nor a block device".to_owned());
    }
    file.seek(SeekFrom::Start(key.offset)).map_err(words)?;
    let secret = match key.size {
        Some(size) if size > MAX_KEY => return Err(too_long()),
        Some(size) => Secret::read_from(&mut file.take(size as u64), size).map_err(words)?,
        None => {
            let rest = metadata.len().saturating_sub(key.offset).max(ROOM);
            let limit = if kind.is_file() {
                usize::try_from(rest).unwrap_or(MAX_KEY).min(MAX_KEY)
            } else {
                MAX_KEY
            };
            Secret::read_from(&mut file, limit).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => too_long(),
                _ => words(error),
            })?
        }
    };
    let length = secret.expose().len();
    match key.size {
        Some(size) if length < size => Err(format!(
            "key-file-size is {size} bytes, and it has {length} at offset {}",
            key.offset
        )),
        _ if length == 0 => Err(format!("it has no bytes at offset {}", key.offset)),
        _ => Ok(secret),
    }
}

fn too_long() -> String {
    let most = text::bytes(MAX_KEY as u64);
    format!("the key is longer than {most}; key-file-size tells how much of it is the key")
}

/// The system's words for an error, without its number.
pub(super) fn system_words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |number| nix::errno::Errno::from_raw(number).desc().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read_of(path: &Path, offset: u64, size: Option<usize>) -> Result<Vec<u8>, String> {
        let file = KeyFile {
            path: path.to_owned(),
            offset,
            size,
            device: None,
        };
        read(&file).map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn the_bytes_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, b"pad\0key\n").unwrap();
        assert_eq!(read_of(&path, 0, None).unwrap(), b"pad\0key\n");
        assert_eq!(read_of(&path, 4, None).unwrap(), b"key\n");
        assert_eq!(read_of(&path, 4, Some(3)).unwrap(), b"key");
        assert_eq!(
            read_of(&path, 4, Some(5)).unwrap_err(),
            "key-file-size is 5 bytes, and it has 4 at offset 4"
        );
        assert_eq!(read_of(&path, 9, None).unwrap_err(), "it has no bytes at offset 9");
    }

    #[test]
    fn a_key_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(MAX_KEY as u64).unwrap();
        assert_eq!(read_of(&path, 0, None).unwrap().len(), MAX_KEY);
        file.set_len(MAX_KEY as u64 + 1).unwrap();
        assert!(
            read_of(&path, 0, None)
                .unwrap_err()
                .starts_with("the key is longer than 8 MiB")
        );
        assert!(read_of(&path, 0, Some(MAX_KEY + 1)).is_err());
        assert_eq!(read_of(&path, 1, None).unwrap().len(), MAX_KEY);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [pipe.as_path(), folder.path()] {
            assert_eq!(read_of(path, 0, None).unwrap_err(), "it is neither a file nor a block device");
        }
        assert_eq!(
            read_of(&folder.path().join("none"), 0, None).unwrap_err(),
            "No such file or directory"
        );
    }
}
