//! Which other files a qcow2 image needs: its backing file, and the external file that holds its data. Reads headers only, and of
//! these only what libvirt would follow too: images that are declared as qcow2, never what merely looks like one (a guest can
//! write what it likes to a raw disk). The format is in QEMU's `docs/interop/qcow2.txt`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::domain_xml::CHAIN_LIMIT;

const MAGIC: &[u8] = b"QFI\xfb";
/// The bit of `incompatible_features` that says: the data is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// "Full disk encryption header pointer": where the LUKS header lies in the image, and how long it is.
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
/// The longest backing file name that the format allows, in bytes.
const NAME_LIMIT: u32 = 1023;
/// How much of an image is read: its header lies in its first cluster, and the biggest cluster that QEMU makes is 2 MiB.
const READ_LIMIT: u64 = 2 << 20;

/// What an image names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The image below it; `None`: there is none, or it is not on this host (nbd, http, …).
    pub backing: Option<Reference>,
    /// The file that holds its data.
    pub data: Option<Reference>,
}

/// One file that an image names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its path, a relative one joined to the folder of the image that names it.
    pub path: PathBuf,
    /// Its format, where the image says it.
    pub format: Option<String>,
}

/// What the image at `path` names, read from its header.
///
/// # Errors
/// What opening and reading say; [`io::ErrorKind::InvalidData`] when it is no qcow2 image, or a damaged one, and
/// [`io::ErrorKind::InvalidInput`] when it is neither a regular file nor a block device.
pub fn references(path: &Path) -> io::Result<References> {
    let file = open(path)?;
    let mut start = Vec::new();
    file.take(READ_LIMIT).read_to_end(&mut start)?;
    let header = Header::read(&start).ok_or_else(damaged)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let backing = header.backing.and_then(|name| locate(name, folder));
    Ok(References {
        backing: backing.map(|found| Reference {
            format: header.backing_format.or(found.format),
            path: found.path,
        }),
        data: header.data.and_then(|name| locate(name, folder)),
    })
}

/// The image, and where in it its LUKS header lies: its first byte, and its length. `None`: it is not encrypted with LUKS.
///
/// # Errors
/// As [`references`].
pub fn luks_header(path: &Path) -> io::Result<Option<(File, u64, u64)>> {
    let file = open(path)?;
    let mut start = Vec::new();
    (&file).take(READ_LIMIT).read_to_end(&mut start)?;
    let header = Header::read(&start).ok_or_else(damaged)?;
    Ok(header.encryption.map(|(from, length)| (file, from, length)))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no qcow2 header, or a damaged one")
}

/// Every file that the image at `path` of the declared `format` needs besides itself, nearest first, and again what these need.
/// Where an image cannot be read (its filesystem is not mounted yet) the chain ends, with that image as its last. `backing` false:
/// the first image's own backing file counts for nothing, something else was declared.
pub fn chain(path: &Path, format: Option<&str>, backing: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([path.to_owned()]);
    let mut image = Some(Reference {
        path: path.to_owned(),
        format: format.map(ToOwned::to_owned),
    });
    for depth in 0..CHAIN_LIMIT {
        let Some(current) = image.filter(|image| image.format.as_deref() == Some("qcow2")) else {
            break;
        };
        let Ok(named) = references(&current.path) else { break };
        found.extend(named.data.map(|data| data.path));
        // A loop ends where it closes.
        image = named
            .backing
            .filter(|below| (depth > 0 || backing) && seen.insert(below.path.clone()));
        found.extend(image.iter().map(|below| below.path.clone()));
    }
    found
}

/// Opens a regular file or a block device, and nothing that opening could block at or change (a FIFO, a tape).
fn open(path: &Path) -> io::Result<File> {
    let fits = |kind: std::fs::FileType| kind.is_file() || kind.is_block_device();
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device");
    if !fits(std::fs::metadata(path)?.file_type()) {
        return Err(wrong());
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    // Another file may have come to that name in between.
    if !fits(file.metadata()?.file_type()) {
        return Err(wrong());
    }
    Ok(file)
}

/// What counts of a header. The names are as the image spells them.
#[derive(Debug, PartialEq, Eq)]
struct Header<'a> {
    backing: Option<&'a [u8]>,
    backing_format: Option<String>,
    data: Option<&'a [u8]>,
    encryption: Option<(u64, u64)>,
}

impl<'a> Header<'a> {
    /// From the first bytes of an image; `None`: no header, or one that contradicts itself.
    fn read(start: &'a [u8]) -> Option<Self> {
        if start.get(..4)? != MAGIC {
            return None;
        }
        let (length, features) = match number(start, 4)? {
            2 => (72, 0),
            3 => (usize::try_from(number(start, 100)?).ok()?, long(start, 72)?),
            _ => return None,
        };
        let name_at = usize::try_from(long(start, 8)?).ok()?;
        let name_length = number(start, 16)?;
        let backing = match name_at {
            0 => None,
            _ if name_length > NAME_LIMIT => return None,
            _ => Some(part(start, name_at, name_length)?),
        };
        let mut header = Self {
            backing: backing.filter(|name| !name.is_empty()),
            backing_format: None,
            data: None,
            encryption: None,
        };
        // The extensions end, at the latest, where the name begins; images of QEMU before 0.11 have none at all.
        let extensions = if name_at == 0 { start } else { start.get(..name_at)? };
        header.read_extensions(extensions, length)?;
        if features & EXTERNAL_DATA == 0 {
            header.data = None;
        }
        Some(header)
    }

    fn read_extensions(&mut self, start: &'a [u8], mut at: usize) -> Option<()> {
        while at < start.len() {
            let (kind, length) = (number(start, at)?, number(start, at.checked_add(4)?)?);
            let from = at.checked_add(8)?;
            match kind {
                EXTENSION_END => return Some(()),
                EXTENSION_BACKING_FORMAT => {
                    let name = part(start, from, length)?;
                    self.backing_format = Some(String::from_utf8_lossy(name).into_owned());
                }
                EXTENSION_ENCRYPTION => {
                    let pointer = part(start, from, length)?;
                    self.encryption = Some((long(pointer, 0)?, long(pointer, 8)?));
                }
                EXTENSION_DATA_FILE => self.data = Some(part(start, from, length)?),
                _ => {}
            }
            at = from.checked_add(usize::try_from(length).ok()?.checked_next_multiple_of(8)?)?;
        }
        Some(())
    }
}

fn part(bytes: &[u8], at: usize, length: u32) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(usize::try_from(length).ok()?)?)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    part(bytes, at, 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    part(bytes, at, 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// The place that a name in an image means to QEMU (`bdrv_open` and `path_has_protocol` in its `block.c`); `None`: none of
/// this host.
fn locate(name: &[u8], folder: &Path) -> Option<Reference> {
    let protocol = name
        .iter()
        .position(|byte| b":/".contains(byte))
        .filter(|at| name[*at] == b':');
    let (path, format) = match protocol.map(|at| name.split_at(at)) {
        None => (PathBuf::from(OsStr::from_bytes(name)), None),
        Some((b"json", rest)) => from_json(&rest[1..])?,
        Some((b"file" | b"host_device", rest)) => (PathBuf::from(OsStr::from_bytes(&rest[1..])), None),
        Some(_) => return None,
    };
    (!path.as_os_str().is_empty()).then(|| Reference {
        path: folder.join(path),
        format,
    })
}

/// `{"driver":"qcow2","file":{"driver":"file","filename":"/x"}}`, also flat as `{"driver":"qcow2","file.filename":"/x"}`: layers
/// of drivers, each above the one in its `file`, and the lowest has the name.
fn from_json(words: &[u8]) -> Option<(PathBuf, Option<String>)> {
    const DEEPEST: usize = 8;
    let options: serde_json::Value = serde_json::from_slice(words).ok()?;
    let mut format = None;
    for depth in 0..DEEPEST {
        let of_layer = |key: &str| option(&options, &[&*"file.".repeat(depth), key].concat());
        let driver = of_layer("driver");
        if let Some(name) = of_layer("filename") {
            let here = matches!(driver, None | Some("file" | "host_device" | "host_cdrom"));
            return here.then(|| (PathBuf::from(name), format));
        }
        format = format.or_else(|| driver.map(ToOwned::to_owned));
    }
    None
}

/// A text by its dotted key, whose parts may be nested or written in one.
fn option<'a>(options: &'a serde_json::Value, key: &str) -> Option<&'a str> {
    if let Some(found) = options.get(key) {
        return found.as_str();
    }
    let (first, rest) = key.split_once('.')?;
    option(options.get(first)?, rest)
}

#[cfg(test)]
mod tests;
