//! The short-lived process in which libcryptsetup does one thing: read a header, open a volume, close one. It is our own program,
//! started again by [`super::volumes::Cryptsetup`] with [`ARGUMENT`]: it can be killed where a thread could not, a hang is its own,
//! and its memory is gone when it ends.
//!
//! On standard input comes the length of the [`Request`] (four bytes, little endian), the request as JSON, and then the secrets,
//! as their bare bytes to the end: never in an argument, the environment, a file, or memory that is not locked. On standard output goes
//! the result as JSON. Where that is a key, its JSON has its length before it, as the request has, and the bare bytes after it.

mod by_token;
mod header;
mod image;
mod key_file;
mod log;
mod luks;
mod master;
mod stick;
mod token;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;
use serde::{Deserialize, Serialize};

use super::OpenError;
use crate::secret::{MAX_KEY, Secret, protect_process};

/// The hidden first argument by which the program knows that it is a worker.
pub const ARGUMENT: &str = "worker";
/// The longest request in bytes: a few paths.
const MAX_REQUEST: u32 = 64 << 10;
/// The longest answer with a key in it in bytes: a few words. It has to fit into a pipe.
pub(super) const MAX_ANSWER: usize = 16 << 10;
/// Where the out-of-memory killer looks first (`oom_score_adj` of proc(5), up to 1000): a derivation can be done again, a guest
/// cannot.
const OOM_SCORE: &str = "800";

/// What a worker is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The process that waits for it.
    pub parent: u32,
    /// What.
    pub job: Job,
    /// How many bytes follow: of the passphrase, and of the key that is to be added.
    pub secrets: [Option<usize>; 2],
}

/// The jobs, each with the type that its result has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// `Result<Header, OpenError>`
    Probe(Place),
    /// `Result<(), OpenError>`
    Open {
        /// The volume.
        place: Place,
        /// Its name below `/dev/mapper`; `None`: look whether the key is right, and open nothing.
        name: Option<String>,
        /// libcryptsetup's `CRYPT_ACTIVATE_` flags.
        flags: u32,
        /// The key; `None`: the passphrase that follows.
        key_file: Option<KeyFile>,
        /// The keyslot that is tried; `None`: all.
        keyslot: Option<u32>,
        /// The key comes from a token, and what follows is a PIN, if anything does.
        tokens: Option<Tokens>,
    },
    /// `Result<Header, OpenError>`
    ProbeMaster {
        /// The header's file.
        header: PathBuf,
    },
    /// `Result<(), OpenError>`; then comes the volume key.
    OpenMaster {
        /// The header's file.
        header: PathBuf,
        /// The key; `None`: the passphrase that follows.
        key_file: Option<KeyFile>,
        /// As for `Open`.
        tokens: Option<Tokens>,
    },
    /// `Result<(), OpenError>`; then come the bytes of the key.
    ReadKey(KeyFile),
    /// `Result<String, OpenError>`: the UUID
    CreateMaster {
        /// The file, which is there and empty.
        header: PathBuf,
        /// The key; `None`: the passphrase that follows.
        key_file: Option<KeyFile>,
    },
    /// `Result<u32, OpenError>`: the number of the keyslot or the token
    Change {
        /// The volume.
        place: Place,
        /// What of its header.
        change: Change,
    },
    /// `Result<(), CloseError>`
    Close {
        /// The name below `/dev/mapper`.
        name: String,
    },
    /// `Result<(), CloseError>`
    Suspend {
        /// The name below `/dev/mapper`.
        name: String,
        /// A detached header.
        header: Option<PathBuf>,
    },
}

/// A change of a volume's header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Change {
    /// Adds a keyslot for the second secret.
    AddKeyslot {
        /// The key that opens the volume already; `None`: the first secret.
        key_file: Option<KeyFile>,
    },
    /// Marks a keyslot.
    AddToken {
        /// The UUID of the master.
        master: String,
        /// The keyslot.
        keyslot: u32,
    },
    /// Wipes this keyslot.
    RemoveKeyslot(u32),
    /// Removes this token, if it is a master's.
    RemoveToken(u32),
}

/// Where a volume is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// The encrypted device.
    pub device: PathBuf,
    /// A detached header.
    pub header: Option<PathBuf>,
    /// Whether the device is a qcow2 image, with the LUKS header inside: nothing but its header can be read.
    pub qcow2: bool,
}

/// A key in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// Where the key starts, in bytes.
    pub offset: u64,
    /// Its length in bytes; `None`: to the end.
    pub size: Option<usize>,
    /// The device with the filesystem that it lies on, where that is mounted for it.
    pub device: Option<PathBuf>,
}

/// The tokens that are tried.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Tokens {
    /// This one alone; `None`: all.
    pub only: Option<u32>,
}

impl Request {
    /// What goes before the secrets.
    ///
    /// # Errors
    /// When a path is not UTF-8.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        Ok([&length.to_le_bytes()[..], &json].concat())
    }

    fn decode(from: &mut impl Read) -> io::Result<(Self, [Option<Secret>; 2])> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut json = Vec::new();
        from.by_ref().take(length.into()).read_to_end(&mut json)?;
        let request: Self = serde_json::from_slice(&json)?;
        let mut secret = |size: Option<usize>| -> io::Result<Option<Secret>> {
            let Some(size) = size else { return Ok(None) };
            if size > MAX_KEY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (secret, read) = Secret::filled(size, |room| from.read_exact(room));
            read.map(|()| Some(secret))
        };
        let [first, second] = request.secrets;
        let secrets = [secret(first)?, secret(second)?];
        if from.read(&mut [0])? != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((request, secrets))
    }
}

/// What a worker gave whose result is a key.
pub(super) fn decode_key(answer: &Secret) -> io::Result<Result<Secret, OpenError>> {
    let mut rest = answer.expose();
    let mut length = [0; 4];
    rest.read_exact(&mut length)?;
    let (json, key) = usize::try_from(u32::from_le_bytes(length))
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let result: Result<(), OpenError> = serde_json::from_slice(json)?;
    Ok(result.map(|()| Secret::copy_of(key)))
}

/// As [`decode_key`] reads it. Not by `io::stdout()`: its buffer is not locked.
fn give_key(result: &Result<Secret, OpenError>) -> io::Result<()> {
    let (words, key) = match result {
        Ok(key) => (Ok(()), key.expose()),
        Err(error) => (Err(error), &[][..]),
    };
    let json = serde_json::to_vec(&words)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    for part in [&length.to_le_bytes()[..], &json, key] {
        output.write_all(part)?;
    }
    Ok(())
}

/// What the program does when its first argument is [`ARGUMENT`]. It succeeds when a result was given, good or bad.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("this is a part of virt-unlock that only virt-unlock itself can use ({error})");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // Before `protect_process`, which gives our files in /proc to root.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    protect_process();
    // What asks the program to end asks the parent; it decides what becomes of us.
    let mut asks_to_end = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        asks_to_end.add(signal);
    }
    asks_to_end.thread_block()?;
    // When the parent dies nobody knows any more what we do. The signal comes also when only the thread ends that started us; it
    // waits for us.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_name(c"unlock-worker")?;
    // Not `io::stdin()`: its buffer is not locked, and would hold the passphrase.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (request, [passphrase, new_key]) = Request::decode(&mut input)?;
    if u32::try_from(getppid().as_raw()) != Ok(request.parent) {
        return Err(io::Error::other("the process that started it has ended"));
    }
    log::collect();
    let result = match &request.job {
        Job::Probe(place) => serde_json::to_vec(&luks::probe(place)),
        Job::Open {
            place,
            name,
            flags,
            key_file,
            keyslot,
            tokens,
        } => {
            let name = name.as_deref();
            serde_json::to_vec(&match tokens {
                Some(tokens) => by_token::open(place, name, *flags, *tokens, passphrase.as_ref()),
                None => luks::open(place, name, *flags, key_file.as_ref(), *keyslot, passphrase),
            })
        }
        Job::ProbeMaster { header } => serde_json::to_vec(&master::probe(header)),
        Job::OpenMaster {
            header,
            key_file,
            tokens,
        } => {
            return give_key(&match tokens {
                Some(tokens) => by_token::volume_key(header, *tokens, passphrase.as_ref()),
                None => master::open(header, key_file.as_ref(), passphrase),
            });
        }
        Job::ReadKey(key_file) => return give_key(&image::read_key(key_file)),
        Job::CreateMaster { header, key_file } => serde_json::to_vec(&master::create(header, key_file.as_ref(), passphrase)),
        Job::Change { place, change } => serde_json::to_vec(&header::change(place, change, passphrase, new_key)),
        Job::Close { name } => serde_json::to_vec(&luks::close(name)),
        Job::Suspend { name, header } => serde_json::to_vec(&luks::suspend(name, header.as_deref())),
    };
    let mut output = io::stdout().lock();
    output.write_all(&result?)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(passphrase: Option<usize>, new_key: Option<usize>) -> Vec<u8> {
        let job = Job::Close { name: "mail".to_owned() };
        let request = Request {
            parent: 7,
            job,
            secrets: [passphrase, new_key],
        };
        request.encode().unwrap()
    }

    #[test]
    fn a_passphrase_comes_through_byte_by_byte() {
        let passphrase = b"\0line\n\xff\r\n";
        let bytes = [encoded(Some(passphrase.len()), Some(3)), passphrase.to_vec(), b"key".to_vec()].concat();
        let (request, [first, second]) = Request::decode(&mut &bytes[..]).unwrap();
        assert_eq!(request.parent, 7);
        assert_eq!(first.unwrap().expose(), passphrase);
        assert_eq!(second.unwrap().expose(), b"key");
    }

    #[test]
    fn a_passphrase_that_was_cut_off_is_not_tried() {
        let bytes = [encoded(Some(9), None), b"correct".to_vec()].concat();
        assert!(Request::decode(&mut &bytes[..]).is_err());
        assert!(Request::decode(&mut &encoded(Some(1), None)[..]).is_err());
        let none = Request::decode(&mut &encoded(None, None)[..]).unwrap().1;
        assert!(none.iter().all(Option::is_none));
        let more = [encoded(Some(7), None), b"correct!".to_vec()].concat();
        assert!(Request::decode(&mut &more[..]).is_err());
    }

    #[test]
    fn rubbish_is_refused() {
        for bytes in [&b""[..], b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x09\0\0\0{"] {
            assert!(Request::decode(&mut &bytes[..]).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_to_a_worker_is_taken_or_refused(
            which in 0..3_usize, at in 0..200_usize, put in proptest::collection::vec(proptest::num::u8::ANY, 0..6), cut in 0..9_usize,
        ) {
            let name = ["close", "short", "key"][which];
            let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/worker");
            let mut bytes = fs::read(format!("{corpus}/{name}")).unwrap();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), put);
            let _ = Request::decode(&mut &bytes[..]);
            let _ = decode_key(&Secret::copy_of(&bytes));
        }
    }
}
