//! Images that QEMU encrypts, made by qemu-img(1) and looked at by the real libcryptsetup in real worker processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use virt_unlock::cancel::Cancel;
use virt_unlock::config::KeyFile;
use virt_unlock::host::volumes::Cryptsetup;
use virt_unlock::host::{Image, Key, OpenError, Volumes, qcow2};
use virt_unlock::secret::Secret;

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-unlock-volumes");
const PASSPHRASE: &str = "correct horse battery staple";

/// A folder with an image, and the library to look at it.
struct Bench {
    folder: TempDir,
    image: Image,
    luks: Cryptsetup,
    cancel: Cancel,
}

impl Bench {
    /// An image of 16 MiB that the passphrase opens.
    fn new(format: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let (prefix, qcow2) = if format == "qcow2" { ("encrypt.", true) } else { ("", false) };
        let kind = if qcow2 { "encrypt.format=luks," } else { "" };
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", format, "--object"])
            .arg(format!("secret,id=key,data={PASSPHRASE}"))
            .arg("-o")
            .arg(format!("{kind}{prefix}key-secret=key,{prefix}iter-time=10"))
            .arg(&path)
            .arg("16M")
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        Self {
            folder,
            image: Image { path, qcow2 },
            luks: Cryptsetup::with_program(PROGRAM),
            cancel: Cancel::new().unwrap(),
        }
    }

    fn check(&self, passphrase: &str) -> Result<(), OpenError> {
        let passphrase = Secret::copy_of(passphrase.as_bytes());
        self.luks.check_image(&self.image, &passphrase, &self.cancel)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn a_passphrase_is_looked_at_in_what_qemu_made() {
    for format in ["luks", "qcow2"] {
        let bench = Bench::new(format);
        let before = fs::read(&bench.image.path).unwrap();
        let header = bench.luks.probe_image(&bench.image, &bench.cancel).unwrap();
        assert_eq!((header.version, header.keyslots.len()), (1, 1), "{format}");
        assert_eq!(bench.check(PASSPHRASE), Ok(()), "{format}");
        assert_eq!(bench.check("wrong"), Err(OpenError::WrongKey), "{format}");
        assert!(before == fs::read(&bench.image.path).unwrap(), "{format} was written to");
    }
}

#[test]
fn what_has_no_luks_header_says_so() {
    let mut bench = Bench::new("qcow2");
    let header = |bench: &Bench| match bench.luks.probe_image(&bench.image, &bench.cancel) {
        Err(OpenError::Header(words)) => words,
        other => panic!("{other:?}"),
    };
    // The pointer to the header leads out of the file.
    let (_, from, _) = qcow2::luks_header(&bench.image.path).unwrap().unwrap();
    let bytes = fs::read(&bench.image.path).unwrap();
    let kind = bytes.windows(4).position(|window| window == 0x0537_be77_u32.to_be_bytes());
    let pointer = kind.unwrap() + 8;
    let file = File::options().write(true).open(&bench.image.path).unwrap();
    file.write_all_at(&(1_u64 << 40).to_be_bytes(), pointer as u64).unwrap();
    assert!(
        header(&bench).ends_with("disk: failed to fill whole buffer"),
        "{}",
        header(&bench)
    );
    file.write_all_at(&(1_u64 << 40).to_be_bytes(), pointer as u64 + 8).unwrap();
    assert!(header(&bench).contains("are no length of one"), "{}", header(&bench));
    // Where it leads, something else lies.
    file.write_all_at(&bytes[pointer..pointer + 16], pointer as u64).unwrap();
    file.write_all_at(b"no header", from).unwrap();
    assert!(!header(&bench).is_empty());

    bench.image.path = bench.file("text", b"just a text");
    assert!(header(&bench).contains("no qcow2 header"), "{}", header(&bench));
    let plain = bench.folder.path().join("plain");
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2"]).arg(&plain).arg("1M");
    assert!(make.status().unwrap().success());
    bench.image.path = plain;
    assert!(
        header(&bench).ends_with("it is not encrypted with LUKS"),
        "{}",
        header(&bench)
    );
    bench.image.path = bench.folder.path().join("gone");
    assert!(bench.luks.probe_image(&bench.image, &bench.cancel).is_err());
}

#[test]
fn the_bytes_of_a_key_come_as_they_are() {
    let bench = Bench::new("luks");
    let read = |path: PathBuf, size| {
        let file = KeyFile {
            offset: 1,
            size,
            ..KeyFile::new(&path)
        };
        let key = Key::File { file, device: None };
        bench
            .luks
            .read_key(&key, &bench.cancel)
            .map(|secret| secret.expose().to_vec())
    };
    assert_eq!(read(bench.file("key", b"\0k\xff\n"), None).unwrap(), b"k\xff\n");
    assert_eq!(read(bench.file("key", b"\0k\xff\n"), Some(1)).unwrap(), b"k");
    let long = read(bench.file("long", &[7; 9000]), None);
    assert!(matches!(long, Err(OpenError::KeyFile(words)) if words == "the key is longer than 8192 bytes"));
    assert!(matches!(
        read(bench.folder.path().join("gone"), None),
        Err(OpenError::KeyFile(_))
    ));
}
