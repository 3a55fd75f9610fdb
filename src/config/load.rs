//! Reads the configuration's files from the disk.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Config;
use super::problem::{Complaints, Place, Problems};

/// Where the configuration is, unless `--config` says something else.
pub const DEFAULT_PATH: &str = "/etc/virt-unlock/config.toml";
/// The directory of further files, beside the main one.
const FURTHER: &str = "config.d";
/// No configuration is longer, in bytes; `--config /dev/zero` ends here.
const LONGEST: u64 = 1 << 20;

/// A configuration that was read, and what it was read from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// The files with their texts, in the order in which they were read.
    pub files: Vec<(PathBuf, String)>,
}

/// Reads the configuration: the file `at`, or [`DEFAULT_PATH`], which must be there, and then `config.d/*.toml` beside it in the
/// order of their names (byte by byte; hidden files are left out).
///
/// # Errors
/// All problems of all files, in the order of files and lines; a file that cannot be read is one of them.
pub fn load(at: Option<&Path>) -> Result<Loaded, Problems> {
    let main = at.unwrap_or(Path::new(DEFAULT_PATH));
    let mut found = Reading::default();
    found.read(main, |error| missing_main(main, error));
    // A bare file name has an empty parent, and that means here.
    let beside = main.parent().filter(|parent| !parent.as_os_str().is_empty());
    let further = beside.unwrap_or(Path::new(".")).join(FURTHER);
    match list(&further) {
        Ok(paths) => {
            for path in paths {
                found.read(&path, |error| cannot_read(&path, error));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.fail(&further, cannot_read(&further, &error)),
    }

    let Reading {
        files,
        mut complaints,
        unread,
    } = found;
    let config = super::read(&files, unread, &mut complaints);
    let config = complaints.into_result(&files, config)?;
    Ok(Loaded { config, files })
}

#[derive(Default)]
struct Reading {
    files: Vec<(PathBuf, String)>,
    complaints: Complaints,
    /// Whether some file could not be read.
    unread: bool,
}

impl Reading {
    fn read(&mut self, path: &Path, words: impl FnOnce(&io::Error) -> String) {
        match read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => self.files.push((path.to_owned(), text)),
                Err(error) => self.not_utf8(path, error.utf8_error().valid_up_to(), error.as_bytes()),
            },
            Err(error) => self.fail(path, words(&error)),
        }
    }

    fn fail(&mut self, path: &Path, words: String) {
        self.complaints.of_file(self.files.len(), words);
        self.files.push((path.to_owned(), String::new()));
        self.unread = true;
    }

    /// The text up to the end of the wrong byte's line is kept to show it.
    fn not_utf8(&mut self, path: &Path, at: usize, bytes: &[u8]) {
        let line_end = bytes[at..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |length| at + length);
        let text = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
        let place = Place {
            file: self.files.len(),
            span: at..at + '\u{fffd}'.len_utf8(),
        };
        let message = format!("this is not UTF-8: byte 0x{:02x}; save the file as UTF-8", bytes[at]);
        self.complaints.at(&place, message);
        self.files.push((path.to_owned(), text));
        self.unread = true;
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        let words = format!("it is longer than {} KiB, and no configuration is", LONGEST >> 10);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
    }
    Ok(bytes)
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if is_ours(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

fn missing_main(path: &Path, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::NotFound {
        return cannot_read(path, error);
    }
    format!(
        "there is no configuration: {} does not exist; create it with a [volume.NAME] table for each encrypted volume \
         (config.example.toml shows how)",
        path.display()
    )
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}
