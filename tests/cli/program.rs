//! One run of a program, in a /run of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub const WHOLE: &str = env!("CARGO_BIN_EXE_virt-unlock");
pub const VOLUMES: &str = env!("CARGO_BIN_EXE_virt-unlock-volumes");

/// Only root gets a /run of its own, and may do what is tested here.
macro_rules! needs_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
    };
}
pub(crate) use needs_root;

/// A directory with a configuration.
pub struct Place(TempDir);

/// What a run said and left.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
    /// What there is below its /run.
    pub left: String,
}

impl Place {
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self(folder);
        fs::write(place.config(), config).unwrap();
        place
    }

    /// One volume on a plain file with a LUKS header, and libvirt's test driver, whose guest `test` runs.
    pub fn with_volume(more: &str) -> Self {
        let place = Self::new("");
        let device = place.path("disk");
        fs::File::create(&device).unwrap().set_len(20 << 20).unwrap();
        let formatted = Command::new("cryptsetup")
            .args(["luksFormat", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"])
            .args([&device, &place.config()])
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{formatted:?}");
        let device = device.display();
        let text = format!("[host]\nlibvirt-uri = \"test:///default\"\n[volume.mail]\ndevice = \"{device}\"\n{more}");
        fs::write(place.config(), text).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// `virt-unlock --config … ARGS`
    pub fn run(&self, args: &str) -> Ran {
        self.finish(&mut self.command(WHOLE, args))
    }

    /// The same, not begun yet. It has a /run of its own, and is the process itself.
    pub fn command(&self, program: impl AsRef<OsStr>, args: &str) -> Command {
        self.in_shell(r#"mount -t tmpfs tmpfs /run && exec "$0" "$@""#, program, args)
    }

    pub fn in_shell(&self, script: &str, program: impl AsRef<OsStr>, args: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(program);
        command.arg("--config").arg(self.config()).args(args.split_whitespace());
        command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
        command
    }

    pub fn finish(&self, command: &mut Command) -> Ran {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Ran {
            status: status.code().unwrap(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
            left: fs::read_to_string(self.path("left")).unwrap_or_default(),
        }
    }

    /// Like [`Self::run`], and looks at what is below /run afterwards.
    pub fn run_and_look(&self, args: &str) -> Ran {
        let script = r#"mount -t tmpfs tmpfs /run && { "$0" "$@"; status=$?; find /run -mindepth 1 >"$LEFT"; exit $status; }"#;
        self.finish(self.in_shell(script, WHOLE, args).env("LEFT", self.path("left")))
    }

    /// As nobody in particular, who cannot look into the folders of whoever runs this test.
    pub fn run_as_nobody(&self, args: &str) -> Ran {
        let program = self.path("virt-unlock");
        if !program.exists() {
            fs::copy(WHOLE, &program).unwrap();
        }
        let script = r#"exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$0" "$@""#;
        self.finish(self.in_shell(script, program, args).current_dir("/"))
    }
}

/// A program without a configuration.
pub fn bare(program: &str, args: &[&str]) -> Ran {
    Place(tempfile::tempdir().unwrap()).finish(Command::new(program).args(args))
}

/// The characters that would move a cursor or change a colour.
pub fn controls(text: &str) -> String {
    text.chars().filter(|char| char.is_control() && *char != '\n').collect()
}

/// Its lines that begin with this word.
pub fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(word)).collect()
}

pub fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| Path::new(&folder).join(program).exists())
}
