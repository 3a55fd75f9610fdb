//! Unmounting, by the system call and not by the unit: at shutdown systemd's own stop of the unit still waits for others, and
//! somebody waits for us; and it works where systemd does not answer.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::aside::aside;
use super::bus::{Bus, BusError};
use super::{LOOK_AGAIN, name};
use crate::cancel::Cancel;
use crate::config::Mount;
use crate::host::MountError;

/// How long systemd may take to see that a mount is gone.
const SEEN: Duration = Duration::from_secs(5);

/// Unmounts the topmost filesystem at the mount point; the caller has seen that it is ours.
///
/// It acts on this process's mount namespace: with a private one (`PrivateMounts=`, `ProtectSystem=` and the like in the service)
/// the host's own mount would stay, and the volume busy.
pub(super) fn unmount(mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
    let at = mount.at.clone();
    // Writing out what is dirty takes as long as it takes, uninterruptibly; a thread that is left behind with it only completes it.
    let work = move || umount2(&at, MntFlags::UMOUNT_NOFOLLOW);
    let result = aside(None, cancel, work).map_err(|_| MountError::Cancelled)?;
    judge(&mount.at, result)?;
    settle(&mount.at, cancel);
    Ok(())
}

fn judge(at: &Path, result: nix::Result<()>) -> Result<(), MountError> {
    match result {
        // EINVAL: not a mount point; nothing is mounted at a path that does not exist.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(Errno::EBUSY) => Err(MountError::Busy),
        Err(Errno::EPERM) => Err(MountError::Other(format!("only root may unmount {}", at.display()))),
        Err(error) => Err(MountError::Other(format!(
            "cannot unmount {}: {}",
            at.display(),
            error.desc()
        ))),
    }
}

/// Waits until systemd has seen it, so that a mount right after this does not meet the dying unit. Where that cannot be
/// found out it is let go: the filesystem is unmounted all the same.
fn settle(at: &Path, cancel: &Cancel) {
    let Ok(unit) = name::of_mount(at) else { return };
    let flag = cancel.clone();
    // Late in a shutdown the message bus may take a connection and never answer.
    let _ = aside(Some(SEEN), cancel, move || {
        let deadline = Instant::now() + SEEN;
        let is_down = |bus: &Bus| Ok::<_, BusError>(bus.unit(&unit, &flag)?.is_down());
        let Ok(bus) = Bus::connect(Duration::ZERO, &flag) else {
            return;
        };
        while matches!(is_down(&bus), Ok(false)) && Instant::now() < deadline && !flag.wait(LOOK_AGAIN) {}
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_is_unmounted() {
        let cancel = Cancel::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for at in [dir.path().to_owned(), dir.path().join("missing")] {
            let result = umount2(&at, MntFlags::UMOUNT_NOFOLLOW);
            // An ordinary user hears EPERM for a plain directory too.
            if nix::unistd::geteuid().is_root() {
                assert_eq!(judge(&at, result), Ok(()));
            }
        }
        assert_eq!(judge(dir.path(), Err(Errno::EBUSY)), Err(MountError::Busy));
        cancel.raise();
        let mount = Mount {
            at: dir.path().to_owned(),
            fstype: None,
            options: None,
        };
        assert_eq!(unmount(&mount, &cancel), Err(MountError::Cancelled));
    }
}
