//! The images of the hosts: built once by `image.sh`, then only read.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// Which host: the release of Debian, and how libvirt is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// The release, as apt calls it.
    pub suite: Suite,
    /// One daemon, or one for each kind of thing.
    pub daemons: Daemons,
}

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

/// How libvirt is cut into daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemons {
    /// libvirtd, as Debian has it.
    Monolithic,
    /// virtqemud, virtstoraged, virtsecretd: see `daemons.sh`.
    Modular,
}

impl Variant {
    /// Debian 13 with the modular daemons.
    pub const MODULAR: Self = Self {
        suite: Suite::Trixie,
        daemons: Daemons::Modular,
    };

    /// What a host is that nothing else is said of: Debian 13 as it is, or what `HOST_SUITE` and `HOST_DAEMONS` name.
    pub fn chosen() -> Self {
        let word = |name: &str| env::var(name).unwrap_or_default();
        let suite = match word("HOST_SUITE").as_str() {
            "" | "trixie" => Suite::Trixie,
            "bookworm" => Suite::Bookworm,
            other => panic!("HOST_SUITE={other}: bookworm or trixie"),
        };
        let daemons = match word("HOST_DAEMONS").as_str() {
            "" | "monolithic" => Daemons::Monolithic,
            "modular" => Daemons::Modular,
            other => panic!("HOST_DAEMONS={other}: monolithic or modular"),
        };
        Self { suite, daemons }
    }
}

impl Suite {
    /// As apt calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl Daemons {
    fn name(self) -> &'static str {
        match self {
            Self::Monolithic => "monolithic",
            Self::Modular => "modular",
        }
    }
}

/// The folder of a built image.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of a variant, built first if it is not there (minutes; the script says on standard error what it does).
    pub fn get(variant: Variant) -> &'static Self {
        Self::kept(
            "image.sh",
            &[("SUITE", variant.suite.name()), ("DAEMONS", variant.daemons.name())],
        )
    }

    /// A host of this suite with apt, and without libvirt, LVM and whatever else our package asks for. It has no data disk.
    pub fn bare(suite: &'static str) -> &'static Self {
        Self::kept("bare.sh", &[("SUITE", suite)])
    }

    fn kept(script: &str, words: &[(&str, &str)]) -> &'static Self {
        static IMAGES: Mutex<BTreeMap<String, &Image>> = Mutex::new(BTreeMap::new());
        let images = || IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{script} {words:?}");
        if let Some(image) = images().get(&key) {
            return image;
        }
        // Not under the lock: whoever has an image does not wait for one that is being made. The scripts have locks of their own.
        let image = Self::built(script, words).unwrap_or_else(|error| panic!("no image of a host to boot: {error}"));
        let image: &'static Self = Box::leak(Box::new(image));
        images().insert(key, image);
        image
    }

    fn built(script: &str, words: &[(&str, &str)]) -> io::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host").join(script);
        let mut command = Command::new(&script);
        command.envs(words.iter().copied());
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
