//! What else on this host has a hand in volumes, mounts and guests: read by `check` and `discover`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::host::tables;

/// crypttab(5), fstab(5), libvirt-guests.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Whether virt-unlock.service is pulled in by the boot.
    pub is_enabled: bool,
    /// Names in /etc/crypttab.
    pub crypttab_names: Vec<String>,
    /// Mount points in /etc/fstab.
    pub fstab_places: Vec<PathBuf>,
    /// Whether dracut is installed, which makes an initramfs with our module.
    pub has_dracut: bool,
    /// libvirt-guests.service is enabled and writes guests' memory to the disk.
    pub libvirt_guests_suspends: bool,
    /// Where that is set.
    pub libvirt_guests_file: PathBuf,
}

/// What is wrong with a key file, if anything.
pub(super) fn key_file_fault(path: &Path) -> Option<Fault> {
    match fs::metadata(path) {
        Ok(found) if found.mode() & 0o077 != 0 => Some(Fault::Open("others than its owner can read it")),
        Ok(found) if found.uid() != 0 => Some(Fault::Open("it does not belong to root")),
        Ok(_) => None,
        Err(error) => Some(Fault::Missing(error)),
    }
}

/// What is wrong with a key file.
#[derive(Debug)]
pub(super) enum Fault {
    /// Others than root can get at it.
    Open(&'static str),
    /// It cannot be read.
    Missing(std::io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(words) => f.write_str(words),
            Self::Missing(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

/// Which of these files, or of the directories that they lie in, others than root may write.
pub(super) fn writable_by_others<'a>(files: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    // A bare file name has an empty parent, and that means here.
    let parent = |file: &'a Path| match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
        other => other,
    };
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() != 0 || found.mode() & 0o022 != 0);
    files
        .flat_map(|file| [Some(file), parent(file)])
        .flatten()
        .filter(|path| is_open(path))
        .map(Path::to_owned)
        .collect()
}

impl Surroundings {
    /// Reads them all; what cannot be read counts as not there.
    pub fn read() -> Self {
        let wants = Path::new("/etc/systemd/system/multi-user.target.wants");
        let is_enabled = |unit: &str| wants.join(unit).symlink_metadata().is_ok();
        // Debian's and Red Hat's places (libvirt: tools/libvirt-guests.service.in, sysconfig).
        let settings = ["/etc/default/libvirt-guests", "/etc/sysconfig/libvirt-guests"].map(PathBuf::from);
        let file = settings.iter().find(|file| file.exists()).unwrap_or(&settings[0]).clone();
        let scripts = ["/usr/lib/libvirt/libvirt-guests.sh", "/usr/libexec/libvirt-guests.sh"].map(Path::new);
        let script = scripts
            .iter()
            .find_map(|script| fs::read_to_string(script).ok())
            .unwrap_or_default();
        let text = script + "\n" + &fs::read_to_string(&file).unwrap_or_default();
        let table = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let crypttab = tables::crypttab(&table(tables::CRYPTTAB));
        let fstab = tables::fstab(&table(tables::FSTAB));
        Self {
            is_enabled: is_enabled("virt-unlock.service"),
            has_dracut: ["/usr/bin/dracut", "/usr/sbin/dracut"]
                .iter()
                .any(|path| Path::new(path).exists()),
            crypttab_names: crypttab.into_iter().map(|line| line.name).collect(),
            fstab_places: fstab.into_iter().map(|line| line.at).collect(),
            libvirt_guests_suspends: is_enabled("libvirt-guests.service") && suspends(&text),
            libvirt_guests_file: file,
        }
    }
}

/// Whether libvirt-guests suspends, given its script, which sets its distribution's defaults, and the settings behind it.
fn suspends(text: &str) -> bool {
    let said = text
        .lines()
        .filter_map(|line| line.strip_prefix("ON_SHUTDOWN="))
        .next_back()
        .map(|value| value.trim().trim_matches(['"', '\'']));
    said.is_none_or(|value| value == "suspend")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_suspending_counts() {
        assert!(suspends(
            "ON_SHUTDOWN=\"suspend\"\n    ON_SHUTDOWN=shutdown\n#ON_SHUTDOWN=shutdown\n"
        ));
        assert!(!suspends("ON_SHUTDOWN=suspend\nON_SHUTDOWN=\"shutdown\"\n"));
    }
}
