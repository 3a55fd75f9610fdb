//! Keys from tokens by the real library, in real worker processes, on headers in plain files: by the token that libcryptsetup has
//! itself, which reads the kernel's keyring, and by plug-ins that are compiled here and seen by the workers alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use linux_keyutils::{KeyRing, KeyRingIdentifier};
use tempfile::TempDir;
use virt_unlock::cancel::Cancel;
use virt_unlock::config::{DeviceSpec, Master, Volume};
use virt_unlock::host::volumes::Cryptsetup;
use virt_unlock::host::{Headers, Key, OpenError, OtherToken, Volumes};
use virt_unlock::secret::Secret;

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-unlock-volumes");
const PASSPHRASE: &str = "correct horse battery staple";
/// Where libcryptsetup looks for plug-ins.
const PLUGINS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/cryptsetup",
    "/usr/lib/aarch64-linux-gnu/cryptsetup",
    "/usr/lib64/cryptsetup",
];
/// A plug-in that answers as it was compiled to.
const SOURCE: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int answer(const char *pin, size_t size, char **key, size_t *length) {
    ANSWER
    *key = strdup(KEY);
    *length = strlen(KEY);
    return 0;
}
int cryptsetup_token_open(void *cd, int token, char **key, size_t *length, void *user) {
    return answer(NULL, 0, key, length);
}
int cryptsetup_token_open_pin(void *cd, int token, const char *pin, size_t size, char **key, size_t *length, void *user) {
    return answer(pin, size, key, length);
}
const char *cryptsetup_token_version(void) { return "1"; }
"#;

/// A folder with a LUKS2 header, which is a volume's and a master's.
struct Bench {
    folder: TempDir,
    volume: Volume,
    master: Master,
    luks: Cryptsetup,
    cancel: Cancel,
}

impl Bench {
    fn new(kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("volume");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let bench = Self {
            volume: Volume::new("mail", DeviceSpec::Path(image.clone())),
            master: Master::new("office", image),
            luks: Cryptsetup::with_program(PROGRAM),
            cancel: Cancel::new().unwrap(),
            folder,
        };
        let (key, image) = (bench.file("passphrase", PASSPHRASE.as_bytes()), bench.image());
        let (key, image) = (key.to_str().unwrap(), image.to_str().unwrap());
        let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        cryptsetup(
            &[
                &["luksFormat", "-q", "--type", kind, "--key-file", key, image],
                &cheap[usize::from(kind == "luks1") * 2..],
            ]
            .concat(),
        );
        bench
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Adds a token of this type to keyslot 0; `more` is what else it has.
    fn token(&self, kind: &str, more: &str) {
        let json = format!("{{\"type\":\"{kind}\",\"keyslots\":[\"0\"]{more}}}");
        let json = self.file("token.json", json.as_bytes());
        let (json, image) = (json.to_str().unwrap().to_owned(), self.image());
        cryptsetup(&["token", "import", "--json-file", &json, image.to_str().unwrap()]);
    }

    /// Workers see these plug-ins and no others. `false`: that cannot be done here.
    fn plugins(&mut self, plugins: &[(&str, &str)]) -> bool {
        let Some(place) = PLUGINS.iter().find(|place| Path::new(place).is_dir()) else {
            return false;
        };
        let folder = self.folder.path().join("plugins");
        fs::create_dir(&folder).unwrap();
        let source = self.file("plugin.c", SOURCE.as_bytes());
        let exported = self.file("exported", b"CRYPTSETUP_TOKEN_1.0 { global: cryptsetup_token_*; local: *; };");
        for (kind, answer) in plugins {
            let compiled = Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .arg(folder.join(format!("libcryptsetup-token-{kind}.so")))
                .arg(format!("-DANSWER={answer}"))
                .arg(format!("-DKEY=\"{PASSPHRASE}\""))
                .arg(format!("-Wl,--version-script={}", exported.display()))
                .arg(&source)
                .status();
            if !compiled.is_ok_and(|status| status.success()) {
                return false;
            }
        }
        let folder = folder.display();
        let begin = format!("mount --bind {folder} {place}");
        let unshare = ["unshare -m", "unshare -rm"].into_iter().find(|unshare| {
            let tried = format!("{unshare} sh -c '{begin}'");
            Command::new("sh")
                .args(["-c", &tried])
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        });
        let Some(unshare) = unshare else { return false };
        let here = self.folder.path().display();
        let script = format!("#!/bin/sh\ncd {here}\nexec {unshare} sh -c '{begin} && exec {PROGRAM} \"$@\"' sh \"$@\"\n");
        let path = self.file("worker.sh", script.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        self.luks = Cryptsetup::with_program(path);
        true
    }

    fn others(&self) -> Vec<OtherToken> {
        self.luks.probe(&self.volume, &self.image(), &self.cancel).unwrap().others
    }

    fn check(&self, token: Option<u32>, pin: Option<&str>) -> Result<(), OpenError> {
        self.luks
            .check(&self.volume, &self.image(), &by_token(token, pin), &self.cancel)
    }

    fn open_master(&self, key: &Key) -> Result<Vec<u8>, OpenError> {
        let key = self.luks.open_master(&self.master, key, &self.cancel)?;
        Ok(key.expose().to_vec())
    }

    fn key_of_master(&self) -> Vec<u8> {
        self.open_master(&Key::Passphrase(Secret::copy_of(PASSPHRASE.as_bytes())))
            .unwrap()
    }
}

fn by_token(token: Option<u32>, pin: Option<&str>) -> Key {
    let pin = pin.map(|pin| Secret::copy_of(pin.as_bytes()));
    Key::Token { token, pin }
}

fn cryptsetup(arguments: &[&str]) {
    let output = Command::new("/usr/sbin/cryptsetup")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

fn no_key(result: Result<(), OpenError>) -> String {
    match result {
        Err(OpenError::NoKey(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_header_without_a_token_says_so() {
    let luks1 = Bench::new("luks1");
    assert_eq!(no_key(luks1.check(None, None)), "it is LUKS1, which has no tokens");
    let luks2 = Bench::new("luks2");
    assert_eq!(luks2.others(), []);
    assert!(no_key(luks2.check(None, None)).starts_with("its header has no token of a TPM"));
    luks2.token(
        "virt-unlock-master",
        ",\"version\":1,\"master\":\"00000000-0000-0000-0000-000000000000\"",
    );
    assert_eq!(luks2.others(), [], "ours is no token that opens by itself");
    assert!(no_key(luks2.check(None, None)).starts_with("its header has no token of a TPM"));
}

#[test]
fn a_token_that_no_plug_in_knows_is_named() {
    let bench = Bench::new("luks2");
    bench.token("made-up", "");
    bench.token("systemd-recovery", "");
    let unknown = OtherToken {
        number: 0,
        kind: "made-up".to_owned(),
        keyslots: vec![0],
        has_plugin: false,
    };
    assert_eq!(bench.others()[0], unknown);
    assert_eq!(
        no_key(bench.check(None, None)),
        "token 0 (made-up): its plug-in libcryptsetup-token-made-up.so is not installed; token 1 (systemd-recovery): it marks a \
         recovery key, which is typed as a passphrase"
    );
    assert_eq!(
        no_key(bench.open_master(&by_token(None, None)).map(drop)),
        no_key(bench.check(None, None))
    );
}

#[test]
fn a_key_in_the_kernels_keyring_opens_volume_and_master() {
    let description = format!("virt-unlock-test-{}", std::process::id());
    let Ok(keyring) = KeyRing::from_special_id(KeyRingIdentifier::Session, true) else {
        println!("skipped: there is no keyring here");
        return;
    };
    let bench = Bench::new("luks2");
    let image = bench.image();
    cryptsetup(&[
        "token",
        "add",
        "--key-description",
        &description,
        "--key-slot",
        "0",
        image.to_str().unwrap(),
    ]);
    assert_eq!(
        (bench.others()[0].kind.as_str(), bench.others()[0].has_plugin),
        ("luks2-keyring", true)
    );
    let words = no_key(bench.check(None, None));
    assert!(words.starts_with("token 0 (luks2-keyring): "), "{words}");
    let Ok(key) = keyring.add_key(&description, PASSPHRASE) else {
        println!("skipped: no key can be added here");
        return;
    };
    assert_eq!(bench.check(None, None), Ok(()));
    assert_eq!(bench.open_master(&by_token(None, None)), Ok(bench.key_of_master()));
    key.update(&"another").unwrap();
    let words = no_key(bench.check(None, None));
    assert!(words.contains("opens no keyslot of this header"), "{words}");
    key.invalidate().unwrap();
}

/// Wants the PIN 1234.
const PIN: &str = "if (!pin || size != 4 || memcmp(pin, \"1234\", 4)) return -ENOANO;";
const OPENS: &str = "";
const AWAY: &str = "return -EAGAIN;";
const BROKEN: &str = "return -EIO;";
/// Waits for a touch that never comes.
const BLINKS: &str = "close(open(\"blinks\", O_CREAT | O_WRONLY, 0600)); pause();";

#[test]
fn a_pin_is_wanted_and_a_wrong_one_is_no_key() {
    let mut bench = Bench::new("luks2");
    if !bench.plugins(&[("test-pin", PIN), ("test-away", AWAY)]) {
        println!("skipped: no plug-in can be put in place here");
        return;
    }
    bench.token("test-away", "");
    bench.token("test-pin", "");
    let away = "token 0 (test-away): its device is not there (TPM, stick or card)";
    let wanted = OpenError::PinNeeded {
        tokens: vec![1],
        others: Some(away.to_owned()),
    };
    assert_eq!(bench.check(None, None), Err(wanted.clone()));
    assert_eq!(bench.open_master(&by_token(None, None)), Err(wanted));
    for wrong in ["1235", ""] {
        assert_eq!(bench.check(Some(1), Some(wrong)), Err(OpenError::WrongKey), "{wrong:?}");
        assert_eq!(bench.open_master(&by_token(Some(1), Some(wrong))), Err(OpenError::WrongKey));
    }
    assert_eq!(bench.check(Some(1), Some("1234")), Ok(()));
    assert_eq!(bench.open_master(&by_token(Some(1), Some("1234"))), Ok(bench.key_of_master()));
    assert_eq!(no_key(bench.check(Some(0), Some("1234"))), away);
}

/// libcryptsetup's own loop would end at the first one.
#[test]
fn a_token_that_fails_keeps_no_other_from_opening() {
    let mut bench = Bench::new("luks2");
    if !bench.plugins(&[("test-broken", BROKEN), ("test-opens", OPENS)]) {
        println!("skipped: no plug-in can be put in place here");
        return;
    }
    bench.token("test-broken", "");
    assert_eq!(no_key(bench.check(None, None)), "token 0 (test-broken): I/O error");
    bench.token("test-opens", "");
    assert_eq!(bench.check(None, None), Ok(()));
    assert_eq!(bench.open_master(&by_token(None, None)), Ok(bench.key_of_master()));
}

/// Said of the host, and not of a token that would be tried in vain again and again.
#[test]
fn opening_without_device_mapper_says_so() {
    if Path::new("/dev/mapper/control").exists() {
        println!("skipped: device-mapper is here");
        return;
    }
    let mut bench = Bench::new("luks2");
    if !bench.plugins(&[("test-opens", OPENS)]) {
        println!("skipped: no plug-in can be put in place here");
        return;
    }
    bench.token("test-opens", "");
    let opened = bench
        .luks
        .open(&bench.volume, &bench.image(), &by_token(None, None), &bench.cancel);
    assert!(
        matches!(&opened, Err(OpenError::Other(words)) if words.contains("device-mapper")),
        "{opened:?}"
    );
}

#[test]
fn one_that_waits_for_a_touch_is_cancelled() {
    let mut bench = Bench::new("luks2");
    if !bench.plugins(&[("test-blinks", BLINKS)]) {
        println!("skipped: no plug-in can be put in place here");
        return;
    }
    bench.token("test-blinks", "");
    std::thread::scope(|scope| {
        let checked = scope.spawn(|| bench.check(None, None));
        let blinks = bench.folder.path().join("blinks");
        while !blinks.exists() && !checked.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        bench.cancel.raise();
        assert_eq!(checked.join().unwrap(), Err(OpenError::Cancelled));
    });
}

#[test]
fn what_a_token_gives_cannot_add_a_keyslot() {
    let bench = Bench::new("luks2");
    let new = Secret::copy_of(b"new");
    let added = bench
        .luks
        .add_keyslot(&bench.volume, &bench.image(), &by_token(None, None), &new, &bench.cancel);
    assert!(matches!(added, Err(OpenError::NoKey(_))), "{added:?}");
}
