//! Hosts that boot by an initramfs of dracut's, as an administrator makes it, and from an encrypted root disk.

use super::{Archive, Host, image, secs};
use std::{fs, io, path::Path, process::Command, time::Duration};

/// What the initramfs of dracut may need, in MiB.
const ROOM: u32 = 96;
/// The size of the image's root disk, in bytes.
const ROOT_DISK: u64 = 2 << 30;
/// How long dracut may take in an emulated host.
const DRACUT: Duration = secs(400);

impl Host {
    /// Runs dracut in the host, with these arguments, and takes out what it made to `to`.
    #[track_caller]
    pub fn dracut(&mut self, arguments: &str, to: &Path) {
        let command = format!("dracut --force {arguments} /run/initramfs.img $(uname -r) 2>&1");
        let output = self.shell_within(&command, DRACUT);
        assert_eq!(output.status, 0, "{output}");
        self.add_drive("initramfs", ROOM);
        let disk = "/dev/disk/by-id/virtio-initramfs";
        self.until(&format!("test -b {disk}"), secs(20));
        let length = self.run("stat -c %s /run/initramfs.img");
        let length = length.trim().parse().unwrap_or(u64::MAX);
        assert!(length < u64::from(ROOM) << 20, "an initramfs of {length} bytes");
        self.run(&format!("dd if=/run/initramfs.img of={disk} bs=1M conv=fsync status=none"));
        self.remove_drive("initramfs");
        let from = self.folder.0.join("initramfs.raw");
        let taken = fs::File::options()
            .write(true)
            .open(&from)
            .and_then(|file| file.set_len(length));
        let taken = taken.and_then(|()| fs::rename(&from, to));
        taken.unwrap_or_else(|error| panic!("cannot take out the initramfs: {error}"));
    }

    /// Boots by this initramfs from now on.
    pub fn boot_by(&mut self, initramfs: &Path) {
        self.initramfs = Some(initramfs.to_owned());
    }

    /// Puts files over those in the initramfs, which the kernel unpacks one archive after the other.
    pub fn overlay_initramfs(&mut self, files: &[(&str, &[u8])]) {
        let base = self.initramfs.clone().unwrap_or_else(|| panic!("no initramfs of dracut's"));
        let mut archive = Archive::default();
        for (path, content) in files {
            archive.initrd_file(path.trim_start_matches('/'), *content);
        }
        let append = || -> io::Result<_> {
            let mut bytes = fs::read(&base)?;
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(archive.pack());
            let path = self.folder.0.join("overlaid.img");
            fs::write(&path, bytes)?;
            Ok(path)
        };
        self.initramfs = Some(append().unwrap_or_else(|error| panic!("cannot overlay the initramfs: {error}")));
    }

    /// Another root device and more words on the kernel command line, from the next boot on.
    pub fn boot_from(&mut self, root: &str, words: &[String]) {
        self.kernel_arguments.retain(|word| !word.starts_with("root="));
        self.kernel_arguments.push(format!("root={root}"));
        self.kernel_arguments.extend_from_slice(words);
    }

    /// Puts the root disk of a host that is off onto a LUKS device with this passphrase; the LUKS UUID.
    pub fn encrypt_root(&mut self, passphrase: &str) -> String {
        let mut encrypt = || -> io::Result<String> {
            let luks = self.folder.0.join("root.luks");
            let path = luks.display().to_string();
            // Room for the header behind the size of the disk. qemu-img, which needs no device-mapper, knows LUKS1 alone.
            fs::File::create(&luks)?.set_len(ROOT_DISK + (4 << 20))?;
            let key = self.folder.0.join("root.key");
            fs::write(&key, passphrase)?;
            let key = key.display().to_string();
            cryptsetup(&[
                "luksFormat",
                "--batch-mode",
                "--type=luks1",
                "--pbkdf-force-iterations=1000",
                "--key-file",
                &key,
                &path,
            ])?;
            image::qemu_img(&[
                "convert",
                "-n",
                "--object",
                &format!("secret,id=key,file={key}"),
                "--target-image-opts",
                &self.disks[0].display().to_string(),
                &format!("driver=luks,file.filename={path},key-secret=key"),
            ])?;
            let overlay = self.folder.0.join("root.encrypted.qcow2");
            image::overlay(&luks, &overlay)?;
            // What looks at the disks afterwards runs from the clear one.
            self.examined_from = Some(std::mem::replace(&mut self.disks[0], overlay));
            Ok(cryptsetup(&["luksUUID", &path])?.trim().to_owned())
        };
        encrypt().unwrap_or_else(|error| panic!("cannot encrypt the root disk: {error}"))
    }
}

fn cryptsetup(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("cryptsetup").args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("cryptsetup {}: {words}", arguments.join(" "))))
}
