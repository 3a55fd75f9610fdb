//! The disk with the encrypted volumes and their guests: made once in a host, then only read.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    PASSPHRASE,
    contender::{CONFIG, MASTER, mastered},
    folder,
    host::{Host, image_folder, secs},
    names,
};

const SCRIPT: &str = include_str!("prepare.sh");
const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/image/guest.asm");

/// The disk.
pub struct Disk {
    /// A raw image.
    pub path: PathBuf,
    /// The header of the master that all volumes are enrolled with, compressed; none where there is none.
    pub master: Option<Vec<u8>>,
}

impl Disk {
    /// The disk with so many guests, made first if it is not there.
    pub fn get(count: usize, installed: &Path) -> Self {
        let names = names(count);
        let mut key = DefaultHasher::new();
        (SCRIPT, image_folder(), &names, fs::read(GUEST).unwrap_or_default()).hash(&mut key);
        let path = folder().join(format!("disk-{:016x}.img", key.finish()));
        if !path.exists() {
            eprintln!("the disk with {count} volumes ...");
            make(&path, &names, installed);
        }
        Self { path, master: None }
    }

    /// The same volumes, each enrolled with a master besides. The contenders without one have a disk without: what is tried costs.
    pub fn with_master(&self, count: usize, installed: &Path) -> Self {
        let (path, header) = (self.path.with_extension("master.img"), self.path.with_extension("master.gz"));
        if !path.exists() {
            eprintln!("the master of {count} volumes ...");
            enroll(self, &path, &header, &names(count), installed);
        }
        let master = fs::read(&header).unwrap_or_else(|error| panic!("{}: {error}", header.display()));
        Self {
            path,
            master: Some(master),
        }
    }
}

/// By the commands that an administrator types. The header gets a keyslot that costs what those of the volumes do.
fn enroll(disk: &Disk, path: &Path, header: &Path, names: &[String], installed: &Path) {
    let mut host = Host::builder("bench-master")
        .tree(installed)
        .file(CONFIG, mastered(names))
        .disk(&disk.path)
        .boot();
    host.until("systemctl is-system-running --wait | grep -q .", secs(180));
    let typed = |command: &str, questions: usize| {
        host.terminal().type_line(&format!("{command}; echo ended=$?"));
        for _ in 0..questions {
            host.terminal().expect("assphrase", secs(120));
            host.terminal().type_line(PASSPHRASE);
        }
        host.terminal().expect("ended=0", secs(600));
    };
    typed("virt-unlock master create all", 2);
    host.run(&format!(
        "printf '{PASSPHRASE}' | cryptsetup luksConvertKey --batch-mode --key-file - --pbkdf argon2id --pbkdf-memory 65536 \
         --pbkdf-force-iterations 4 --pbkdf-parallel 1 {MASTER}"
    ));
    typed(&format!("virt-unlock master enroll all {}", names.join(" ")), 2);
    // Behind its one keyslot is noise, which would take a quarter of an hour to come over.
    let packed = host.run(&format!(
        "fallocate --punch-hole --offset 1MiB --length $(stat -c %s {MASTER}) {MASTER} && gzip -c {MASTER} | base64 -w 76"
    ));
    host.power_off();
    unpack(&packed, header);
    host.save_disk(2, path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn unpack(base64: &str, to: &Path) {
    let decode = || -> io::Result<()> {
        let mut decoder = Command::new("base64")
            .arg("-di")
            .stdin(Stdio::piped())
            .stdout(fs::File::create(to)?)
            .spawn()?;
        if let Some(mut input) = decoder.stdin.take() {
            input.write_all(base64.as_bytes())?;
        }
        decoder.wait()?;
        Ok(())
    };
    decode().unwrap_or_else(|error| panic!("{}: {error}", to.display()));
}

fn make(path: &Path, names: &[String], installed: &Path) {
    let blank = path.with_extension("blank");
    let size = 64 + 24 * u64::try_from(names.len()).unwrap_or(u64::MAX);
    fs::File::create(&blank)
        .and_then(|file| file.set_len(size << 20))
        .unwrap_or_else(|error| panic!("{}: {error}", blank.display()));
    let mut builder = Host::builder("bench-disk")
        .tree(installed)
        .program("/root/bench/prepare", SCRIPT)
        .disk(&blank);
    for name in names {
        builder = builder.file(&format!("/root/bench/{name}.boot"), boot_sector(name));
    }
    let mut host = builder.boot();
    let made = host.shell_within(&format!("GUESTS='{}' /root/bench/prepare", names.join(" ")), secs(900));
    assert!(made.status == 0, "the disk of the bench: {made}");
    host.power_off();
    host.save_disk(2, path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let _ = fs::remove_file(blank);
}

fn boot_sector(name: &str) -> Vec<u8> {
    let out = folder().join(format!("{name}.boot"));
    let made = Command::new("nasm")
        .args(["-f", "bin", &format!("-DNAME='{name}'"), "-DSTOP_TICKS=18", "-o"])
        .arg(&out)
        .arg(GUEST)
        .status();
    assert!(made.as_ref().is_ok_and(std::process::ExitStatus::success), "nasm: {made:?}");
    let bytes = fs::read(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    let _ = fs::remove_file(out);
    bytes
}
