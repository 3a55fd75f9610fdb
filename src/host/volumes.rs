//! LUKS volumes by libcryptsetup, each job in a worker process ([`super::worker`]) that is bounded and can be cancelled.

use std::fmt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use libcryptsetup_rs::consts::flags::CryptActivate;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use super::child::{Child, Interrupted, Output};
use super::worker::{self, Job, KeyFile, Place, Request, Tokens};
use super::{CloseError, Header, Image, Key, OpenError, Volumes, credentials};
use crate::cancel::Cancel;
use crate::config::{Master, OpenFlags, Volume};
use crate::secret::Secret;
use crate::text;

/// How long reading a header may take: a few blocks of a disk.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// How long opening may take: keyslots of many seconds each, on a slow machine.
pub(super) const OPEN_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long closing may take: what is still to be written was written by the unmount.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);
/// How long a suspend may take: what was written is written out first, and somebody waits who has little time.
const SUSPEND_LIMIT: Duration = Duration::from_secs(10);

/// libcryptsetup in worker processes.
#[derive(Clone, Debug)]
pub struct Cryptsetup {
    program: PathBuf,
}

impl Default for Cryptsetup {
    /// With this program itself as the worker: its `main` gives way to [`worker::main`] when the first argument is
    /// [`worker::ARGUMENT`]. `/proc/self/exe` is the same program even when an update has replaced its file.
    fn default() -> Self {
        Self::with_program("/proc/self/exe")
    }
}

impl Cryptsetup {
    /// With another program as the worker.
    pub fn with_program(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Opens the volume. Without a name it looks whether the key is right, and needs no device-mapper for that.
    pub(super) fn activate(
        &self,
        volume: &Volume,
        device: &Path,
        name: Option<&str>,
        key: &Key,
        cancel: &Cancel,
    ) -> Result<(), OpenError> {
        let Parts {
            key_file,
            passphrase,
            keyslot,
            tokens,
        } = parts(key)?;
        let job = Job::Open {
            place: place(volume, device),
            name: name.map(str::to_owned),
            flags: activation(volume.flags).bits(),
            key_file,
            keyslot,
            tokens,
        };
        self.run::<Result<(), OpenError>>(job, [passphrase, None], OPEN_LIMIT, cancel)?
            .map_err(|error| of_key(key, error))
    }

    /// The result of one job; `T` is the type that [`Job`] says.
    pub(super) fn run<T: DeserializeOwned>(
        &self,
        job: Job,
        secrets: [Option<&Secret>; 2],
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<T, NoResult> {
        let what = What::of(&job);
        let (output, _) = self.work(&what, job, secrets, false, limit, cancel)?;
        serde_json::from_slice(&output.stdout).map_err(|_| ended_early(&what, &output))
    }

    /// The key that comes of one job.
    fn run_for_key(&self, job: Job, passphrase: Option<&Secret>, limit: Duration, cancel: &Cancel) -> Result<Secret, OpenError> {
        let what = What::of(&job);
        let (output, said) = self.work(&what, job, [passphrase, None], true, limit, cancel)?;
        said.and_then(|said| worker::decode_key(&said).ok())
            .ok_or_else(|| OpenError::from(ended_early(&what, &output)))?
    }

    /// Starts a worker and waits for its end. `secretly`: what it gives goes into locked memory, and nowhere else.
    fn work(
        &self,
        what: &What,
        job: Job,
        secrets: [Option<&Secret>; 2],
        secretly: bool,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<(Output, Option<Secret>), NoResult> {
        let request = Request {
            parent: std::process::id(),
            job,
            secrets: secrets.map(|secret| secret.map(|secret| secret.expose().len())),
        };
        let request = request
            .encode()
            .map_err(|error| NoResult::Other(format!("{what}: {error}")))?;
        let mut command = Command::new(&self.program);
        command.arg0("virt-unlock").arg(worker::ARGUMENT);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Child::spawn(&mut command)
            .map_err(|error| NoResult::Other(format!("cannot start {} for {what}: {error}", self.program.display())))?;
        let given = if secretly { child.take_stdout() } else { None };
        let [first, second] = secrets.map(|secret| secret.map(Secret::expose).unwrap_or_default());
        let output = match child.wait(&[&request, first, second], Some(limit), cancel) {
            Ok(output) => output,
            Err(Interrupted::Cancelled) => return Err(NoResult::Cancelled),
            Err(Interrupted::TimedOut) => return Err(NoResult::Other(what.hung(limit))),
            Err(Interrupted::Failed(error)) => return Err(NoResult::Other(format!("{what}: {error}"))),
        };
        let given = given.and_then(|mut given| Secret::read_from(&mut given, worker::MAX_ANSWER).ok());
        Ok((output, given))
    }
}

impl Volumes for Cryptsetup {
    fn probe(&self, volume: &Volume, device: &Path, cancel: &Cancel) -> Result<Header, OpenError> {
        self.run(Job::Probe(place(volume, device)), [None, None], PROBE_LIMIT, cancel)?
    }

    fn open(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError> {
        self.activate(volume, device, Some(&volume.name), key, cancel)?;
        let node = volume.node();
        if !node.exists() {
            let node = node.display();
            return Err(OpenError::Other(format!(
                "the volume is open, but {node} is not there: `systemctl status systemd-udevd` tells whether udev works, \
                 `dmsetup mknodes` makes it"
            )));
        }
        Ok(())
    }

    fn probe_master(&self, master: &Master, cancel: &Cancel) -> Result<Header, OpenError> {
        let header = master.header.clone();
        self.run(Job::ProbeMaster { header }, [None, None], PROBE_LIMIT, cancel)?
    }

    fn open_master(&self, master: &Master, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError> {
        let Parts {
            key_file,
            passphrase,
            keyslot: _,
            tokens,
        } = parts(key)?;
        let job = Job::OpenMaster {
            header: master.header.clone(),
            key_file,
            tokens,
        };
        self.run_for_key(job, passphrase, OPEN_LIMIT, cancel)
            .map_err(|error| of_key(key, error))
    }

    fn probe_image(&self, image: &Image, cancel: &Cancel) -> Result<Header, OpenError> {
        self.run(Job::Probe(place_in(image)), [None, None], PROBE_LIMIT, cancel)?
    }

    fn check_image(&self, image: &Image, passphrase: &Secret, cancel: &Cancel) -> Result<(), OpenError> {
        let job = Job::Open {
            place: place_in(image),
            name: None,
            flags: 0,
            key_file: None,
            keyslot: None,
            tokens: None,
        };
        self.run(job, [Some(passphrase), None], OPEN_LIMIT, cancel)?
    }

    fn read_key(&self, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError> {
        let Parts {
            key_file, passphrase, ..
        } = parts_of_bytes(key)?;
        match (key_file, passphrase) {
            (Some(key_file), _) => self
                .run_for_key(Job::ReadKey(key_file), None, PROBE_LIMIT, cancel)
                .map_err(|error| of_key(key, error)),
            (None, passphrase) => passphrase
                .cloned()
                .ok_or_else(|| OpenError::Other("no key was given".to_owned())),
        }
    }

    fn close(&self, name: &str, cancel: &Cancel) -> Result<(), CloseError> {
        self.run(Job::Close { name: name.to_owned() }, [None, None], CLOSE_LIMIT, cancel)?
    }

    fn suspend(&self, volume: &Volume, cancel: &Cancel) -> Result<(), CloseError> {
        let job = Job::Suspend {
            name: volume.name.clone(),
            header: volume.header.clone(),
        };
        self.run(job, [None, None], SUSPEND_LIMIT, cancel)?
    }
}

/// A key as the worker gets it.
pub(super) struct Parts<'a> {
    pub key_file: Option<KeyFile>,
    pub passphrase: Option<&'a Secret>,
    pub keyslot: Option<u32>,
    pub tokens: Option<Tokens>,
}

pub(super) fn parts(key: &Key) -> Result<Parts<'_>, OpenError> {
    let mut parts = Parts {
        key_file: None,
        passphrase: None,
        keyslot: None,
        tokens: None,
    };
    match key {
        Key::Passphrase(passphrase) => parts.passphrase = Some(passphrase),
        Key::File { file, device } => {
            parts.key_file = Some(KeyFile {
                path: file.path.clone(),
                offset: file.offset,
                size: file.size,
                device: device.clone(),
            });
        }
        Key::Credential { name } => parts.key_file = Some(credentials::find(name).map_err(OpenError::NoKey)?),
        Key::Derived { key, keyslot } => (parts.passphrase, parts.keyslot) = (Some(key), Some(*keyslot)),
        Key::Token { token, pin } => (parts.passphrase, parts.tokens) = (pin.as_ref(), Some(Tokens { only: *token })),
    }
    Ok(parts)
}

/// Those of a key whose bytes are needed.
pub(super) fn parts_of_bytes(key: &Key) -> Result<Parts<'_>, OpenError> {
    match key {
        Key::Token { .. } => Err(OpenError::NoKey("a token does not give its key away for this".to_owned())),
        key => parts(key),
    }
}

/// Nobody has put a credential's file where it is read.
fn of_key(key: &Key, error: OpenError) -> OpenError {
    match (key, error) {
        (Key::Credential { .. }, OpenError::KeyFile(words)) => OpenError::NoKey(words),
        (_, error) => error,
    }
}

pub(super) fn place(volume: &Volume, device: &Path) -> Place {
    Place {
        device: device.to_owned(),
        header: volume.header.clone(),
        qcow2: false,
    }
}

fn place_in(image: &Image) -> Place {
    Place {
        device: image.path.clone(),
        header: None,
        qcow2: image.qcow2,
    }
}

/// libcryptsetup's flags. Those that a LUKS2 header carries itself (`cryptsetup open --persistent`) come on top of them: neither
/// `IGNORE_PERSISTENT` nor `SHARED` is ever set, and the volume key goes by the kernel's keyring where the library wants that.
fn activation(flags: OpenFlags) -> CryptActivate {
    let table = [
        (flags.read_only, CryptActivate::READONLY),
        (flags.discard, CryptActivate::ALLOW_DISCARDS),
        (flags.same_cpu_crypt, CryptActivate::SAME_CPU_CRYPT),
        (flags.submit_from_crypt_cpus, CryptActivate::SUBMIT_FROM_CRYPT_CPUS),
        (flags.no_read_workqueue, CryptActivate::NO_READ_WORKQUEUE),
        (flags.no_write_workqueue, CryptActivate::NO_WRITE_WORKQUEUE),
        (flags.private, CryptActivate::PRIVATE),
    ];
    let set = table.into_iter().filter(|(is_set, _)| *is_set);
    set.fold(CryptActivate::empty(), |all, (_, flag)| all | flag)
}

/// A job in words, for what goes wrong around it.
enum What {
    Probe(PathBuf),
    Key(PathBuf),
    Open(PathBuf),
    OpenMaster(PathBuf),
    Change(PathBuf),
    Close(String),
    Suspend(String),
}

impl What {
    fn of(job: &Job) -> Self {
        match job {
            Job::Probe(place) => Self::Probe(place.header.as_ref().unwrap_or(&place.device).clone()),
            Job::Open { place, .. } => Self::Open(place.device.clone()),
            Job::ReadKey(key_file) => Self::Key(key_file.path.clone()),
            Job::ProbeMaster { header } => Self::Probe(header.clone()),
            Job::OpenMaster { header, .. } => Self::OpenMaster(header.clone()),
            Job::CreateMaster { header, .. } => Self::Change(header.clone()),
            Job::Change { place, .. } => Self::Change(place.header.as_ref().unwrap_or(&place.device).clone()),
            Job::Close { name } => Self::Close(name.clone()),
            Job::Suspend { name, .. } => Self::Suspend(name.clone()),
        }
    }

    /// It took longer than it may: what hangs, and how to see it.
    fn hung(&self, limit: Duration) -> String {
        let limit = text::duration(limit);
        match self {
            Self::Probe(_) | Self::Key(_) | Self::OpenMaster(_) | Self::Change(_) => {
                format!("{self} took longer than {limit}: its disk does not answer; `dmesg` may tell why")
            }
            Self::Open(_) | Self::Close(_) | Self::Suspend(_) => format!(
                "{self} took longer than {limit}: udev or the disk does not answer; `systemctl status systemd-udevd`, \
                 `dmsetup udevcookies` and `dmesg` may tell why"
            ),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(path) => write!(f, "reading the LUKS header on {}", path.display()),
            Self::Key(path) => write!(f, "reading the key in {}", path.display()),
            Self::Open(path) => write!(f, "opening {}", path.display()),
            Self::OpenMaster(path) => write!(f, "opening the master {}", path.display()),
            Self::Change(path) => write!(f, "changing the LUKS header on {}", path.display()),
            Self::Close(name) => write!(f, "closing /dev/mapper/{name}"),
            Self::Suspend(name) => write!(f, "suspending /dev/mapper/{name}"),
        }
    }
}

/// Why a worker gave no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoResult {
    Cancelled,
    /// Killed for its memory.
    Memory(String),
    Other(String),
}

impl From<NoResult> for OpenError {
    fn from(no: NoResult) -> Self {
        match no {
            NoResult::Cancelled => Self::Cancelled,
            NoResult::Memory(words) => Self::Memory(words),
            NoResult::Other(words) => Self::Other(words),
        }
    }
}

impl From<NoResult> for CloseError {
    fn from(no: NoResult) -> Self {
        match no {
            NoResult::Cancelled => Self::Cancelled,
            NoResult::Memory(words) | NoResult::Other(words) => Self::Other(words),
        }
    }
}

/// The worker ended by itself without a result. Nobody but the kernel, or a person, sends it SIGKILL: ours are sent only when it is
/// not waited for any more.
fn ended_early(what: &What, output: &Output) -> NoResult {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    if output.status.signal() == Some(Signal::SIGKILL as i32) {
        return NoResult::Memory(format!(
            "{what} was killed, most likely by the kernel for want of memory; `journalctl -k -g \"[Oo]ut of memory\"` tells"
        ));
    }
    // How Rust's allocator ends a process (std::alloc::handle_alloc_error).
    if output.status.signal() == Some(Signal::SIGABRT as i32) && said.contains("memory allocation of") {
        return NoResult::Memory(format!("{what}: {said}"));
    }
    let said = if said.is_empty() { "it said nothing" } else { said };
    NoResult::Other(format!("{what} ended without a result ({}): {said}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSpec;
    use std::process::ExitStatus;

    #[test]
    fn each_flag_of_the_configuration_is_one_of_libcryptsetup() {
        assert_eq!(activation(OpenFlags::default()).bits(), 0);
        let default = Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()));
        assert_eq!(activation(default.flags).bits(), 1 << 4);
        let all = OpenFlags {
            read_only: true,
            discard: true,
            same_cpu_crypt: true,
            submit_from_crypt_cpus: true,
            no_read_workqueue: true,
            no_write_workqueue: true,
            private: true,
        };
        // By libcryptsetup.h, bit by bit: READONLY, ALLOW_DISCARDS, PRIVATE, SAME_CPU_CRYPT, SUBMIT_FROM_CRYPT_CPUS,
        // NO_READ_WORKQUEUE, NO_WRITE_WORKQUEUE.
        let bits = [0, 3, 4, 6, 7, 24, 25].iter().fold(0, |bits, bit| bits | 1 << bit);
        assert_eq!(activation(all).bits(), bits);
    }

    fn ended(status: i32, stderr: &str) -> NoResult {
        let output = Output {
            status: ExitStatus::from_raw(status),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        };
        ended_early(&What::Open("/dev/vg0/mail".into()), &output)
    }

    #[test]
    fn a_worker_that_dies_says_of_what() {
        assert!(matches!(ended(9, ""), NoResult::Memory(words) if words.contains("opening /dev/vg0/mail was killed")));
        assert!(matches!(ended(6, "memory allocation of 5 bytes failed"), NoResult::Memory(_)));
        let other = "opening /dev/vg0/mail ended without a result (signal: 11 (SIGSEGV)): it said nothing";
        assert_eq!(ended(11, ""), NoResult::Other(other.to_owned()));
        assert!(matches!(ended(101 << 8, "panicked at x"), NoResult::Other(words) if words.ends_with("panicked at x")));
    }
}
