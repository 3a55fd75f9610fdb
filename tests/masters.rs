//! Masters by the real library, in real worker processes, on headers in plain files: needs neither root nor device-mapper.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use virt_unlock::cancel::Cancel;
use virt_unlock::config::{DeviceSpec, KeyFile, Master, Unlock, Volume};
use virt_unlock::host::volumes::Cryptsetup;
use virt_unlock::host::{CloseError, Header, Headers, Image, Key, Keyslot, MasterToken, OpenError, Volumes};
use virt_unlock::secret::Secret;
use virt_unlock::unlock::derived::derive;
use virt_unlock::unlock::enrolment::{Enrolled, Enrolment, Revoked};

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-unlock");
const PASSPHRASE: &str = "correct horse battery staple";
const OWN: &str = "the volume's own";
const MASTER: &str = "aaaaaaaa-2222-3333-4444-555555555555";
const VOLUME: &str = "bbbbbbbb-2222-3333-4444-555555555555";
/// A cheap keyslot.
const CHEAP: &[&str] = &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// A folder with a master and a volume, and the library to try them with.
struct Bench {
    folder: TempDir,
    master: Master,
    volume: Volume,
    luks: Cryptsetup,
    cancel: Cancel,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let bench = Self {
            master: Master {
                name: "office".to_owned(),
                header: at("master"),
                unlock: vec![Unlock::Passphrase],
                tries: 3,
            },
            volume: Volume::new("mail", DeviceSpec::Path(at("volume"))),
            luks: Cryptsetup::with_program(PROGRAM),
            cancel: Cancel::new().unwrap(),
            folder,
        };
        for (name, uuid, passphrase) in [("master", MASTER, PASSPHRASE), ("volume", VOLUME, OWN)] {
            let path = bench.at(name);
            fs::File::create(&path).unwrap().set_len(32 << 20).unwrap();
            let path = path.to_str().unwrap();
            let format = ["luksFormat", "-q", "--type", "luks2", "--uuid", uuid, "--key-file=-", path];
            cryptsetup(&[&format, CHEAP].concat(), passphrase.as_bytes());
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open_master(&self, passphrase: &str) -> Result<Secret, OpenError> {
        self.luks.open_master(&self.master, &typed(passphrase), &self.cancel)
    }

    fn check(&self, key: &Key) -> Result<(), OpenError> {
        self.luks.check(&self.volume, &self.at("volume"), key, &self.cancel)
    }
}

fn typed(passphrase: &str) -> Key {
    Key::Passphrase(Secret::copy_of(passphrase.as_bytes()))
}

fn cryptsetup(arguments: &[&str], input: &[u8]) {
    let mut child = Command::new("/usr/sbin/cryptsetup")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_master_gives_its_volume_key_to_the_right_passphrase_alone() {
    let bench = Bench::new();
    let header = bench.luks.probe_master(&bench.master, &bench.cancel).unwrap();
    assert_eq!((header.version, header.uuid.as_str()), (2, MASTER));
    let key = bench.open_master(PASSPHRASE).unwrap();
    let dumped = bench.at("dumped");
    let dump = [
        "luksDump",
        "-q",
        "--dump-volume-key",
        "--key-file=-",
        "--volume-key-file",
        path(&dumped),
    ];
    cryptsetup(&[&dump[..], &[path(&bench.master.header)]].concat(), PASSPHRASE.as_bytes());
    assert_eq!(key.expose(), fs::read(&dumped).unwrap());
    assert_eq!(key.expose().len(), 64);
    assert_eq!(bench.open_master("x").unwrap_err(), OpenError::WrongKey);
    let file = |path: PathBuf| Key::File {
        file: KeyFile::new(path),
        device: None,
    };
    let (right, none) = (bench.at("key"), bench.at("none"));
    fs::write(&right, PASSPHRASE).unwrap();
    let opened = bench.luks.open_master(&bench.master, &file(right), &bench.cancel);
    assert_eq!(opened.unwrap().expose(), key.expose());
    let opened = bench.luks.open_master(&bench.master, &file(none), &bench.cancel);
    assert!(matches!(opened, Err(OpenError::KeyFile(_))), "{opened:?}");
}

#[test]
fn a_master_that_is_none_is_told_apart() {
    let bench = Bench::new();
    let refused = |bench: &Bench| {
        let probed = bench.luks.probe_master(&bench.master, &bench.cancel).unwrap_err();
        assert!(matches!(probed, OpenError::Header(_)), "{probed:?}");
        probed.to_string()
    };
    fs::write(&bench.master.header, "no header").unwrap();
    assert!(refused(&bench).contains("is too short to have one"));
    fs::remove_file(&bench.master.header).unwrap();
    assert!(refused(&bench).ends_with("No such file or directory"));
    assert!(matches!(bench.open_master(PASSPHRASE), Err(OpenError::Header(_))));
    fs::File::create(&bench.master.header).unwrap().set_len(32 << 20).unwrap();
    let format = ["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000"];
    let at = ["--key-file=-", path(&bench.master.header)];
    cryptsetup(&[&format[..], &at].concat(), PASSPHRASE.as_bytes());
    assert!(refused(&bench).ends_with("is LUKS1, and a master is LUKS2"));
}

#[test]
fn a_derived_key_opens_its_keyslot_and_no_other_is_tried() {
    let bench = Bench::new();
    let master = bench.open_master(PASSPHRASE).unwrap();
    let key = derive(&master, VOLUME);
    let (old, new) = (bench.at("old"), bench.at("new"));
    fs::write(&old, OWN).unwrap();
    fs::write(&new, key.expose()).unwrap();
    let add = ["luksAddKey", "-q", "--key-slot", "3", "--key-file", path(&old)];
    cryptsetup(&[&add[..], CHEAP, &[path(&bench.at("volume")), path(&new)]].concat(), b"");
    let derived = |keyslot| Key::Derived {
        key: key.clone(),
        keyslot,
    };
    assert_eq!(bench.check(&derived(3)), Ok(()));
    assert_eq!(bench.check(&derived(0)), Err(OpenError::WrongKey));
    // One that is not in use is no reason to believe that the device is gone.
    assert_eq!(bench.check(&derived(5)), Err(OpenError::WrongKey));
}

#[test]
fn tokens_are_read_and_strange_ones_do_no_harm() {
    let bench = Bench::new();
    let import = |json: String| {
        cryptsetup(
            &["token", "import", "--json-file=-", path(&bench.at("volume"))],
            json.as_bytes(),
        );
    };
    let token = |rest: &str| import(format!("{{\"type\":\"virt-unlock-master\",{rest}}}"));
    import("{\"type\":\"luks2-keyring\",\"keyslots\":[],\"key_description\":\"other\"}".to_owned());
    token(&format!(
        "\"keyslots\":[\"0\"],\"version\":1,\"master\":\"{}\"",
        MASTER.to_uppercase()
    ));
    token("\"keyslots\":[],\"version\":2,\"master\":[]");
    token("\"keyslots\":[]");
    let header = bench.luks.probe(&bench.volume, &bench.at("volume"), &bench.cancel).unwrap();
    let expected = MasterToken {
        number: 1,
        version: 1,
        master: MASTER.to_owned(),
        keyslot: Some(0),
    };
    assert_eq!(header.tokens, [expected]);
    assert_eq!(header.strange_tokens.len(), 2, "{:?}", header.strange_tokens);
    assert!(header.strange_tokens[0].contains("token 2 is of version 2"), "{header:?}");
    assert!(header.strange_tokens[1].contains("token 3 is damaged"), "{header:?}");
    assert_eq!(bench.check(&typed(OWN)), Ok(()));
}

#[test]
fn a_master_is_made_whole_and_for_its_owner_alone() {
    let mut bench = Bench::new();
    bench.master.header = bench.at("etc/masters/office.luks");
    let folder = bench.at("etc/masters");
    let make = |bench: &Bench| {
        bench
            .luks
            .create_master(&bench.master.header, &typed(PASSPHRASE), &bench.cancel)
    };
    fs::create_dir_all(&folder).unwrap();
    // Of one that was killed in the middle.
    fs::write(folder.join(".office.luks.part"), "half").unwrap();
    let uuid = make(&bench).unwrap();
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert_eq!(names, ["office.luks"]);
    let found = fs::metadata(&bench.master.header).unwrap();
    assert_eq!((found.mode() & 0o7777, found.len()), (0o600, 16 << 20));
    let header = bench.luks.probe_master(&bench.master, &bench.cancel).unwrap();
    assert_eq!((header.version, header.uuid, header.keyslots.len()), (2, uuid, 1));
    // What libcryptsetup itself takes for a person's passphrase.
    assert_eq!(header.keyslots[0].kdf, "argon2id");
    // cryptsetup(8) knows it for what it is.
    let (old, new) = (bench.at("old"), bench.at("new-key"));
    fs::write(&old, PASSPHRASE).unwrap();
    fs::write(&new, "another person's").unwrap();
    let add = ["luksAddKey", "-q", "--key-file", path(&old)];
    cryptsetup(&[&add[..], CHEAP, &[path(&bench.master.header), path(&new)]].concat(), b"");
    let key = bench.open_master("another person's").unwrap();
    assert_eq!(key.expose().len(), 64);

    let before = fs::read(&bench.master.header).unwrap();
    let refused = make(&bench).unwrap_err().to_string();
    assert!(refused.ends_with("is there already, and is left as it is"), "{refused}");
    assert!(before == fs::read(&bench.master.header).unwrap());
}

#[test]
fn a_master_that_cannot_be_made_leaves_nothing() {
    let mut bench = Bench::new();
    let folder = bench.at("etc/masters");
    bench.master.header = folder.join("office.luks");
    let no_key = Key::File {
        file: KeyFile::new(bench.at("none")),
        device: None,
    };
    let refused = bench.luks.create_master(&bench.master.header, &no_key, &bench.cancel);
    assert!(matches!(refused, Err(OpenError::KeyFile(_))), "{refused:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let mode = |name: &str| fs::metadata(bench.at(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("etc"), mode("etc/masters")), (0o700, 0o700));
}

#[test]
fn a_keyslot_and_its_token_come_and_go() {
    let bench = Bench::new();
    let (volume, device, cancel) = (&bench.volume, bench.at("volume"), &bench.cancel);
    let probe = || bench.luks.probe(volume, &device, cancel).unwrap();
    let key = derive(&bench.open_master(PASSPHRASE).unwrap(), VOLUME);
    let refused = bench.luks.add_keyslot(volume, &device, &typed("x"), &key, cancel);
    assert_eq!(refused, Err(OpenError::WrongKey));
    assert_eq!(probe().keyslots.len(), 1);

    let keyslot = bench.luks.add_keyslot(volume, &device, &typed(OWN), &key, cancel).unwrap();
    let cheapest = Keyslot {
        number: keyslot,
        kdf: "pbkdf2".to_owned(),
        memory_kib: 0,
        cost: 1000,
        threads: 1,
    };
    assert_eq!(probe().keyslots[1], cheapest);
    bench.luks.add_token(volume, &device, MASTER, keyslot, cancel).unwrap();
    let token = MasterToken {
        number: 0,
        version: 1,
        master: MASTER.to_owned(),
        keyslot: Some(keyslot),
    };
    assert_eq!(probe().tokens, std::slice::from_ref(&token));
    let derived = Key::Derived { key, keyslot };
    assert_eq!(bench.check(&derived), Ok(()));
    assert_eq!(bench.check(&typed(OWN)), Ok(()));

    // A token of somebody else stays, whatever number is given.
    let other = "{\"type\":\"luks2-keyring\",\"keyslots\":[\"0\"],\"key_description\":\"other\"}";
    cryptsetup(&["token", "import", "--json-file=-", path(&device)], other.as_bytes());
    assert!(matches!(
        bench.luks.remove_token(volume, &device, 1, cancel),
        Err(OpenError::Header(_))
    ));
    bench.luks.remove_keyslot(volume, &device, keyslot, cancel).unwrap();
    assert_eq!(probe().tokens, [MasterToken { keyslot: None, ..token }]);
    assert_eq!(bench.check(&derived), Err(OpenError::WrongKey));
    bench.luks.remove_token(volume, &device, 0, cancel).unwrap();
    assert_eq!((probe().tokens, probe().keyslots.len()), (vec![], 1));
    assert_eq!(bench.check(&typed(OWN)), Ok(()));
}

#[test]
fn a_header_without_room_is_said_and_left() {
    let bench = Bench::new();
    let (volume, device, cancel) = (&bench.volume, bench.at("volume"), &bench.cancel);
    let key = Secret::copy_of(&[7; 64]);
    let added = (0..40)
        .map(|_| bench.luks.add_keyslot(volume, &device, &typed(OWN), &key, cancel))
        .find_map(Result::err);
    let words = added.unwrap().to_string();
    assert!(words.ends_with("is not changed: All key slots full"), "{words}");
    assert_eq!(bench.check(&typed(OWN)), Ok(()));
}

/// Whoever changes headers, and is killed before the change after the first `left`.
struct Mortal<'a> {
    luks: &'a Cryptsetup,
    left: AtomicUsize,
}

impl Mortal<'_> {
    fn live(&self) -> Result<(), OpenError> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| OpenError::Cancelled)
    }
}

impl Volumes for Mortal<'_> {
    fn probe(&self, volume: &Volume, device: &Path, cancel: &Cancel) -> Result<Header, OpenError> {
        self.luks.probe(volume, device, cancel)
    }

    fn open(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError> {
        self.luks.open(volume, device, key, cancel)
    }

    fn probe_master(&self, master: &Master, cancel: &Cancel) -> Result<Header, OpenError> {
        self.luks.probe_master(master, cancel)
    }

    fn open_master(&self, master: &Master, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError> {
        self.luks.open_master(master, key, cancel)
    }

    fn probe_image(&self, image: &Image, cancel: &Cancel) -> Result<Header, OpenError> {
        self.luks.probe_image(image, cancel)
    }

    fn check_image(&self, image: &Image, passphrase: &Secret, cancel: &Cancel) -> Result<(), OpenError> {
        self.luks.check_image(image, passphrase, cancel)
    }

    fn read_key(&self, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError> {
        self.luks.read_key(key, cancel)
    }

    fn close(&self, name: &str, cancel: &Cancel) -> Result<(), CloseError> {
        self.luks.close(name, cancel)
    }

    fn suspend(&self, volume: &Volume, cancel: &Cancel) -> Result<(), CloseError> {
        self.luks.suspend(volume, cancel)
    }
}

impl Headers for Mortal<'_> {
    fn check(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError> {
        self.luks.check(volume, device, key, cancel)
    }

    fn create_master(&self, header: &Path, key: &Key, cancel: &Cancel) -> Result<String, OpenError> {
        self.live()?;
        self.luks.create_master(header, key, cancel)
    }

    fn add_keyslot(&self, volume: &Volume, device: &Path, with: &Key, new: &Secret, cancel: &Cancel) -> Result<u32, OpenError> {
        self.live()?;
        self.luks.add_keyslot(volume, device, with, new, cancel)
    }

    fn add_token(&self, volume: &Volume, device: &Path, master: &str, keyslot: u32, cancel: &Cancel) -> Result<(), OpenError> {
        self.live()?;
        self.luks.add_token(volume, device, master, keyslot, cancel)
    }

    fn remove_keyslot(&self, volume: &Volume, device: &Path, keyslot: u32, cancel: &Cancel) -> Result<(), OpenError> {
        self.live()?;
        self.luks.remove_keyslot(volume, device, keyslot, cancel)
    }

    fn remove_token(&self, volume: &Volume, device: &Path, token: u32, cancel: &Cancel) -> Result<(), OpenError> {
        self.live()?;
        self.luks.remove_token(volume, device, token, cancel)
    }
}

impl Bench {
    /// Whoever is killed before the change after the first `changes`.
    fn mortal(&self, changes: usize) -> Mortal<'_> {
        Mortal {
            luks: &self.luks,
            left: AtomicUsize::new(changes),
        }
    }

    fn enrolment<'a>(&'a self, headers: &'a Mortal<'a>) -> Enrolment<'a> {
        let DeviceSpec::Path(device) = &self.volume.device else {
            unreachable!()
        };
        Enrolment {
            headers,
            volume: &self.volume,
            device,
            master: MASTER,
            cancel: &self.cancel,
        }
    }

    fn enroll(&self, changes: usize, master: &Secret) -> Result<Enrolled, OpenError> {
        let headers = self.mortal(changes);
        self.enrolment(&headers).enroll(master, &mut |try_it| try_it(&typed(OWN)))
    }

    fn revoke(&self, changes: usize) -> Result<Revoked, OpenError> {
        self.enrolment(&self.mortal(changes)).revoke()
    }

    fn probe(&self) -> Header {
        self.luks.probe(&self.volume, &self.at("volume"), &self.cancel).unwrap()
    }

    /// Enrolled as it should be: one keyslot more, one token, and both ways open it.
    fn assert_enrolled(&self, master: &Secret) {
        let header = self.probe();
        assert_eq!((header.keyslots.len(), header.tokens.len()), (2, 1), "{header:?}");
        let derived = Key::Derived {
            key: derive(master, VOLUME),
            keyslot: header.tokens[0].keyslot.unwrap(),
        };
        assert_eq!(self.check(&derived), Ok(()));
        assert_eq!(self.check(&typed(OWN)), Ok(()));
    }
}

#[test]
fn whoever_is_killed_while_enrolling_leaves_what_a_second_run_completes() {
    let mut completed = Vec::new();
    for changes in 0..=2 {
        let bench = Bench::new();
        let master = bench.open_master(PASSPHRASE).unwrap();
        let first = bench.enroll(changes, &master);
        assert_eq!(bench.check(&typed(OWN)), Ok(()), "after {changes}");
        let second = bench.enroll(9, &master).unwrap();
        bench.assert_enrolled(&master);
        completed.push((first.is_ok(), second));
    }
    let expected = [
        (false, Enrolled::New(1)),
        (false, Enrolled::Completed(1)),
        (true, Enrolled::Already(1)),
    ];
    assert_eq!(completed, expected);
}

#[test]
fn whoever_is_killed_while_revoking_leaves_what_a_second_run_completes() {
    for changes in 0..=2 {
        let bench = Bench::new();
        let master = bench.open_master(PASSPHRASE).unwrap();
        bench.enroll(9, &master).unwrap();
        let first = bench.revoke(changes);
        assert_eq!(first.is_ok(), changes == 2);
        assert_eq!(bench.check(&typed(OWN)), Ok(()), "after {changes}");
        let second = bench.revoke(9).unwrap();
        assert_eq!(second.tokens, usize::from(changes < 2));
        assert_eq!(second.keyslots.len(), usize::from(changes < 1));
        let header = bench.probe();
        assert_eq!((header.keyslots.len(), header.tokens.len()), (1, 0));
        assert_eq!(bench.check(&typed(OWN)), Ok(()));
        // And either can be begun again from there.
        bench.enroll(9, &master).unwrap();
        bench.assert_enrolled(&master);
    }
}

#[test]
fn a_token_that_leads_nowhere_is_replaced() {
    let bench = Bench::new();
    let master = bench.open_master(PASSPHRASE).unwrap();
    // To the volume's own keyslot, which stays, and to none at all.
    let device = bench.at("volume");
    for keyslots in ["\"0\"", ""] {
        let token =
            format!("{{\"type\":\"virt-unlock-master\",\"keyslots\":[{keyslots}],\"version\":1,\"master\":\"{MASTER}\"}}");
        cryptsetup(&["token", "import", "--json-file=-", path(&device)], token.as_bytes());
    }
    assert_eq!(bench.enroll(9, &master), Ok(Enrolled::New(1)));
    bench.assert_enrolled(&master);
}

#[test]
fn the_last_way_in_is_not_taken_away() {
    let bench = Bench::new();
    let master = bench.open_master(PASSPHRASE).unwrap();
    bench.enroll(9, &master).unwrap();
    bench
        .luks
        .remove_keyslot(&bench.volume, &bench.at("volume"), 0, &bench.cancel)
        .unwrap();
    let refused = bench.revoke(9).unwrap_err().to_string();
    assert!(refused.contains("no keyslot but the master's"), "{refused}");
    assert_eq!(bench.probe().keyslots.len(), 1);
}

#[test]
fn revoking_says_which_keyslot_an_interrupted_enrolment_may_have_left() {
    let bench = Bench::new();
    let master = bench.open_master(PASSPHRASE).unwrap();
    assert_eq!(bench.enroll(1, &master), Err(OpenError::Cancelled));
    // The volume's own keyslot is as cheap here.
    assert_eq!(bench.revoke(9).unwrap().unmarked, [0, 1]);
    // One that another program has marked is that program's.
    let other = "{\"type\":\"systemd-recovery\",\"keyslots\":[\"0\"]}";
    let device = bench.at("volume");
    cryptsetup(&["token", "import", "--json-file=-", path(&device)], other.as_bytes());
    assert_eq!(bench.revoke(9).unwrap().unmarked, [1]);
}

#[test]
fn luks1_is_refused_with_the_way_out() {
    let bench = Bench::new();
    let device = bench.at("volume");
    let format = ["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000"];
    cryptsetup(&[&format[..], &["--key-file=-", path(&device)]].concat(), OWN.as_bytes());
    let master = bench.open_master(PASSPHRASE).unwrap();
    for refused in [
        bench.enroll(9, &master).map(drop).unwrap_err(),
        bench.revoke(9).map(drop).unwrap_err(),
    ] {
        let words = format!(
            "volume mail is LUKS1, which has no tokens; `cryptsetup convert --type luks2 {}`",
            path(&device)
        );
        assert!(refused.to_string().contains(&words), "{refused}");
    }
    assert_eq!(bench.check(&typed(OWN)), Ok(()));
}

#[test]
fn a_detached_header_is_the_one_that_is_changed() {
    let mut bench = Bench::new();
    let (header, device) = (bench.at("header"), bench.at("volume"));
    fs::copy(&device, &header).unwrap();
    fs::File::options()
        .write(true)
        .open(&device)
        .unwrap()
        .write_all(&vec![0; 1 << 20])
        .unwrap();
    bench.volume.header = Some(header);
    let before = fs::read(&device).unwrap();
    let master = bench.open_master(PASSPHRASE).unwrap();
    bench.enroll(9, &master).unwrap();
    bench.assert_enrolled(&master);
    bench.revoke(9).unwrap();
    assert_eq!(bench.probe().keyslots.len(), 1);
    assert!(before == fs::read(&device).unwrap(), "the data is as it was");
}
