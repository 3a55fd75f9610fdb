//! Volumes that are to be opened in the initramfs.

use super::{Finding, Surroundings};
use crate::config::{Config, Unlock, Volume};

pub(super) fn of_initramfs(config: &Config, around: &Surroundings) -> Vec<Finding> {
    let volumes: Vec<&Volume> = config.volumes.iter().filter(|volume| volume.initramfs).collect();
    let Some(first) = volumes.first() else {
        return Vec::new();
    };
    let about = format!("volume {}", first.name);
    if !around.has_dracut {
        let remedy = "take `initramfs` out, or make the initramfs by dracut (its package replaces initramfs-tools)";
        return vec![Finding::warning(
            about,
            "is to be opened in the initramfs, and this host has no dracut: it is asked for later",
            remedy,
        )];
    }
    let mut found = Vec::new();
    if config.host.hold_login.is_zero() {
        found.push(Finding::warning(
            &about,
            "is to be opened in the initramfs, and with `hold-login = \"0\"` nobody is waited for there: it is asked for later",
            "set `hold-login` to the time that the initramfs may wait for answers",
        ));
    }
    for volume in volumes {
        let masters = config.masters.iter().filter(|master| volume.is_opened_by(&master.name));
        let mut ways = masters.flat_map(|master| &master.unlock).chain(&volume.unlock);
        if ways.any(|way| matches!(way, Unlock::KeyFile(file) if file.device.is_none())) {
            found.push(Finding::warning(
                format!("volume {}", volume.name),
                "its key file, or its master's, is copied into the initramfs: who can read /boot has the key",
                "keep /boot on an encrypted disk, or take `initramfs` out",
            ));
        }
        if volume.unlock.iter().any(|way| matches!(way, Unlock::Credential { .. })) {
            found.push(Finding::warning(
                format!("volume {}", volume.name),
                "its credential is not in the initramfs, unless a drop-in of virt-unlock-initramfs.service is: the next way is tried there",
                "take `initramfs` out, or bring a drop-in and the credential's file by dracut's install_items (dracut.conf(5))",
            ));
        }
    }
    found
}
