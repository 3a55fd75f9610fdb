//! LUKS and filesystems.

use std::path::Path;

use virt_unlock::cancel::Cancel;
use virt_unlock::config::{Master, Mount, Volume};
use virt_unlock::facts::MountState;
use virt_unlock::host::{CloseError, Header, Image, Key, MountError, Mounts, OpenError, User, Volumes};
use virt_unlock::secret::Secret;

use super::FakeHost;
use super::devices::volume_at;
use super::masters::memory_of;
use super::world::World;

impl World {
    /// Whether this key opens it, once the derivation is over.
    fn open(&mut self, volume: &Volume, device: &Path, key: &Key) -> Result<(), OpenError> {
        let name = volume_at(device);
        if !self.is_there(&name) {
            return Err(OpenError::DeviceGone(device.display().to_string()));
        }
        let bytes = self.bytes_of(&name, key)?;
        let fits = match key {
            Key::Token { .. } => true,
            Key::Derived { keyslot, .. } => self.volumes[&name].derived.get(keyslot) == Some(&bytes),
            _ => self.volumes[&name].keys.contains(&bytes),
        };
        if !fits {
            return Err(OpenError::WrongKey);
        }
        if self.mappings.contains_key(&volume.name) {
            return Err(OpenError::Exists(volume.name.clone()));
        }
        self.map(&volume.name, true);
        self.changes += 1;
        Ok(())
    }

    fn derive(&mut self, bytes: u64, begins: bool) {
        if begins {
            self.memory_taken += bytes;
            self.derivations += 1;
            self.most_derivations = self.most_derivations.max(self.derivations);
            if self.memory_taken > self.memory {
                self.broken.push("derivations took more memory than there is".to_owned());
            }
        } else {
            self.memory_taken -= bytes;
            self.derivations -= 1;
        }
    }
}

impl Volumes for FakeHost {
    fn probe(&self, volume: &Volume, device: &Path, cancel: &Cancel) -> Result<Header, OpenError> {
        let name = volume_at(device);
        self.call(&format!("probe {}", volume.name), cancel, |world| {
            Some(match world.volumes.get(&name).filter(|volume| volume.there) {
                Some(volume) => volume.header.clone(),
                None => Err(OpenError::DeviceGone(device.display().to_string())),
            })
        })
    }

    fn open(&self, volume: &Volume, device: &Path, key: &Key, cancel: &Cancel) -> Result<(), OpenError> {
        let bytes = self.0.update(|world| {
            if world
                .log
                .iter()
                .filter(|(call, _)| *call == format!("open {}", volume.name))
                .count()
                % 2
                == 1
            {
                world.broken.push(format!("two derivations for {} at once", volume.name));
            }
            let bytes = memory_of(&world.volumes[&volume_at(device)].header, key);
            world.derive(bytes, true);
            bytes
        });
        let result = self.call(&format!("open {}", volume.name), cancel, |world| {
            Some(world.open(volume, device, key))
        });
        self.0.update(|world| world.derive(bytes, false));
        result
    }

    fn probe_master(&self, master: &Master, cancel: &Cancel) -> Result<Header, OpenError> {
        self.call(&format!("probe master {}", master.name), cancel, |world| {
            Some(world.master_header(&master.name))
        })
    }

    fn open_master(&self, master: &Master, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError> {
        let bytes = self.0.update(|world| {
            let bytes = memory_of(&world.master_header(&master.name), key);
            world.derive(bytes, true);
            bytes
        });
        let result = self.call(&format!("open master {}", master.name), cancel, |world| {
            Some(world.open_master(&master.name, key))
        });
        self.0.update(|world| world.derive(bytes, false));
        result
    }

    fn probe_image(&self, image: &Image, cancel: &Cancel) -> Result<Header, OpenError> {
        self.call(&format!("probe {}", image.path.display()), cancel, |world| {
            Some(if world.images.contains_key(&image.path) {
                Ok(Header::default())
            } else {
                Err(OpenError::Header(format!("{} cannot be read", image.path.display())))
            })
        })
    }

    fn check_image(&self, image: &Image, passphrase: &Secret, cancel: &Cancel) -> Result<(), OpenError> {
        self.call(&format!("check {}", image.path.display()), cancel, |world| {
            Some(if world.images[&image.path] == passphrase.expose() {
                Ok(())
            } else {
                Err(OpenError::WrongKey)
            })
        })
    }

    fn read_key(&self, key: &Key, cancel: &Cancel) -> Result<Secret, OpenError> {
        self.call("read key", cancel, |world| {
            Some(world.bytes_of("a secret", key).map(|bytes| Secret::copy_of(&bytes)))
        })
    }

    fn close(&self, name: &str, cancel: &Cancel) -> Result<(), CloseError> {
        self.call(&format!("close {name}"), cancel, |world| Some(world.close(name)))
    }

    fn suspend(&self, volume: &Volume, cancel: &Cancel) -> Result<(), CloseError> {
        self.call(&format!("suspend {}", volume.name), cancel, |world| {
            world.suspended.insert(volume.name.clone());
            Some(Ok(()))
        })
    }
}

impl Mounts for FakeHost {
    fn mount(&self, volume: &Volume, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
        self.call(&format!("mount {}", volume.name), cancel, |world| {
            if !world.is_open(&volume.name) {
                return Some(Err(MountError::Other(format!("{} does not exist", volume.node().display()))));
            }
            if !world.mounts_that_lie.contains(&mount.at) {
                world.mounts.insert(mount.at.clone(), (MountState::Ours, volume.name.clone()));
                world.changes += 1;
            }
            Some(Ok(()))
        })
    }

    fn unmount(&self, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
        self.call(&format!("unmount {}", mount.at.display()), cancel, |world| {
            let Some((state, of)) = world.mounts.get(&mount.at).cloned() else {
                return Some(Ok(()));
            };
            if state != MountState::Ours {
                world
                    .broken
                    .push(format!("unmounted what is foreign at {}", mount.at.display()));
            }
            if world.users_of(&of).iter().any(|user| matches!(user, User::Process { .. })) {
                return Some(Err(MountError::Busy));
            }
            world.mounts.remove(&mount.at);
            world.changes += 1;
            Some(Ok(()))
        })
    }
}
