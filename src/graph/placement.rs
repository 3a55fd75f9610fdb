//! Which volumes a domain lies on, from the places that its XML and its images name. One device has many spellings: they all
//! count as that device.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::config::{Config, Volume};
use crate::facts::{DevNum, DomainFacts, Mapping, Source, VolumeFacts};

/// Finds the configured volume that a place lies on.
pub struct Placement<'a> {
    config: &'a Config,
    open: BTreeMap<DevNum, &'a str>,
    mounts: BTreeMap<PathBuf, &'a str>,
    pools: BTreeMap<&'a str, &'a str>,
}

impl<'a> Placement<'a> {
    /// From the configuration, and from what is open now (device numbers mean nothing for a closed volume).
    pub fn new(config: &'a Config, volumes: &'a BTreeMap<String, VolumeFacts>) -> Self {
        let number = |volume: &Volume| match volumes.get(&volume.name)?.mapping {
            Mapping::Open(number) => Some(number),
            _ => None,
        };
        let of_volumes = || config.volumes.iter().map(|volume| (volume, volume.name.as_str()));
        Self {
            config,
            open: of_volumes()
                .filter_map(|(volume, name)| Some((number(volume)?, name)))
                .collect(),
            mounts: of_volumes()
                .filter_map(|(volume, name)| Some((volume.mount.as_ref()?.at.clone(), name)))
                .collect(),
            pools: of_volumes()
                .flat_map(|(volume, name)| volume.pools.iter().map(move |pool| (pool.as_str(), name)))
                .collect(),
        }
    }

    /// The volumes that a domain needs, in the order of the configuration. Its own table's `volumes`, where it has them, are
    /// the whole answer.
    pub fn volumes_of(&self, domain: &DomainFacts) -> Vec<&'a str> {
        if let Some(named) = self.config.domain(&domain.name).and_then(|table| table.volumes.as_ref()) {
            return named.iter().map(String::as_str).collect();
        }
        let found: BTreeSet<&str> = domain.sources.iter().filter_map(|source| self.volume_of(source)).collect();
        self.config
            .volumes
            .iter()
            .map(|volume| volume.name.as_str())
            .filter(|name| found.contains(name))
            .collect()
    }

    fn volume_of(&self, source: &Source) -> Option<&'a str> {
        let by_number = source.number.and_then(|number| self.open.get(&number).copied());
        let by_pool = || source.pool.as_ref().and_then(|pool| self.pools.get(pool.as_str()).copied());
        by_number
            .or_else(|| self.by_mapper_name(&source.path))
            .or_else(|| self.by_mapper_name(&source.resolved))
            .or_else(|| self.by_mount(&source.path))
            .or_else(|| self.by_mount(&source.resolved))
            .or_else(by_pool)
    }

    /// `/dev/mapper/NAME` and udev's two links that carry the name (60-persistent-storage-dm.rules).
    fn by_mapper_name(&self, path: &Path) -> Option<&'a str> {
        let spelled = if let Ok(name) = path.strip_prefix("/dev/mapper") {
            name.to_str()?
        } else {
            let link = path.strip_prefix("/dev/disk/by-id").ok()?.to_str()?;
            match link.strip_prefix("dm-name-") {
                Some(name) => name,
                // dm-uuid-CRYPT-LUKS2-<32 digits>-NAME
                None => link.strip_prefix("dm-uuid-CRYPT-LUKS")?.splitn(3, '-').nth(2)?,
            }
        };
        self.config.volume(spelled).map(|volume| volume.name.as_str())
    }

    fn by_mount(&self, path: &Path) -> Option<&'a str> {
        path.ancestors().find_map(|above| self.mounts.get(above).copied())
    }
}
