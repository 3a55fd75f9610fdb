//! LUKS by the real library, in real worker processes, on headers in plain files: needs neither root nor device-mapper.
//! Headers are made by cryptsetup(8), and taken apart by hand where damage is what is tested.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use virt_unlock::cancel::Cancel;
use virt_unlock::config::{DeviceSpec, KeyFile, Volume};
use virt_unlock::host::volumes::Cryptsetup;
use virt_unlock::host::{CloseError, Header, Headers, Key, Keyslot, OpenError, Volumes, worker};
use virt_unlock::secret::Secret;

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-unlock-volumes");
const PASSPHRASE: &str = "correct horse battery staple";
const UUID: &str = "11111111-2222-3333-4444-555555555555";
/// A cheap keyslot.
const CHEAP: &[&str] = &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// A folder with a volume, and the library to try it with.
struct Bench {
    folder: TempDir,
    volume: Volume,
    luks: Cryptsetup,
    cancel: Cancel,
}

impl Bench {
    /// A volume of 32 MiB, formatted with these options.
    fn new(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("volume");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let bench = Self {
            volume: Volume::new("mail", DeviceSpec::Path(image)),
            luks: Cryptsetup::with_program(PROGRAM),
            cancel: Cancel::new().unwrap(),
            folder,
        };
        let key = bench.file("passphrase", PASSPHRASE.as_bytes());
        let key = key.to_str().unwrap();
        let image = bench.image();
        let format = ["luksFormat", "-q", "--uuid", UUID, "--key-file", key, image.to_str().unwrap()];
        cryptsetup(&[&format, options].concat());
        bench
    }

    fn luks1() -> Self {
        Self::new(&["--type", "luks1", "--pbkdf-force-iterations", "1000"])
    }

    fn luks2() -> Self {
        Self::new(&[&["--type", "luks2"], CHEAP].concat())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes over a part of the volume.
    fn damage(&self, offset: u64, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(self.image()).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Starts workers by this line of shell; `$0` is the program, `$@` its arguments.
    fn start_by(&mut self, line: &str) {
        let script = format!("#!/bin/sh\nset -- {PROGRAM} \"$@\"\n{line}\n");
        let path = self.file("worker.sh", script.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        self.luks = Cryptsetup::with_program(path);
    }

    fn probe(&self) -> Result<Header, OpenError> {
        self.luks.probe(&self.volume, &self.image(), &self.cancel)
    }

    fn check(&self, key: &Key) -> Result<(), OpenError> {
        self.luks.check(&self.volume, &self.image(), key, &self.cancel)
    }

    fn type_in(&self, passphrase: &str) -> Result<(), OpenError> {
        self.check(&typed(passphrase))
    }
}

fn typed(passphrase: &str) -> Key {
    Key::Passphrase(Secret::copy_of(passphrase.as_bytes()))
}

fn cryptsetup(arguments: &[&str]) {
    let output = Command::new("/usr/sbin/cryptsetup")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn only_slot(kdf: &str, memory_kib: u64, cost: u64, threads: u32) -> Vec<Keyslot> {
    let (number, kdf) = (0, kdf.to_owned());
    vec![Keyslot {
        number,
        kdf,
        memory_kib,
        cost,
        threads,
    }]
}

#[test]
fn the_header_tells_version_uuid_and_the_cost_of_each_keyslot() {
    let probed = |bench: &Bench| {
        let header = bench.probe().unwrap();
        assert_eq!((header.uuid.as_str(), header.cipher.as_str()), (UUID, "aes"));
        (header.version, header.keyslots)
    };
    assert_eq!(probed(&Bench::luks1()), (1, only_slot("pbkdf2", 0, 1000, 1)));
    assert_eq!(probed(&Bench::luks2()), (2, only_slot("pbkdf2", 0, 1000, 1)));
    let argon = [
        "--pbkdf",
        "argon2id",
        "--pbkdf-memory",
        "2048",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-parallel",
        "1",
    ];
    assert_eq!(probed(&Bench::new(&argon)), (2, only_slot("argon2id", 2048, 4, 1)));

    let two = Bench::luks2();
    let (key, image) = (two.folder.path().join("passphrase"), two.image());
    let more = two.file("more", b"another");
    let add = ["luksAddKey", "-q", "--key-slot", "5", "--key-file", key.to_str().unwrap()];
    let rest = [
        "--pbkdf",
        "argon2i",
        "--pbkdf-memory",
        "4096",
        "--pbkdf-force-iterations",
        "5",
        "--pbkdf-parallel",
        "1",
    ];
    cryptsetup(&[&add[..], &rest, &[image.to_str().unwrap(), more.to_str().unwrap()]].concat());
    let keyslots = two.probe().unwrap().keyslots;
    assert_eq!(keyslots.iter().map(|slot| slot.number).collect::<Vec<_>>(), [0, 5]);
    assert_eq!(
        (keyslots[1].kdf.as_str(), keyslots[1].memory_kib, keyslots[1].cost),
        ("argon2i", 4096, 5)
    );
    assert_eq!(two.type_in("another"), Ok(()));
}

#[test]
fn the_right_passphrase_is_right_and_any_other_wrong() {
    let argon = Bench::new(&[
        "--pbkdf",
        "argon2id",
        "--pbkdf-memory",
        "2048",
        "--pbkdf-force-iterations",
        "4",
    ]);
    for bench in [Bench::luks1(), Bench::luks2(), argon] {
        assert_eq!(bench.type_in(PASSPHRASE), Ok(()));
        for wrong in ["correct horse battery stapl", "correct horse battery staple\n", ""] {
            assert_eq!(bench.type_in(wrong), Err(OpenError::WrongKey), "{wrong:?}");
        }
    }
}

#[test]
fn a_detached_header_is_used() {
    let mut bench = Bench::luks2();
    let header = bench.folder.path().join("header");
    fs::copy(bench.image(), &header).unwrap();
    bench.damage(0, &vec![0; 16 << 20]);
    assert!(matches!(bench.probe(), Err(OpenError::Header(_))));
    bench.volume.header = Some(header.clone());
    assert_eq!(bench.probe().unwrap().uuid, UUID);
    assert_eq!(bench.type_in(PASSPHRASE), Ok(()));
    assert_eq!(bench.type_in("x"), Err(OpenError::WrongKey));
    fs::remove_file(&header).unwrap();
    let words = format!("{}: No such file or directory", header.display());
    assert_eq!(bench.probe(), Err(OpenError::Header(words)));
}

#[test]
fn a_key_file_is_read_at_its_offset_and_size() {
    let bench = Bench::luks2();
    let path = bench.file("keys", format!("some bytes before{PASSPHRASE}\n").as_bytes());
    let key = |offset, size| Key::File {
        file: KeyFile {
            offset,
            size,
            ..KeyFile::new(&path)
        },
        device: None,
    };
    assert_eq!(bench.check(&key(17, Some(PASSPHRASE.len()))), Ok(()));
    // The newline at its end is a part of the key.
    for offset in [17, 0] {
        let said = bench.check(&key(offset, None));
        assert!(
            matches!(&said, Err(OpenError::NoKey(words)) if words.contains("a line end, which is part of the key")),
            "{said:?}"
        );
    }
    assert_eq!(bench.check(&key(0, Some(16))), Err(OpenError::WrongKey));
    assert!(matches!(bench.check(&key(17, Some(100))), Err(OpenError::KeyFile(words)) if words.contains("100 bytes")));
    fs::remove_file(&path).unwrap();
    let gone = OpenError::KeyFile("No such file or directory".to_owned());
    assert_eq!(bench.check(&key(0, None)), Err(gone));
}

#[test]
fn what_is_no_header_is_told_from_a_wrong_passphrase() {
    let header_words = |bench: &Bench| match (bench.probe(), bench.type_in(PASSPHRASE)) {
        (Err(OpenError::Header(probed)), Err(OpenError::Header(opened))) if probed == opened => probed,
        other => panic!("{other:?}"),
    };
    let none = Bench::luks1();
    none.damage(0, &[0; 4096]);
    assert_eq!(
        header_words(&none),
        format!("{} does not begin with one (is it the right device?)", none.image().display())
    );
    // Both copies: at 0, and where the first says that it ends.
    let damaged = Bench::luks2();
    damaged.damage(200, b"damage");
    damaged.damage((16 << 10) + 200, b"damage");
    let words = format!("{} begins with one, but it is damaged", damaged.image().display());
    assert_eq!(header_words(&damaged), words);
}

#[test]
fn one_good_copy_of_the_header_is_enough() {
    let bench = Bench::luks2();
    bench.damage(4096 + 20, b"damage");
    assert_eq!(bench.probe().unwrap().uuid, UUID);
    assert_eq!(bench.type_in(PASSPHRASE), Ok(()));
}

#[test]
fn a_header_without_keyslots_is_no_wrong_passphrase() {
    for bench in [Bench::luks1(), Bench::luks2()] {
        cryptsetup(&["erase", "-q", bench.image().to_str().unwrap()]);
        assert_eq!(bench.probe().unwrap().keyslots, []);
        let refused = bench.type_in(PASSPHRASE);
        assert!(
            matches!(&refused, Err(OpenError::Header(words)) if words.contains("no keyslot in use")),
            "{refused:?}"
        );
    }
}

#[test]
fn a_device_that_is_not_there_is_gone() {
    let bench = Bench::luks2();
    fs::remove_file(bench.image()).unwrap();
    let words = format!("{}: No such file or directory", bench.image().display());
    assert_eq!(bench.probe(), Err(OpenError::DeviceGone(words.clone())));
    assert_eq!(bench.type_in(PASSPHRASE), Err(OpenError::DeviceGone(words)));
}

#[test]
fn too_little_memory_is_no_wrong_passphrase() {
    let mut bench = Bench::new(&[
        "--pbkdf",
        "argon2id",
        "--pbkdf-memory",
        "131072",
        "--pbkdf-force-iterations",
        "4",
    ]);
    assert_eq!(bench.type_in(PASSPHRASE), Ok(()));
    bench.start_by("exec prlimit --as=100000000 \"$@\"");
    let memory = OpenError::Memory("keyslot 0 (argon2id) takes 128 MiB".to_owned());
    assert_eq!(bench.type_in(PASSPHRASE), Err(memory));
}

#[test]
fn opening_without_device_mapper_says_so() {
    if Path::new("/dev/mapper/control").exists() {
        return; // A machine where it would be opened for real; the boots test that.
    }
    let bench = Bench::luks2();
    let opened = bench
        .luks
        .open(&bench.volume, &bench.image(), &typed(PASSPHRASE), &bench.cancel);
    assert!(
        matches!(&opened, Err(OpenError::Other(words)) if words.contains("device-mapper")),
        "{opened:?}"
    );
    let closed = bench.luks.close("mail", &bench.cancel);
    assert!(
        matches!(&closed, Err(CloseError::Other(words)) if words.contains("device-mapper")),
        "{closed:?}"
    );
}

/// A bench whose derivation takes hours, and the number of the worker once it is at it.
struct Long(Bench);

impl Long {
    fn new() -> Self {
        let mut bench = Bench::luks1();
        // Keyslot 0's iterations: in a LUKS1 header a big-endian number at byte 212 (LUKS1 On-Disk Format, table 3).
        bench.damage(212, &u32::MAX.to_be_bytes());
        bench.start_by(&format!(
            "ulimit -c $(ulimit -H -c); echo $$ > {}; exec \"$@\"",
            bench.folder.path().join("pid").display()
        ));
        Self(bench)
    }

    /// Types the passphrase, does `then` with the worker in the middle of its derivation, and gives what came of it.
    fn in_the_middle(&self, then: impl FnOnce(i32)) -> Result<(), OpenError> {
        /// A test that fails in the middle does not wait for hours.
        struct CancelOnPanic<'a>(&'a Cancel);
        impl Drop for CancelOnPanic<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.raise();
                }
            }
        }
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| self.0.type_in(PASSPHRASE));
            let _guard = CancelOnPanic(&self.0.cancel);
            let pid = soon(|| fs::read_to_string(self.0.folder.path().join("pid")).ok()?.trim().parse().ok());
            soon(|| (cpu_ticks(pid)? >= 10).then_some(()));
            then(pid);
            opened.join().unwrap()
        })
    }
}

fn soon<R>(mut look: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come");
        std::thread::yield_now();
    }
}

/// The time that the worker has spent computing (proc(5), field 14); `None` until it is one.
fn cpu_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.rsplit_once(") ")?;
    name.ends_with("unlock-worker")
        .then(|| rest.split(' ').nth(11)?.parse().ok())?
}

fn proc_file(pid: i32, name: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[test]
fn cancelled_in_the_middle_it_ends_at_once_and_the_worker_is_gone() {
    let long = Long::new();
    let (mut worker, mut raised) = (0, Instant::now());
    let opened = long.in_the_middle(|pid| {
        worker = pid;
        raised = Instant::now();
        long.0.cancel.raise();
    });
    assert_eq!(opened, Err(OpenError::Cancelled));
    assert!(raised.elapsed() < Duration::from_secs(5), "{:?}", raised.elapsed());
    assert!(!Path::new(&format!("/proc/{worker}")).exists());
}

#[test]
fn a_worker_that_the_kernel_kills_wanted_memory() {
    let opened = Long::new().in_the_middle(|pid| {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    assert!(
        matches!(&opened, Err(OpenError::Memory(words)) if words.contains("was killed")),
        "{opened:?}"
    );
}

#[test]
fn a_worker_leaves_it_to_its_parent_when_to_end() {
    let long = Long::new();
    let opened = long.in_the_middle(|pid| {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        }
        let before = cpu_ticks(pid).unwrap();
        soon(|| (cpu_ticks(pid)? >= before + 10).then_some(()));
        long.0.cancel.raise();
    });
    assert_eq!(opened, Err(OpenError::Cancelled));
}

#[test]
fn a_worker_shows_nothing_of_its_passphrase_and_offers_itself_to_the_memory_killer() {
    let long = Long::new();
    let _ = long.in_the_middle(|pid| {
        let arguments = proc_file(pid, "cmdline");
        let environment = proc_file(pid, "environ");
        let limits = String::from_utf8(proc_file(pid, "limits")).unwrap();
        let score = proc_file(pid, "oom_score_adj");
        long.0.cancel.raise();
        assert!(contains(&arguments, worker::ARGUMENT), "{arguments:?}");
        for part in [PASSPHRASE, "horse", "battery"] {
            assert!(!contains(&arguments, part) && !contains(&environment, part));
        }
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().nth(4), Some("0"));
        assert_eq!(score, b"800\n");
    });
}

#[test]
fn a_worker_dies_with_who_started_it() {
    let mut command = Command::new(PROGRAM);
    command.arg(worker::ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
    // It waits for its request, which never comes; the thread that started it ends.
    let starter = std::thread::spawn(move || {
        let child = command.spawn().unwrap();
        soon(|| (fs::read(format!("/proc/{}/comm", child.id())).ok()? == b"unlock-worker\n").then_some(()));
        child
    });
    let mut child = starter.join().unwrap();
    let status = soon(|| child.try_wait().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
}

#[test]
fn a_worker_that_a_person_starts_says_what_it_is() {
    let output = Command::new(PROGRAM)
        .arg(worker::ARGUMENT)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(contains(&output.stderr, "only virt-unlock itself"));
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_program_that_is_no_worker_is_told() {
    let mut bench = Bench::luks2();
    bench.start_by("echo this is not it >&2; exit 3");
    let words = match bench.probe() {
        Err(OpenError::Other(words)) => words,
        other => panic!("{other:?}"),
    };
    assert!(
        words.contains("ended without a result (exit status: 3): this is not it"),
        "{words}"
    );
    bench.luks = Cryptsetup::with_program("/nowhere/virt-unlock");
    assert!(matches!(bench.probe(), Err(OpenError::Other(words)) if words.contains("cannot start /nowhere/virt-unlock")));
}
