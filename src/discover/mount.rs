//! Where each volume's filesystem is mounted: by fstab(5), now, or by what is missed while it is closed. And what lies there.

use std::path::{Path, PathBuf};

use super::candidate::Candidate;
use super::guests;
use crate::config::{self, Mount, Unlock};
use crate::facts::LibvirtFacts;
use crate::facts::survey::{FstabLine, MountedAt, Survey};

/// Folders that a host needs for itself, beside those that no volume may be mounted at.
const OF_THE_HOST: [&str; 8] = [
    "/home",
    "/opt",
    "/nix",
    "/var/cache",
    "/var/spool",
    "/var/tmp",
    "/var/lib/libvirt",
    "/usr/local",
];

/// What the host itself has at this place; `None`: the place may be a volume's.
pub(super) fn is_of_host(at: &Path) -> bool {
    let refused = at.to_str().is_some_and(|text| config::mount_point(text).is_err());
    refused || at.starts_with("/boot") || OF_THE_HOST.iter().any(|place| at == Path::new(place))
}

/// The mounts of a candidate's open mapping.
pub(super) fn mounts<'a>(candidate: &Candidate<'_>, survey: &'a Survey) -> Vec<&'a MountedAt> {
    let number = candidate.mapping.map(|mapping| mapping.number);
    let of_it = survey.mounts.iter().filter(|mount| Some(mount.number) == number);
    of_it.collect()
}

/// The line of fstab(5) for the filesystem or the swap in a candidate.
pub(super) fn fstab_line<'a>(candidate: &Candidate<'_>, survey: &'a Survey) -> Option<&'a FstabLine> {
    let number = candidate.mapping.map(|mapping| mapping.number);
    let known = candidate.mapping.map(|mapping| &mapping.name);
    let names: Vec<&str> = known
        .into_iter()
        .chain(candidate.line.map(|line| &line.name))
        .map(String::as_str)
        .collect();
    survey.fstab.iter().find(|line| {
        let written = Path::new(&line.device);
        let by_link = line.device.strip_prefix("/dev/disk/by-id/dm-name-");
        let by_name = guests::mapper_name(written)
            .or(by_link)
            .is_some_and(|name| names.contains(&name));
        by_name || (number.is_some() && line.number == number)
    })
}

/// Gives every candidate its mount.
pub(super) fn give<'a>(candidates: &mut [Candidate<'a>], survey: &'a Survey, libvirt: Option<&LibvirtFacts>) {
    for candidate in candidates.iter_mut().filter(|candidate| !candidate.is_left()) {
        let mounts = mounts(candidate, survey);
        if let Some(line) = candidate.fstab {
            by_fstab(candidate, line, &mounts);
        } else if let Some(mount) = mounts.first() {
            candidate.volume.mount = Some(Mount {
                at: mount.at.clone(),
                fstype: None,
                options: mount.options.clone(),
            });
            candidate.doubts.push(format!(
                "it is mounted at {} now, by no line of /etc/fstab; if a mount unit of systemd does it, that must go",
                mount.at.display()
            ));
        }
        for other in mounts.iter().skip(1) {
            let (at, other) = (mounts[0].at.display(), other.at.display());
            candidate.doubts.push(format!(
                "its filesystem is mounted at {other} too; only {at} is mounted here, so that one needs a line of its own in fstab"
            ));
        }
    }
    if let Some(libvirt) = libvirt {
        give_missing(candidates, survey, libvirt);
        give_pools(candidates, libvirt);
    }
    for candidate in candidates.iter_mut().filter(|candidate| candidate.volume.mount.is_some()) {
        candidate.volume.flags.private = false;
    }
}

fn by_fstab(candidate: &mut Candidate<'_>, line: &FstabLine, mounts: &[&MountedAt]) {
    let lost = &mut candidate.lost_of_mount;
    let mut kept = Vec::new();
    for option in &line.options {
        match option.as_str() {
            "defaults" | "auto" | "nofail" | "_netdev" => {}
            "noauto" => lost.push("the option noauto: it is mounted whenever it is opened".to_owned()),
            _ if option.starts_with("x-") || option.starts_with("comment=") => {
                lost.push(format!("the option {option}: has no counterpart"));
            }
            _ => kept.push(option.as_str()),
        }
    }
    let options = (!kept.is_empty()).then(|| kept.join(","));
    // The type matters where something else than mount(8)'s own guess is meant.
    let fstype = Some(&line.fstype).filter(|fstype| options.is_some() && !["auto", ""].contains(&fstype.as_str()));
    candidate.volume.mount = Some(Mount {
        at: line.at.clone(),
        fstype: fstype.cloned(),
        options,
    });
    if !mounts.is_empty() && mounts.iter().all(|mount| mount.at != line.at) {
        let at = mounts[0].at.display();
        candidate.doubts.push(format!(
            "it is mounted at {at} now, but /etc/fstab has it at {}: which is right?",
            line.at.display()
        ));
    }
}

/// A closed volume that is called like a folder in which disks are missed is most likely mounted there.
fn give_missing<'a>(candidates: &mut [Candidate<'a>], survey: &'a Survey, libvirt: &LibvirtFacts) {
    let expected = guests::expected_names(survey, &libvirt.domains);
    for (folder, missing) in guests::missing_folders(survey, libvirt) {
        let last = folder.file_name().and_then(|name| name.to_str());
        let names: Vec<&str> = last.into_iter().chain(missing.pools.iter().map(String::as_str)).collect();
        let is_given = candidates
            .iter()
            .any(|candidate| mount_point(candidate) == Some(folder.as_path()));
        let mut fitting = candidates.iter_mut().filter(|candidate| {
            let is_called = |name: Option<&str>| name.is_some_and(|name| names.contains(&name));
            !candidate.is_left()
                && candidate.volume.mount.is_none()
                && candidate.mapping.is_none()
                && !expected.contains_key(&candidate.volume.name)
                && (is_called(Some(&candidate.volume.name))
                    || is_called(candidate.logical_volume())
                    || is_called(candidate.label()))
        });
        let (Some(candidate), None, false) = (fitting.next(), fitting.next(), is_given || is_of_host(&folder)) else {
            continue;
        };
        candidate.doubts.push(format!(
            "nothing is mounted at {}, where the disks of {} should be; that they are on this volume is told by its name alone, \
             it is closed now",
            folder.display(),
            missing.guests.join(", ")
        ));
        // Its line may name the filesystem inside by a UUID that nobody sees while the volume is closed.
        candidate.fstab = survey.fstab.iter().find(|line| line.at == folder);
        match candidate.fstab {
            Some(line) => by_fstab(candidate, line, &[]),
            None => {
                candidate.volume.mount = Some(Mount {
                    at: folder,
                    fstype: None,
                    options: None,
                });
            }
        }
    }
}

/// A pool belongs to the innermost mount that its folder lies below.
fn give_pools(candidates: &mut [Candidate<'_>], libvirt: &LibvirtFacts) {
    for (pool, folder) in &libvirt.pool_folders {
        let below = candidates.iter_mut().filter(|candidate| {
            let at = mount_point(candidate);
            !candidate.is_left() && at.is_some_and(|at| folder.starts_with(at))
        });
        let innermost = below.max_by_key(|candidate| mount_point(candidate).map_or(0, |at| at.as_os_str().len()));
        if let Some(candidate) = innermost {
            candidate.volume.pools.push(pool.clone());
        }
    }
}

pub(super) fn mount_point<'a>(candidate: &'a Candidate<'_>) -> Option<&'a Path> {
    candidate.volume.mount.as_ref().map(|mount| mount.at.as_path())
}

/// What lies on another volume's mount is opened after that one: a mount point, a key file, a header.
pub(super) fn order(candidates: &mut [Candidate<'_>]) {
    let outer: Vec<(String, PathBuf)> = candidates
        .iter()
        .filter(|candidate| !candidate.is_left())
        .filter_map(|candidate| Some((candidate.volume.name.clone(), mount_point(candidate)?.to_owned())))
        .collect();
    for candidate in candidates.iter_mut().filter(|candidate| !candidate.is_left()) {
        let volume = &candidate.volume;
        let key_files = volume.unlock.iter().filter_map(|way| match way {
            Unlock::KeyFile(file) if file.device.is_none() => Some(file.path.as_path()),
            _ => None,
        });
        let places: Vec<&Path> = key_files
            .chain(volume.header.as_deref())
            .chain(mount_point(candidate))
            .collect();
        let before = outer.iter().filter(|(name, at)| {
            *name != volume.name && places.iter().any(|place| place.starts_with(at) && *place != at.as_path())
        });
        candidate.volume.after = before.map(|(name, _)| name.clone()).collect();
    }
    settle(candidates);
    // What is opened by its name alone is not opened in the initramfs.
    for candidate in candidates.iter_mut().filter(|candidate| candidate.volume.noauto) {
        candidate.volume.initramfs = false;
    }
}

/// What cannot be said of a volume that is opened after another one's mount.
fn settle(candidates: &mut [Candidate<'_>]) {
    for candidate in candidates.iter_mut().filter(|candidate| !candidate.volume.after.is_empty()) {
        if std::mem::take(&mut candidate.volume.initramfs) {
            candidate
                .doubts
                .push("initramfs = true is left out: it lies on another volume's mount, and nothing is mounted there".to_owned());
        }
    }
    // One may wait for the next, so until nothing changes any more.
    loop {
        let named: Vec<String> = candidates
            .iter()
            .filter(|candidate| candidate.volume.noauto)
            .map(|candidate| candidate.volume.name.clone())
            .collect();
        let waits = |candidate: &&mut Candidate<'_>| {
            !candidate.volume.noauto && candidate.volume.after.iter().any(|name| named.contains(name))
        };
        let Some(candidate) = candidates.iter_mut().find(waits) else {
            return;
        };
        candidate.volume.noauto = true;
        candidate
            .doubts
            .push("noauto: a volume that it comes after has noauto; it is opened by its name alone".to_owned());
    }
}
