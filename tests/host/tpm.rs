//! A TPM 2.0 in software (swtpm) for hosts that are to have one. What it knows lasts as long as the host's disks.

use super::{Builder, Host, machine};
use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

impl Builder {
    /// With a TPM, as `/dev/tpm0` and `/dev/tpmrm0`.
    pub fn tpm(mut self) -> Self {
        self.tpm = true;
        self
    }
}

impl Host {
    /// From the next boot on it has none, as on another board.
    pub fn take_out_tpm(&mut self) {
        self.tpm = None;
    }
}

/// Starts the TPM whose state lies in this folder, for one run of qemu: what qemu is to be told. It ends with qemu.
pub fn start(folder: &Path) -> io::Result<[String; 6]> {
    std::fs::create_dir_all(folder)?;
    let socket = folder.join("socket");
    let _ = std::fs::remove_file(&socket);
    let log = machine::append(&folder.with_extension("log"))?;
    let mut command = Command::new("swtpm");
    command
        .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
        .arg(format!("dir={}", folder.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    machine::end_with_us(&mut command, Vec::new());
    let mut child = command.spawn()?;
    // Qemu does not wait for it.
    let begun = Instant::now();
    while !socket.exists() {
        if begun.elapsed() > Duration::from_secs(10) || child.try_wait()?.is_some() {
            return Err(io::Error::other(format!(
                "no TPM; see {}",
                folder.with_extension("log").display()
            )));
        }
        thread::sleep(Duration::from_millis(10));
    }
    thread::spawn(move || child.wait());
    let chardev = format!("socket,id=tpm,path={}", socket.display());
    let words = [
        "-chardev",
        &chardev,
        "-tpmdev",
        "emulator,id=tpm0,chardev=tpm",
        "-device",
        "tpm-tis,tpmdev=tpm0",
    ];
    Ok(words.map(str::to_owned))
}

/// Where a host's TPM keeps what it knows.
pub fn folder(of_host: &Path) -> PathBuf {
    of_host.join("tpm")
}
