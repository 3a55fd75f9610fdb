//! What `check` finds at mount points.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Finding;
use crate::config::Volume;
use crate::facts::{Facts, MountState};
use crate::verbs::surroundings::Surroundings;

pub(super) fn of_mount(volume: &Volume, facts: &Facts, around: &Surroundings) -> Vec<Finding> {
    let Some(mount) = &volume.mount else { return Vec::new() };
    let (about, at) = (format!("mount {}", volume.name), mount.at.display());
    let mut found = Vec::new();
    if let MountState::Foreign(words) = mount_state(facts, volume) {
        found.push(Finding::error(
            &about,
            words,
            format!("umount {at}, or choose another mount point"),
        ));
    }
    if around.fstab_places.contains(&mount.at) {
        found.push(Finding::error(
            &about,
            format!("{at} is in /etc/fstab too: systemd would mount and unmount it at its own time"),
            "remove that line from /etc/fstab, then: systemctl daemon-reload",
        ));
    }
    if let Some(folder) = changed_by_others(&mount.at) {
        let folder = folder.display();
        found.push(Finding::warning(
            &about,
            format!("others than root can change {folder}, and so can lead {at} elsewhere: the mount would hide a folder of their choice"),
            format!("chown root: {folder}; chmod go-w {folder}; or choose another mount point"),
        ));
    }
    found
}

/// The folder nearest above a mount point in which somebody else could put something in the place of what leads there.
fn changed_by_others(at: &Path) -> Option<&Path> {
    let is_open = |path: &&Path| fs::metadata(path).is_ok_and(|found| found.uid() != 0 || found.mode() & 0o022 != 0);
    at.ancestors().skip(1).find(is_open)
}

pub(super) fn of_hidden_files(volume: &Volume, count: usize) -> Option<Finding> {
    let at = volume.mount.as_ref()?.at.display().to_string();
    (count > 0).then(|| {
        Finding::warning(
            format!("mount {}", volume.name),
            format!("{at} is not mounted and not empty ({count} files or folders): what lies there is on the unencrypted disk"),
            format!("look at {at} and move or delete what lies there"),
        )
    })
}

pub(super) fn mount_state(facts: &Facts, volume: &Volume) -> MountState {
    facts
        .volumes
        .get(&volume.name)
        .map(|found| found.mount.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_in_which_others_can_put_a_link_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        let at = open.join("closed/vm");
        fs::create_dir_all(&at).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&open, 0o775);
        // Whoever runs this test is the owner of all of it.
        let owner = fs::metadata(&at).unwrap().uid();
        let expected = if owner == 0 { open.clone() } else { open.join("closed") };
        assert_eq!(changed_by_others(&at), Some(expected.as_path()));
        // What is mounted lies over the last folder, whoever has it.
        mode(&open, 0o755);
        mode(&at, 0o777);
        assert!(changed_by_others(&at).is_none_or(|found| owner != 0 || !found.starts_with(&open)));
        assert_eq!(changed_by_others(Path::new("/srv")), None);
    }
}
