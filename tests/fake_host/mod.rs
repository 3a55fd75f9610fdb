//! A whole host in memory: it keeps the promises of `virt_unlock::host::ports`, has faults on demand, and watches the laws that
//! no run may break (see [`FakeHost::assert_lawful`]). Nothing here waits for time to pass, only for something to happen.

#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc)] // each test file uses its own part of it

mod devices;
mod faults;
mod hypervisor;
pub mod masters;
mod person;
pub mod run;
pub mod tokens;
mod volumes;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use virt_unlock::cancel::Cancel;
use virt_unlock::facts::{DomainState, MountState};
use virt_unlock::host::{Header, Host, Keyslot};
use virt_unlock::monitor::Monitor;

pub use faults::Fault;
pub use person::Answer;
pub use world::{Hears, World};

use world::{FakeDomain, FakeVolume, What};

/// How long a test waits for what must happen before it says that it did not.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host. Clones are the same host.
#[derive(Clone)]
pub struct FakeHost(Arc<Monitor<World>>);

impl FakeHost {
    /// A host with plenty of memory and nothing on it.
    pub fn new() -> Self {
        Self(Arc::new(Monitor::new(World::default())))
    }

    /// The ports of it, libvirt included.
    pub fn ports(&self) -> Host {
        let this = Arc::new(self.clone());
        Host {
            devices: this.clone(),
            volumes: this.clone(),
            questions: this.clone(),
            mounts: this.clone(),
            network: this.clone(),
            hypervisor: Some(this),
        }
    }

    /// The ports of the half that runs without libvirt.
    pub fn ports_without_libvirt(&self) -> Host {
        Host {
            hypervisor: None,
            ..self.ports()
        }
    }

    /// Changes the host, and lets everybody who waits look again.
    pub fn set(&self, change: impl FnOnce(&mut World)) -> &Self {
        self.0.update(|world| {
            change(world);
            world.changes += 1;
        });
        self
    }

    /// Looks at the host.
    pub fn look<R>(&self, look: impl FnOnce(&World) -> R) -> R {
        self.0.look(look)
    }

    /// A LUKS volume at `/dev/vg0/NAME` that `passphrase` opens.
    pub fn volume(&self, name: &str, passphrase: &str) -> &Self {
        self.set(|world| {
            let volume = FakeVolume {
                there: true,
                keys: vec![passphrase.as_bytes().to_vec()],
                derived: masters::Derived::new(),
                header: Ok(Header {
                    version: 2,
                    uuid: format!("uuid-of-{name}"),
                    cipher: "aes".to_owned(),
                    keyslots: vec![Keyslot {
                        number: 0,
                        kdf: "argon2id".to_owned(),
                        memory_kib: 1 << 20,
                        cost: 4,
                        threads: 2,
                    }],
                    ..Header::default()
                }),
            };
            world.volumes.insert(name.to_owned(), volume);
        })
    }

    /// A domain that is off, set to autostart, with its disk on each of `volumes`: the raw device, or a file where the volume
    /// has a filesystem, at `/srv/VOLUME`.
    pub fn domain(&self, name: &str, volumes: &[&str], on_files: bool) -> &Self {
        let sources = volumes.iter().map(|volume| {
            if on_files {
                format!("/srv/{volume}/{name}.qcow2")
            } else {
                format!("/dev/mapper/{volume}")
            }
        });
        self.set(|world| {
            let domain = FakeDomain {
                state: DomainState::ShutOff,
                autostart: true,
                sources: sources.map(Into::into).collect(),
                late_sources: Vec::new(),
                needs: volumes.iter().map(|volume| ((*volume).to_owned(), on_files)).collect(),
                is_saved: false,
                cannot_resume: false,
                secrets: Vec::new(),
                networks: Vec::new(),
                has_agent: true,
                hears: Hears::Button(1),
                buttons: 0,
                survives_destroy: false,
            };
            world.domains.insert(name.to_owned(), domain);
        })
    }

    /// A disk of the domain that QEMU decrypts, at `/images/SECRET.qcow2`: by this secret of libvirt's, whose value is to be `passphrase`.
    pub fn encrypted(&self, domain: &str, secret: &str, passphrase: &str) -> &Self {
        let (image, passphrase) = (run::image_of(secret), passphrase.as_bytes().to_vec());
        self.set(|world| {
            world.images.insert(image.clone(), passphrase.clone());
            let domain = world.domains.get_mut(domain).unwrap();
            domain.secrets.push((secret.to_owned(), image, passphrase));
        })
    }

    /// The secrets that libvirt has.
    pub fn secrets(&self) -> Vec<String> {
        self.look(|world| world.secrets.keys().cloned().collect())
    }

    /// The next call of this name (`open mail`, `start web`, …) has this fault; several queue up.
    pub fn fault(&self, call: &str, fault: Fault) -> &Self {
        self.set(|world| world.fault(call, fault))
    }

    /// Calls of this name stay in the middle until [`FakeHost::release`] (or until they are cancelled).
    pub fn hold(&self, call: &str) -> &Self {
        self.set(|world| {
            world.held.insert(call.to_owned());
        })
    }

    /// Lets go what [`FakeHost::hold`] held.
    pub fn release(&self, call: &str) -> &Self {
        self.set(|world| {
            world.held.remove(call);
        })
    }

    /// What the person answers next for a volume. With nothing to say the person knows every passphrase, but see
    /// [`FakeHost::silent`].
    pub fn answers(&self, volume: &str, answers: &[Answer]) -> &Self {
        self.set(|world| {
            world
                .script
                .entry(volume.to_owned())
                .or_default()
                .extend(answers.iter().cloned());
        })
    }

    /// Nobody answers for this volume until there is something in its script.
    pub fn silent(&self, volume: &str) -> &Self {
        self.set(|world| {
            world.silent.insert(volume.to_owned());
        })
    }

    /// Waits until `seen`, and fails the test with the calls so far when it never comes.
    pub fn wait_until(&self, what: &str, seen: impl Fn(&World) -> bool) {
        let never = Cancel::new().unwrap();
        let waited = self.0.wait(Some(PATIENCE), &never, |world| seen(world).then_some(()));
        assert!(waited.is_ok(), "never came: {what}\n{}", self.log().join("\n"));
    }

    /// Waits until a call has begun this many times.
    pub fn wait_for_call(&self, call: &str, times: usize) {
        self.wait_until(call, |world| world.begun(call) >= times);
    }

    /// The names of all calls that change or ask something, in the order in which they began.
    pub fn log(&self) -> Vec<String> {
        self.look(|world| {
            world
                .log
                .iter()
                .filter(|(_, what)| *what == What::Begun)
                .map(|(call, _)| call.clone())
                .collect()
        })
    }

    /// How many times a call has begun.
    pub fn count(&self, call: &str) -> usize {
        self.look(|world| world.begun(call))
    }

    /// Where a call first ended well, among all beginnings and ends.
    pub fn when_done(&self, call: &str) -> Option<usize> {
        self.look(|world| {
            world
                .log
                .iter()
                .position(|(name, what)| name == call && *what == What::Worked)
        })
    }

    /// Where a call first began, among all beginnings and ends.
    pub fn when_begun(&self, call: &str) -> Option<usize> {
        self.look(|world| world.log.iter().position(|(name, what)| name == call && *what == What::Begun))
    }

    /// A domain's state.
    pub fn state_of(&self, domain: &str) -> DomainState {
        self.look(|world| world.domains[domain].state)
    }

    /// Whether a volume is open (as ours).
    pub fn is_open(&self, volume: &str) -> bool {
        self.look(|world| world.is_open(volume))
    }

    /// What is mounted there.
    pub fn mounted(&self, at: &str) -> MountState {
        self.look(|world| {
            world
                .mounts
                .get(Path::new(at))
                .cloned()
                .map_or(MountState::None, |(state, _)| state)
        })
    }

    /// What counts as the host's state in a comparison of two hosts: open volumes, mounts, domains, pools, secrets.
    pub fn shape(&self) -> String {
        self.look(|world| {
            let domains: Vec<_> = world.domains.iter().map(|(name, domain)| (name, domain.state)).collect();
            let secrets = world.secrets.keys();
            format!(
                "{:?} {:?} {:?} {secrets:?} {domains:?}",
                world.mappings.keys(),
                world.mounts,
                world.pools
            )
        })
    }

    /// No call broke a law: no two questions at once; no volume opened twice; no derivation beyond the memory; no domain started
    /// before each of its volumes was open and mounted; nothing foreign closed or unmounted; nothing unmounted or closed by force.
    pub fn assert_lawful(&self) {
        let broken = self.look(|world| world.broken.clone());
        assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), self.log().join("\n"));
    }
}
