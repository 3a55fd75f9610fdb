//! The check of a filesystem before it is mounted, as systemd-fsck@.service(8) does it for those of fstab.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::config::{Mount, Volume};
use crate::host::MountError;
use crate::host::tool::{Failed, run};
use crate::monitor::Ended;

/// How long looking at a filesystem's beginning may take.
const LOOK: Duration = Duration::from_secs(30);
/// How long a check that is cancelled may need to leave the filesystem in order.
const GRACE: Duration = Duration::from_secs(10);
/// What fsck said that is worth repeating, in lines.
const LINES: usize = 3;
/// Where a program of an administrator may be, whatever PATH this process has (`su` without `-` leaves out the last ones).
const PATHS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Checks the filesystem on the open volume, and repairs what can be repaired without asking.
pub(super) fn check(volume: &Volume, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
    let node = volume.node();
    if !node.exists() {
        return Err(MountError::Other(format!(
            "{} is not there any more; `virt-unlock up {}` opens the volume again",
            node.display(),
            volume.name
        )));
    }
    let fstype = match &mount.fstype {
        Some(fstype) => Some(fstype.clone()),
        None => kind(&node, cancel)?,
    };
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mode = Mode::of(&line);
    let checkable = fstype.is_none_or(|fstype| exists(&format!("fsck.{fstype}")));
    if volume.flags.read_only || mode == Mode::Skip || !checkable {
        return Ok(());
    }
    let mut command = tool("fsck");
    command.args(["-a", "-T", "-l", "-M"]);
    if mode == Mode::Force {
        command.arg("-f");
    }
    command.arg(&node);
    match run(command, None, GRACE, cancel) {
        Ok(said) => judge(volume, said.status.code(), &said.words),
        Err(Failed::Ended(_)) => Err(MountError::Cancelled),
        // As systemd does where the program does not exist.
        Err(Failed::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(Failed::Io(error)) => Err(MountError::Other(format!("cannot run fsck for {}: {error}", node.display()))),
    }
}

/// `fsck.mode=` of the kernel's command line, kernel-command-line(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Auto,
    Force,
    Skip,
}

impl Mode {
    fn of(line: &str) -> Self {
        line.split_ascii_whitespace().fold(Self::Auto, |mode, word| match word {
            "fsck.mode=auto" => Self::Auto,
            "fsck.mode=force" | "forcefsck" => Self::Force,
            "fsck.mode=skip" | "fastboot" => Self::Skip,
            _ => mode,
        })
    }
}

/// What its exit status says, fsck(8).
fn judge(volume: &Volume, code: Option<i32>, words: &str) -> Result<(), MountError> {
    const CORRECTED: i32 = 1;
    const REBOOT_OR_UNCORRECTED: i32 = 2 | 4;
    let (name, node) = (&volume.name, volume.node());
    let said = end_of(words);
    match code {
        Some(code) if code & !CORRECTED == 0 => Ok(()),
        Some(code) if code & REBOOT_OR_UNCORRECTED != 0 => Err(MountError::NeedsRepair(format!(
            "run `fsck {}`, then `virt-unlock up {name}` (fsck said: {said})",
            node.display()
        ))),
        Some(code) => Err(MountError::Other(format!(
            "fsck of {} did not work (exit status {code}): {said}",
            node.display()
        ))),
        None => Err(MountError::Other(format!("fsck of {} was killed: {said}", node.display()))),
    }
}

fn end_of(words: &str) -> String {
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len() {
        0 => "nothing".to_owned(),
        count => lines[count.saturating_sub(LINES)..].join(" / "),
    }
}

/// What is on the device; `None`: it cannot be found out.
fn kind(node: &Path, cancel: &Cancel) -> Result<Option<String>, MountError> {
    let mut command = tool("blkid");
    // Low-level: udev knows nothing of a private volume.
    command.args(["-p", "-o", "export"]).arg(node);
    match run(command, Some(LOOK), Duration::ZERO, cancel) {
        Ok(said) => kind_of(node, said.status.code(), &said.words).map_err(MountError::Other),
        Err(Failed::Ended(Ended::Cancelled)) => Err(MountError::Cancelled),
        Err(Failed::Ended(Ended::TimedOut)) => Err(MountError::Other(format!(
            "the device {} did not answer within {} s",
            node.display(),
            LOOK.as_secs()
        ))),
        Err(Failed::Io(_)) => Ok(None),
    }
}

/// What blkid says, blkid(8).
fn kind_of(node: &Path, code: Option<i32>, words: &str) -> Result<Option<String>, String> {
    let value = |key: &str| words.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let node = node.display();
    match (code, value("TYPE"), value("USAGE")) {
        (Some(0), Some(fstype), Some("filesystem") | None) => Ok(Some(fstype.to_owned())),
        (Some(0), Some(other), _) => Err(format!(
            "there is no filesystem on {node} but {other}; leave out `mount` if guests use the volume as it is"
        )),
        (Some(2), ..) => Err(format!(
            "there is no filesystem on {node}; make one (`mkfs.ext4 {node}`), or leave out `mount` if guests use the volume as it is"
        )),
        (Some(8), ..) => Err(format!(
            "more than one kind of filesystem is on {node}; `wipefs {node}` shows which, or set the `type` of the mount"
        )),
        _ => Ok(None),
    }
}

fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", PATHS);
    command
}

/// Whether there is a program of this name that does something: a link to `true` stands for none (systemd src/shared/fsck-util.h).
fn exists(name: &str) -> bool {
    env::split_paths(PATHS).map(|folder: PathBuf| folder.join(name)).any(|file| {
        let runs = fs::metadata(&file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        runs && fs::canonicalize(&file).is_ok_and(|real| real.file_name().is_none_or(|name| name != "true"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSpec;

    fn volume() -> Volume {
        Volume::new("vm", DeviceSpec::Path("/dev/vg0/vm".into()))
    }

    #[test]
    fn a_clean_or_repaired_filesystem_is_fine() {
        assert_eq!(judge(&volume(), Some(0), ""), Ok(()));
        assert_eq!(judge(&volume(), Some(1), "repaired"), Ok(()));
    }

    #[test]
    fn what_a_person_must_decide_names_the_command() {
        let words = "vm: Inode 12 has illegal blocks.\n\nvm: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n\t(i.e., without -a or -p options)\n";
        for code in [2, 4, 5, 12] {
            let Err(MountError::NeedsRepair(said)) = judge(&volume(), Some(code), words) else {
                panic!("{code}")
            };
            assert!(said.contains("`fsck /dev/mapper/vm`"), "{said}");
            assert!(
                said.contains("Inode 12") && said.contains("UNEXPECTED INCONSISTENCY"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_check_that_did_not_work_is_no_repair() {
        for code in [Some(8), Some(16), Some(32), Some(128), None] {
            assert!(matches!(judge(&volume(), code, "x"), Err(MountError::Other(_))), "{code:?}");
        }
    }

    #[test]
    fn the_kernels_command_line_rules() {
        assert_eq!(Mode::of("root=/dev/vda rw"), Mode::Auto);
        assert_eq!(Mode::of("fsck.mode=skip quiet"), Mode::Skip);
        assert_eq!(Mode::of("fastboot fsck.mode=force"), Mode::Force);
    }

    #[test]
    fn what_is_no_filesystem_is_named() {
        let node = Path::new("/dev/mapper/vm");
        let ext4 = "DEVNAME=/dev/mapper/vm\nUUID=1\nVERSION=1.0\nTYPE=ext4\nUSAGE=filesystem\n";
        assert_eq!(kind_of(node, Some(0), ext4), Ok(Some("ext4".to_owned())));
        let lvm = "TYPE=LVM2_member\nUSAGE=raid\n";
        assert!(kind_of(node, Some(0), lvm).unwrap_err().contains("LVM2_member"));
        assert!(kind_of(node, Some(2), "").unwrap_err().contains("mkfs.ext4 /dev/mapper/vm"));
        assert!(kind_of(node, Some(8), "").unwrap_err().contains("wipefs"));
    }

    #[test]
    fn a_program_that_is_not_there_does_not_exist() {
        assert!(exists("sh"));
        assert!(!exists("fsck.no-such-filesystem"));
        assert!(!exists("true"));
    }
}
