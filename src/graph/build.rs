//! From the configuration and libvirt's domains to the graph.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::order::{self, Cycle};
use super::placement::Placement;
use super::{Graph, Layer, Need, Node};
use crate::config::{ByName, Config, Volume};
use crate::facts::{DomainFacts, Facts, LibvirtFacts, SecretId};

/// The graph of everything that is ours to bring up and down: all configured volumes with their mounts and, where libvirt was
/// asked, their pools, the secrets, the domains that need any of these and the domains that the configuration names.
///
/// # Errors
/// When layers need each other in a circle.
pub fn of(config: &Config, facts: &Facts) -> Result<Graph, Cycle> {
    let mut builder = Builder::default();
    for volume in &config.volumes {
        builder.add(Layer::Volume(volume.name.as_str().into()));
        if volume.mount.is_some() {
            builder.add(Layer::Mount(volume.name.as_str().into()));
        }
    }
    let tables = config.by_name();
    let mounts = mounts(config);
    for volume in &config.volumes {
        builder.connect_volume(&tables, &mounts, volume);
    }
    if let Some(libvirt) = &facts.libvirt {
        builder.add_pools(config);
        builder.add_domains(config, &tables, facts, libvirt);
    }
    order::sort(&builder.nodes)
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    places: HashMap<Layer, usize>,
}

impl Builder {
    fn add(&mut self, layer: Layer) {
        if !self.places.contains_key(&layer) {
            self.places.insert(layer.clone(), self.nodes.len());
            self.nodes.push(Node {
                layer,
                needs: Vec::new(),
            });
        }
    }

    fn need(&mut self, layer: &Layer, on: &Layer, kind: Need) {
        if let (Some(place), Some(need)) = (self.places.get(layer), self.places.get(on)) {
            self.nodes[*place].needs.push((*need, kind));
        }
    }

    fn connect_volume(&mut self, tables: &ByName<'_>, mounts: &HashMap<&Path, Vec<&str>>, volume: &Volume) {
        let this = Layer::Volume(volume.name.as_str().into());
        for after in volume.after.iter().filter_map(|name| tables.volume(name)) {
            // A key file or a header may lie on it, so it must be mounted too.
            self.need(&this, &top_of(after), Need::Requires);
        }
        let Some(mount) = &volume.mount else { return };
        let mounted = Layer::Mount(volume.name.as_str().into());
        self.need(&mounted, &this, Need::Requires);
        let outer = mount.at.ancestors().filter_map(|above| mounts.get(above)).flatten();
        for name in outer.filter(|name| **name != volume.name) {
            self.need(&mounted, &Layer::Mount((*name).into()), Need::Requires);
        }
    }

    fn add_pools(&mut self, config: &Config) {
        for volume in &config.volumes {
            for pool in &volume.pools {
                let pool = Layer::Pool(pool.as_str().into());
                self.add(pool.clone());
                self.need(&pool, &top_of(volume), Need::Requires);
            }
        }
    }

    /// A secret is looked at on the disks that it opens, so it waits for the volumes that all its domains lie on; not for those that
    /// only one of several lies on, or the others would wait for that one too.
    fn add_secrets(
        &mut self,
        config: &Config,
        tables: &ByName<'_>,
        placed: &BTreeMap<&str, Vec<&str>>,
        users: &BTreeMap<&str, Vec<&str>>,
    ) {
        for secret in &config.secrets {
            let this = Layer::Secret(secret.name.as_str().into());
            self.add(this.clone());
            let Some((first, others)) = users.get(secret.name.as_str()).and_then(|users| users.split_first()) else {
                continue;
            };
            let mut common: BTreeSet<&str> = placed[first].iter().copied().collect();
            for domain in others {
                common.retain(|volume| placed[domain].contains(volume));
            }
            for volume in common.into_iter().filter_map(|volume| tables.volume(volume)) {
                self.need(&this, &top_of(volume), Need::Requires);
            }
            for domain in std::iter::once(first).chain(others) {
                self.need(&Layer::Domain((*domain).into()), &this, Need::Requires);
            }
        }
    }

    fn add_domains(&mut self, config: &Config, tables: &ByName<'_>, facts: &Facts, libvirt: &LibvirtFacts) {
        let placement = Placement::new(config, &facts.volumes);
        let placed: BTreeMap<&str, Vec<&str>> = libvirt
            .domains
            .iter()
            .map(|domain| (domain.name.as_str(), placement.volumes_of(domain)))
            .collect();
        // The configuration's order first: it is the order that the person wrote down.
        let named = config
            .domains
            .iter()
            .map(|table| table.name.as_str())
            .filter(|name| placed.contains_key(name));
        let users = users_of_secrets(config, libvirt);
        let sealed: BTreeSet<&str> = users.values().flatten().copied().collect();
        let needing = placed
            .iter()
            .filter(|(name, volumes)| !volumes.is_empty() || sealed.contains(*name))
            .map(|(name, _)| *name);
        for name in named.chain(needing) {
            self.add(Layer::Domain(name.into()));
        }
        self.add_secrets(config, tables, &placed, &users);
        for (name, volumes) in &placed {
            let this = Layer::Domain((*name).into());
            for volume in volumes.iter().filter_map(|name| tables.volume(name)) {
                self.need(&this, &top_of(volume), Need::Requires);
                for pool in &volume.pools {
                    self.need(&this, &Layer::Pool(pool.as_str().into()), Need::Order);
                }
            }
            for after in tables.domain(name).into_iter().flat_map(|table| &table.after) {
                self.need(&this, &Layer::Domain(after.as_str().into()), Need::Order);
            }
        }
    }
}

/// The volumes that are mounted at each mount point.
fn mounts(config: &Config) -> HashMap<&Path, Vec<&str>> {
    let mut mounts: HashMap<&Path, Vec<&str>> = HashMap::new();
    for volume in &config.volumes {
        if let Some(mount) = &volume.mount {
            mounts.entry(&mount.at).or_default().push(&volume.name);
        }
    }
    mounts
}

/// For each configured secret the domains whose XML refers to it.
fn users_of_secrets<'a>(config: &'a Config, libvirt: &'a LibvirtFacts) -> BTreeMap<&'a str, Vec<&'a str>> {
    let names: BTreeMap<&SecretId, &str> = config
        .secrets
        .iter()
        .map(|secret| (&secret.id, secret.name.as_str()))
        .collect();
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let needed = |domain: &'a DomainFacts| domain.secrets.iter().map(|used| (domain.name.as_str(), &used.id));
    for (domain, id) in libvirt.domains.iter().flat_map(needed) {
        let Some(name) = names.get(id) else { continue };
        let users = users.entry(name).or_default();
        if users.last() != Some(&domain) {
            users.push(domain);
        }
    }
    users
}

/// What must be up before anything on the volume can be used.
fn top_of(volume: &Volume) -> Layer {
    let name: Arc<str> = volume.name.as_str().into();
    if volume.mount.is_some() {
        Layer::Mount(name)
    } else {
        Layer::Volume(name)
    }
}
