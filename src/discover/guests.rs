//! What the guests' definitions say of volumes that are closed now: names that they expect, folders that should not be empty.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::facts::survey::Survey;
use crate::facts::{DomainFacts, LibvirtFacts, Source};

/// NAME in `/dev/mapper/NAME`.
pub(super) fn mapper_name(path: &Path) -> Option<&str> {
    let name = path.strip_prefix("/dev/mapper").ok()?.to_str()?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// Names below `/dev/mapper` that guests use and that nothing has now, each with the guests that use it.
pub(super) fn expected_names(survey: &Survey, domains: &[DomainFacts]) -> BTreeMap<String, Vec<String>> {
    let is_there = |name: &str| survey.other_names.contains(name) || survey.mappings.iter().any(|mapping| mapping.name == name);
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for domain in domains {
        let names = domain.sources.iter().filter_map(|source| mapper_name(&source.path));
        for name in names.filter(|name| !is_there(name)) {
            let guests = expected.entry(name.to_owned()).or_default();
            if !guests.contains(&domain.name) {
                guests.push(domain.name.clone());
            }
        }
    }
    expected
}

/// A folder in which disks of guests should be and are not, so that most likely a filesystem is to be mounted there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// The guests whose disks are missed there.
    pub guests: Vec<String>,
    /// The storage pools that it is.
    pub pools: Vec<String>,
}

/// All such folders: the mount point that fstab(5) has above the disk, else the folder of a pool, else the disk's own folder.
pub(super) fn missing_folders(survey: &Survey, libvirt: &LibvirtFacts) -> BTreeMap<PathBuf, Missing> {
    let mut folders: BTreeMap<PathBuf, Missing> = BTreeMap::new();
    for domain in &libvirt.domains {
        for folder in domain
            .sources
            .iter()
            .filter_map(|source| missing_folder(survey, libvirt, source))
        {
            let pools = libvirt.pool_folders.iter().filter(|(_, at)| **at == folder);
            let pools = pools.map(|(name, _)| name.clone()).collect();
            let missing = folders.entry(folder).or_insert(Missing {
                guests: Vec::new(),
                pools,
            });
            if !missing.guests.contains(&domain.name) {
                missing.guests.push(domain.name.clone());
            }
        }
    }
    folders
}

fn missing_folder(survey: &Survey, libvirt: &LibvirtFacts, source: &Source) -> Option<PathBuf> {
    let path = &source.path;
    let place = survey.places.get(path)?;
    if place.exists || path.starts_with("/dev") || !path.is_absolute() {
        return None;
    }
    let longest = |places: &mut dyn Iterator<Item = &Path>| -> Option<PathBuf> {
        let above = places.filter(|at| path.starts_with(at) && at.parent().is_some());
        above.max_by_key(|at| at.as_os_str().len()).map(Path::to_owned)
    };
    let folder = longest(&mut survey.fstab.iter().map(|line| line.at.as_path()))
        .or_else(|| longest(&mut libvirt.pool_folders.values().map(PathBuf::as_path)))
        .or_else(|| path.parent().map(Path::to_owned))?;
    // Something is mounted there: then the disk is missing for another reason.
    let is_mounted = place.mount.as_ref().is_some_and(|mount| mount.starts_with(&folder));
    (!is_mounted).then_some(folder)
}
