//! Which volumes a domain lies on, from the places that its XML and its images name. One device has many spellings: they all
//! count as that device.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::config::{ByName, Config, Stop, Volume};
use crate::facts::{DevNum, DomainFacts, Mapping, Source, VolumeFacts};

/// Finds the configured volume that a place lies on.
pub struct Placement<'a> {
    tables: ByName<'a>,
    /// Where each volume stands in the configuration.
    places: HashMap<&'a str, usize>,
    open: BTreeMap<DevNum, &'a str>,
    mounts: BTreeMap<PathBuf, &'a str>,
    pools: BTreeMap<&'a str, &'a str>,
    save_folder: Option<&'static Path>,
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
            tables: config.by_name(),
            save_folder: config.host.save_folder(),
            places: of_volumes().enumerate().map(|(place, (_, name))| (name, place)).collect(),
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
    /// the whole answer for its disks.
    pub fn volumes_of(&self, domain: &DomainFacts) -> Vec<&'a str> {
        let table = self.tables.domain(&domain.name);
        // Where its memory is saved must be there as long as its disks.
        let saves = table.is_some_and(|table| table.stop == Stop::Save);
        let saved_to = self.save_folder.filter(|_| saves).and_then(|folder| self.by_mount(folder));
        if let Some(named) = table.and_then(|table| table.volumes.as_ref()) {
            let other = saved_to.filter(|volume| !named.iter().any(|name| name == volume));
            return named.iter().map(String::as_str).chain(other).collect();
        }
        let names = domain
            .sources
            .iter()
            .flat_map(|source| self.volumes_at(source))
            .chain(saved_to);
        let found: BTreeSet<(Option<usize>, &str)> = names.map(|name| (self.places.get(name).copied(), name)).collect();
        found.into_iter().map(|(_, name)| name).collect()
    }

    /// The volumes that one place lies on. A link on one volume may lead to another: both are needed.
    pub fn volumes_at(&self, source: &Source) -> impl Iterator<Item = &'a str> {
        let by_path = |path: &Path| self.by_mapper_name(path).or_else(|| self.by_mount(path));
        let by_number = source.number.and_then(|number| self.open.get(&number).copied());
        let by_pool = source.pool.as_ref().and_then(|pool| self.pools.get(pool.as_str()).copied());
        let found = [by_number, by_path(&source.path), by_path(&source.resolved), by_pool];
        found.into_iter().flatten()
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
        self.tables.volume(spelled).map(|volume| volume.name.as_str())
    }

    fn by_mount(&self, path: &Path) -> Option<&'a str> {
        path.ancestors().find_map(|above| self.mounts.get(above).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, DomainConfig, Mount};
    use crate::facts::DomainState;

    #[test]
    fn a_link_on_one_volume_to_another_needs_both() {
        let volumes = ["links", "data"].map(|name| {
            let mut volume = Volume::new(name, DeviceSpec::Path(format!("/dev/vg0/{name}").into()));
            volume.mount = Some(Mount {
                at: format!("/srv/{name}").into(),
                fstype: None,
                options: None,
            });
            volume
        });
        let config = Config {
            volumes: volumes.into(),
            ..Config::default()
        };
        let domain = DomainFacts {
            name: "web".to_owned(),
            uuid: "u".to_owned(),
            state: DomainState::ShutOff,
            autostart: true,
            sources: vec![Source {
                path: "/srv/links/web.qcow2".into(),
                resolved: "/srv/data/web.qcow2".into(),
                number: None,
                pool: None,
            }],
            ..DomainFacts::default()
        };
        let facts = BTreeMap::new();
        assert_eq!(Placement::new(&config, &facts).volumes_of(&domain), ["links", "data"]);
    }

    #[test]
    fn a_domain_that_is_saved_needs_the_volume_that_its_memory_lies_on() {
        let mut saves = Volume::new("saves", DeviceSpec::Path("/dev/vg0/saves".into()));
        saves.mount = Some(Mount {
            at: "/var/lib/libvirt/qemu".into(),
            fstype: None,
            options: None,
        });
        let mut table = DomainConfig::new("web");
        table.volumes = Some(vec!["data".to_owned()]);
        let mut config = Config {
            volumes: vec![saves, Volume::new("data", DeviceSpec::Path("/dev/vg0/data".into()))],
            domains: vec![table],
            ..Config::default()
        };
        let (domain, facts) = (
            DomainFacts {
                name: "web".to_owned(),
                ..DomainFacts::default()
            },
            BTreeMap::new(),
        );
        assert_eq!(Placement::new(&config, &facts).volumes_of(&domain), ["data"]);
        config.domains[0].stop = Stop::Save;
        assert_eq!(Placement::new(&config, &facts).volumes_of(&domain), ["data", "saves"]);
        config.domains[0].volumes = None;
        assert_eq!(Placement::new(&config, &facts).volumes_of(&domain), ["saves"]);
        config.host.libvirt_uri = "qemu:///session".to_owned();
        assert_eq!(Placement::new(&config, &facts).volumes_of(&domain), [""; 0]);
    }
}
