//! Devices, mappings, mounts, users.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use virt_unlock::cancel::Cancel;
use virt_unlock::config::{DeviceSpec, Mount, Volume};
use virt_unlock::facts::{Device, Mapping, MountState};
use virt_unlock::host::{Devices, User};

use super::FakeHost;
use super::world::World;

/// The volume whose device this is.
pub(super) fn volume_at(device: &Path) -> String {
    device.file_name().unwrap().to_str().unwrap().to_owned()
}

impl World {
    pub(super) fn is_there(&self, volume: &str) -> bool {
        self.volumes.get(volume).is_some_and(|volume| volume.there)
    }
}

impl Devices for FakeHost {
    fn find(&self, spec: &DeviceSpec) -> Option<Device> {
        let DeviceSpec::Path(path) = spec else { return None };
        let there = self
            .look(|world| world.is_there(&volume_at(path)) || world.files.contains_key(path) || world.sticks.contains_key(path));
        there.then(|| Device {
            path: path.clone(),
            number: None,
        })
    }

    fn mapping(&self, volume: &Volume, _: Option<&Device>) -> Mapping {
        self.look(|world| match world.mappings.get(&volume.name) {
            None => Mapping::None,
            Some(_) if world.suspended.contains(&volume.name) => Mapping::Foreign("is suspended".to_owned()),
            Some((true, number)) => Mapping::Open(*number),
            Some((false, _)) => Mapping::Foreign(format!("/dev/mapper/{} is not this volume", volume.name)),
        })
    }

    fn has_node(&self, volume: &Volume) -> bool {
        self.look(|world| world.mappings.contains_key(&volume.name) && !world.nodes_missing.contains(&volume.name))
    }

    fn mount_state(&self, mount: &Mount, _: &Mapping) -> MountState {
        self.look(|world| {
            world
                .mounts
                .get(&mount.at)
                .map_or(MountState::None, |(state, _)| state.clone())
        })
    }

    fn running_guests(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let runs = |world: &World, name: &str| world.domains.get(name).is_some_and(|domain| domain.state.is_active());
        self.set(|world| world.looks_at_users += 1);
        self.look(|world| names.iter().filter(|name| runs(world, name)).cloned().collect())
    }

    fn entries_below(&self, at: &Path) -> usize {
        self.look(|world| world.shadows.get(at).copied().unwrap_or(0))
    }

    fn users(&self, volume: &Volume) -> Vec<User> {
        self.0.update(|world| {
            world.looks_at_users += 1;
            if let Some(left) = world.users_leave_after.get_mut(&volume.name) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    world.users.remove(&volume.name);
                }
            }
            let mut users = world.users_of(&volume.name);
            let at = |path: &PathBuf| User::Mounted {
                at: path.clone(),
                namespace_of: None,
            };
            users.extend(
                world
                    .mounts
                    .iter()
                    .filter(|(_, (_, of))| *of == volume.name)
                    .map(|(path, _)| at(path)),
            );
            users
        })
    }

    fn clear_disk(&self, path: &Path) -> Option<String> {
        let words = || format!("{} lies on /dev/sda1, which is not encrypted", path.display());
        self.look(|world| world.save_in_the_clear.then(words))
    }

    fn memory_available(&self) -> u64 {
        self.look(|world| world.memory.saturating_sub(world.memory_taken))
    }

    fn wait_for_change(&self, limit: Duration, cancel: &Cancel) {
        // How it ended is for the caller to see: it reads everything again.
        let _ = self.0.wait(Some(limit), cancel, |world| {
            let changed = world.changes != world.noticed;
            world.noticed = world.changes;
            changed.then_some(())
        });
    }
}
