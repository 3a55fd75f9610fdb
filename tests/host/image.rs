//! The image of the host: built once by `image.sh`, then only read.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// The folder of a built image.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image, built first if it is not there (minutes; the script says on standard error what it does).
    pub fn get() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| Self::build("image.sh", None))
    }

    /// A host of this suite with apt, and without libvirt, LVM and whatever else our package asks for. It has no data disk.
    pub fn bare(suite: &'static str) -> &'static Self {
        static IMAGES: Mutex<BTreeMap<&str, &Image>> = Mutex::new(BTreeMap::new());
        let mut images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
        images
            .entry(suite)
            .or_insert_with(|| Box::leak(Box::new(Self::build("bare.sh", Some(suite)))))
    }

    fn build(script: &str, suite: Option<&str>) -> Self {
        Self::built(script, suite).unwrap_or_else(|error| panic!("no image of a host to boot: {error}"))
    }

    fn built(script: &str, suite: Option<&str>) -> io::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host").join(script);
        let mut command = Command::new(&script);
        command.envs(suite.map(|suite| ("SUITE", suite)));
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("{} ended with {}", script.display(), output.status)));
        }
        let folder = String::from_utf8(output.stdout).map_err(io::Error::other)?;
        Ok(Self {
            folder: PathBuf::from(folder.trim()),
        })
    }

    /// A file of the image: `vmlinuz`, `initrd`, `root.img`, `data.img`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What qemu runs fastest with on this machine, found out when the image was built.
    pub fn accelerator(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.file("accelerator"))?.trim().to_owned())
    }

    /// A folder beside the image: `logs`, `run`.
    pub fn beside(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.parent().unwrap_or(&self.folder).join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// Makes `overlay`, a disk that reads from `base` and keeps what is written.
pub fn overlay(base: &Path, overlay: &Path) -> io::Result<()> {
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        &base.to_string_lossy(),
        &overlay.to_string_lossy(),
    ])
}

/// Runs qemu-img.
pub fn qemu_img(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("qemu-img").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "qemu-img {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )))
}
