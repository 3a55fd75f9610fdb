//! libvirt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use virt_unlock::cancel::Cancel;
use virt_unlock::facts::{DomainFacts, DomainState, LibvirtFacts, PoolState, SecretFacts, SecretId, SecretUse, Source};
use virt_unlock::host::{Hypervisor, HypervisorError, Network, ShutdownMode};
use virt_unlock::secret::Secret;

use super::FakeHost;
use super::world::{FakeDomain, Hears, World};

type Result<T> = std::result::Result<T, HypervisorError>;

fn name_of(uuid: &str) -> &str {
    uuid.strip_prefix("uuid-of-").unwrap()
}

impl World {
    fn answers(&mut self) -> Result<()> {
        if self.libvirt_away > 0 {
            self.libvirt_away -= 1;
            return Err(HypervisorError::Unavailable("Connection refused".to_owned()));
        }
        Ok(())
    }

    fn facts_of(&self, name: &str, domain: &FakeDomain) -> DomainFacts {
        // Each image of the chain is named by the one above it, which can be read while it is mounted.
        let above = domain.sources.last().into_iter().chain(&domain.late_sources);
        let readable = |(above, _): &(&PathBuf, &PathBuf)| {
            let volume = above.strip_prefix("/srv").ok().and_then(|path| path.iter().next()?.to_str());
            volume.is_some_and(|volume| self.is_mounted(volume))
        };
        let late = above.zip(&domain.late_sources).take_while(readable).map(|(_, path)| path);
        let paths = domain.sources.iter().chain(late);
        let source = |path: &PathBuf| Source {
            path: path.clone(),
            resolved: path.clone(),
            number: path
                .strip_prefix("/dev/mapper")
                .ok()
                .and_then(|volume| self.mappings.get(volume.to_str()?))
                .map(|(_, number)| *number),
            pool: None,
        };
        let used = |(secret, image, _): &(String, PathBuf, Vec<u8>)| SecretUse {
            id: SecretId::of(secret),
            // Of that on another host libvirt knows no path.
            image: Some(image.clone()).filter(|_| !secret.starts_with("rbd:")),
            format: Some("qcow2".to_owned()),
        };
        DomainFacts {
            name: name.to_owned(),
            uuid: format!("uuid-of-{name}"),
            state: domain.state,
            autostart: domain.autostart,
            sources: paths.map(source).collect(),
            is_saved: domain.is_saved && !self.saves_not_known,
            has_agent: domain.has_agent,
            secrets: domain.secrets.iter().map(used).collect(),
            ..DomainFacts::default()
        }
    }

    fn start(&mut self, name: &str) -> Result<()> {
        self.answers()?;
        let Some(domain) = self.domains.get(name) else {
            return Err(HypervisorError::NotFound(format!("no domain {name}")));
        };
        for (volume, files) in &domain.needs {
            let ready = self.is_open(volume) && !self.nodes_missing.contains(volume) && (!files || self.is_mounted(volume));
            if self.volumes.contains_key(volume) && !ready {
                self.broken.push(format!("{name} was started before {volume} was ready"));
            }
        }
        for (secret, _, passphrase) in &domain.secrets {
            match self.secrets.get(secret) {
                None => return Err(HypervisorError::Refused(format!("no secret {secret}"))),
                Some((_, value)) if value != passphrase => {
                    let words = "Invalid password, cannot unlock any keyslot".to_owned();
                    return Err(HypervisorError::WrongSecret(words));
                }
                Some(_) => {}
            }
        }
        if let Some(domain) = self.domains.get_mut(name) {
            domain.state = DomainState::Running;
            domain.buttons = 0;
            domain.is_saved = false;
        }
        Ok(())
    }

    fn shut_down(&mut self, name: &str, mode: ShutdownMode) -> Result<()> {
        self.answers()?;
        let Some(domain) = self.domains.get_mut(name) else {
            return Ok(());
        };
        domain.buttons += usize::from(mode == ShutdownMode::Acpi);
        let heard = match (domain.hears, mode) {
            _ if matches!(domain.state, DomainState::Paused(_) | DomainState::PmSuspended) => false,
            (Hears::Button(nth), ShutdownMode::Acpi) => domain.buttons >= nth,
            (Hears::Agent, ShutdownMode::Agent) => true,
            (Hears::Button(_) | Hears::Nothing, ShutdownMode::Agent) => {
                return Err(HypervisorError::NoAgent("not connected".to_owned()));
            }
            (Hears::Agent | Hears::Nothing, ShutdownMode::Acpi) => false,
        };
        if heard {
            domain.state = DomainState::ShutOff;
        }
        Ok(())
    }
}

impl Network for FakeHost {
    fn connect(&self, host: &str, port: u16, cancel: &Cancel) -> std::result::Result<(), String> {
        self.call(&format!("connect {host}:{port}"), cancel, |_| Some(Ok(())))
    }
}

impl Hypervisor for FakeHost {
    fn facts(&self, _: &Cancel) -> Result<LibvirtFacts> {
        self.0.update(|world| {
            world.answers()?;
            Ok(LibvirtFacts {
                domains: world
                    .domains
                    .iter()
                    .map(|(name, domain)| world.facts_of(name, domain))
                    .collect(),
                pools: world.pools.clone(),
                secrets: match world.secrets_error {
                    None => world.secrets.iter().map(secret_facts).collect(),
                    Some(_) => Vec::new(),
                },
                secrets_error: world.secrets_error.clone(),
                ..LibvirtFacts::default()
            })
        })
    }

    fn domain(&self, uuid: &str, cancel: &Cancel) -> Result<Option<DomainFacts>> {
        let name = name_of(uuid);
        self.call(&format!("domain {name}"), cancel, |world| {
            Some(
                world
                    .answers()
                    .map(|()| world.domains.get(name).map(|domain| world.facts_of(name, domain))),
            )
        })
    }

    fn state(&self, uuid: &str, cancel: &Cancel) -> Result<Option<DomainState>> {
        let name = name_of(uuid);
        self.call(&format!("state {name}"), cancel, |world| {
            if world.left_behind.contains(name) && world.held.contains(&format!("start {name}")) {
                return None;
            }
            if world.left_behind.remove(name) {
                let _ = world.start(name);
            }
            Some(world.answers().map(|()| world.domains.get(name).map(|domain| domain.state)))
        })
    }

    fn start_networks(&self, uuid: &str, cancel: &Cancel) -> Result<Vec<String>> {
        let name = name_of(uuid);
        self.call(&format!("networks {name}"), cancel, |world| {
            let answer = world.answers();
            Some(answer.map(|()| {
                let domain = world.domains.get_mut(name);
                domain.map_or_else(Vec::new, |domain| std::mem::take(&mut domain.networks))
            }))
        })
    }

    fn start(&self, uuid: &str, cancel: &Cancel) -> Result<bool> {
        let name = name_of(uuid);
        let call = format!("start {name}");
        let is_saved = |world: &World| world.domains.get(name).is_some_and(|domain| domain.is_saved);
        let result = self.call(&call, cancel, |world| {
            let saved = is_saved(world);
            Some(world.start(name).map(|()| saved))
        });
        if result == Err(HypervisorError::Cancelled) {
            self.0
                .update(|world| world.held.contains(&call).then(|| world.left_behind.insert(name.to_owned())));
        }
        result
    }

    fn set_secret(&self, secret: &SecretId, value: &Secret, cancel: &Cancel) -> Result<()> {
        let (name, value) = (secret.to_string(), value.expose().to_vec());
        self.call(&format!("set secret {name}"), cancel, |world| {
            let answer = world.answers();
            if let (Ok(()), Some((false, _))) = (&answer, world.secrets.get(&name)) {
                world.broken.push(format!("the secret {name} was written to the disk"));
            }
            Some(answer.map(|()| drop(world.secrets.insert(name.clone(), (true, value.clone())))))
        })
    }

    fn forget_secret(&self, secret: &SecretId, cancel: &Cancel) -> Result<()> {
        let name = secret.to_string();
        self.call(&format!("forget secret {name}"), cancel, |world| {
            let answer = world.answers();
            Some(answer.map(|()| {
                if world.secrets.get(&name).is_some_and(|(ephemeral, _)| *ephemeral) {
                    world.secrets.remove(&name);
                }
            }))
        })
    }

    fn ping_agent(&self, uuid: &str, cancel: &Cancel) -> Result<()> {
        let name = name_of(uuid);
        self.call(&format!("ping {name}"), cancel, |world| {
            let answer = world.answers();
            let runs = world.domains.get(name).is_some_and(|domain| domain.state.is_active());
            Some(answer.and_then(|()| {
                if runs {
                    Ok(())
                } else {
                    Err(HypervisorError::NoAgent("not running".to_owned()))
                }
            }))
        })
    }

    fn save(&self, uuid: &str, _: Duration, cancel: &Cancel) -> Result<()> {
        let name = name_of(uuid);
        self.call(&format!("save {name}"), cancel, |world| {
            if let Err(error) = world.answers() {
                return Some(Err(error));
            }
            if world.save_in_the_clear {
                world.broken.push(format!("{name} was saved to a disk in the clear"));
            }
            if let Some(domain) = world.domains.get_mut(name).filter(|domain| domain.state.is_active()) {
                (domain.state, domain.is_saved) = (DomainState::ShutOff, true);
            }
            Some(Ok(()))
        })
    }

    fn resume(&self, uuid: &str, cancel: &Cancel) -> Result<()> {
        let name = name_of(uuid);
        self.call(&format!("resume {name}"), cancel, |world| {
            if let Some(domain) = world.domains.get_mut(name).filter(|domain| !domain.cannot_resume) {
                domain.state = DomainState::Running;
            }
            Some(Ok(()))
        })
    }

    fn request_shutdown(&self, uuid: &str, mode: ShutdownMode, cancel: &Cancel) -> Result<()> {
        let name = name_of(uuid);
        let how = if mode == ShutdownMode::Agent { "agent" } else { "button" };
        self.call(&format!("{how} {name}"), cancel, |world| Some(world.shut_down(name, mode)))
    }

    fn destroy(&self, uuid: &str, cancel: &Cancel) -> Result<()> {
        let name = name_of(uuid);
        self.call(&format!("destroy {name}"), cancel, |world| {
            if let Err(error) = world.answers() {
                return Some(Err(error));
            }
            if let Some(domain) = world.domains.get_mut(name).filter(|domain| !domain.survives_destroy) {
                domain.state = DomainState::ShutOff;
            }
            Some(Ok(()))
        })
    }

    fn start_pool(&self, name: &str, cancel: &Cancel) -> Result<()> {
        self.call(&format!("start pool {name}"), cancel, |world| {
            let answer = world.answers();
            if answer.is_ok() {
                world.pools.insert(name.to_owned(), PoolState::Active);
            }
            Some(answer)
        })
    }

    fn stop_pool(&self, name: &str, cancel: &Cancel) -> Result<()> {
        self.call(&format!("stop pool {name}"), cancel, |world| {
            let answer = world.answers();
            if answer.is_ok() {
                world.pools.insert(name.to_owned(), PoolState::Inactive);
            }
            Some(answer)
        })
    }
}

fn secret_facts((name, (ephemeral, _)): (&String, &(bool, Vec<u8>))) -> SecretFacts {
    let (uuid, usage) = match SecretId::of(name) {
        SecretId::Uuid(uuid) => (uuid, None),
        SecretId::Usage(usage) => (format!("uuid-of-{usage}"), Some(usage)),
    };
    let ephemeral = *ephemeral;
    SecretFacts { uuid, usage, ephemeral }
}

/// Where a test's volume is mounted.
pub fn mount_point(volume: &str) -> PathBuf {
    Path::new("/srv").join(volume)
}
