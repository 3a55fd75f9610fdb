//! libvirt behind the port [`Hypervisor`]. It belongs to the main program alone: nothing else links libvirt's library.
//!
//! Domains and pools are looked up afresh in each call, domains by their UUID. Each call has a thread of its own and a limit
//! ([`calls`]). What ran already, or was off already, is judged by asking libvirt again and not by the words of its error: a
//! paused domain "is not running" too for some of its calls.

mod calls;
mod errors;
mod facts;
mod lanes;
mod networks;
mod secrets;
#[cfg(test)]
mod tests;

use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::sys;
use virt_unlock::cancel::Cancel;
use virt_unlock::facts::{DomainFacts, DomainState, LibvirtFacts, SecretId};
use virt_unlock::host::domain_xml::DomainXml;
use virt_unlock::host::{Hypervisor, HypervisorError, ShutdownMode};
use virt_unlock::secret::Secret;

use calls::{Call, Failure, Link};

/// Reads go to the daemon's memory alone.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// A start makes the guest's cgroup, network and firmware files, and waits for QEMU.
const START_LIMIT: Duration = Duration::from_secs(300);
/// libvirt itself waits 30 s for a domain that is busy with something else.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// libvirt itself would wait a minute for an agent that does not answer.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// The guest agent's way to say that it is there (QEMU's `qga/qapi-schema.json`).
const PING: &str = r#"{"execute":"guest-ping"}"#;
/// How long libvirt waits for its answer.
const PING_SECONDS: i32 = 5;
/// The memory that is being written is let go at once.
const ABORT_LIMIT: Duration = Duration::from_secs(10);
/// Up to 15 s with the disks flushed, then up to 40 s by force.
const DESTROY_LIMIT: Duration = Duration::from_secs(90);

/// libvirt at one URI, connected when it is first needed and again when its daemon has gone.
pub struct Libvirt(Link);

impl Libvirt {
    /// For the libvirt at `uri` (<https://libvirt.org/uri.html>). Does not connect yet.
    pub fn new(uri: &str) -> Self {
        // Its own handler would print each error to stderr, into the middle of what people read there.
        virt::error::clear_error_callback();
        Self(Link::new(uri))
    }
}

impl Hypervisor for Libvirt {
    fn facts(&self, cancel: &Cancel) -> Result<LibvirtFacts, HypervisorError> {
        let call = Call::read("listing domains and storage pools", READ_LIMIT);
        let all = self.0.call(call, cancel, |connection, _| Ok(facts::all(connection)?));
        let Err(HypervisorError::Unavailable(words)) = &all else {
            return all;
        };
        // With modular daemons the pools are those of another daemon, and that one may hang alone: guests are known without it.
        let call = Call::read("listing domains", READ_LIMIT);
        match self.0.call(call, cancel, |connection, _| Ok(facts::domains(connection)?)) {
            Ok(domains) => Ok(LibvirtFacts {
                secrets_error: (domains.iter().any(|domain| !domain.secrets.is_empty())).then(|| words.clone()),
                domains,
                pools_error: Some(words.clone()),
                ..LibvirtFacts::default()
            }),
            Err(HypervisorError::Cancelled) => Err(HypervisorError::Cancelled),
            Err(_) => all,
        }
    }

    fn domain(&self, uuid: &str, cancel: &Cancel) -> Result<Option<DomainFacts>, HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::read("reading a domain", READ_LIMIT);
        self.0.call(call, cancel, move |connection, _| {
            let facts = find(connection, &uuid).and_then(|domain| facts::domain(connection, &domain));
            Ok(unless(ErrorNumber::NoDomain, facts)?)
        })
    }

    fn state(&self, uuid: &str, cancel: &Cancel) -> Result<Option<DomainState>, HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::read("reading a domain's state", READ_LIMIT);
        self.0.call(call, cancel, move |connection, _| {
            let state = find(connection, &uuid).and_then(|domain| facts::state(&domain));
            Ok(unless(ErrorNumber::NoDomain, state)?)
        })
    }

    fn start_networks(&self, uuid: &str, cancel: &Cancel) -> Result<Vec<String>, HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::start("starting the domain's networks", REQUEST_LIMIT);
        self.0.call(call, cancel, move |connection, wanted| {
            let text = find(connection, &uuid)?.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?;
            let names = DomainXml::parse(&text)
                .map(|definition| definition.networks)
                .unwrap_or_default();
            let mut started = Vec::new();
            for name in names {
                if !wanted() {
                    return Err(HypervisorError::Cancelled.into());
                }
                if networks::start(connection, &name)? {
                    started.push(name);
                }
            }
            Ok(started)
        })
    }

    fn start(&self, uuid: &str, cancel: &Cancel) -> Result<bool, HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::start("starting the domain", START_LIMIT);
        self.0.call(call, cancel, move |connection, wanted| {
            let domain = find(connection, &uuid)?;
            if !domain.is_active()? {
                // The look-up may have waited for a daemon longer than anybody waited for this call.
                if !wanted() {
                    return Err(HypervisorError::Cancelled.into());
                }
                create(&domain)?;
            }
            Ok(facts::is_restored(&domain))
        })
    }

    fn set_secret(&self, secret: &SecretId, value: &Secret, cancel: &Cancel) -> Result<(), HypervisorError> {
        let (secret, value) = (secret.clone(), value.clone());
        let call = Call::start("setting the secret", READ_LIMIT);
        self.0
            .call(call, cancel, move |connection, _| secrets::set(connection, &secret, &value))
    }

    fn forget_secret(&self, secret: &SecretId, cancel: &Cancel) -> Result<(), HypervisorError> {
        let secret = secret.clone();
        let call = Call::other("forgetting the secret", READ_LIMIT);
        self.0
            .call(call, cancel, move |connection, _| secrets::forget(connection, &secret))
    }

    fn ping_agent(&self, uuid: &str, cancel: &Cancel) -> Result<(), HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::other("asking the guest agent", AGENT_LIMIT);
        let answer = self.0.call(call, cancel, move |connection, _| {
            let domain = find(connection, &uuid)?;
            domain.qemu_agent_command(PING, PING_SECONDS, 0)?;
            Ok(())
        });
        match answer {
            Err(HypervisorError::Unavailable(words)) => Err(HypervisorError::NoAgent(words)),
            answer => answer,
        }
    }

    fn save(&self, uuid: &str, limit: Duration, cancel: &Cancel) -> Result<(), HypervisorError> {
        let of = uuid.to_owned();
        let call = Call::other("saving the domain's memory", limit);
        let saved = self.0.call(call, cancel, move |connection, _| {
            let Some(domain) = unless(ErrorNumber::NoDomain, find(connection, &of))? else {
                return Ok(());
            };
            match domain.managed_save(0) {
                Err(error) if !is_off(&domain) => Err(error.into()),
                _ => Ok(()),
            }
        });
        if let Err(HypervisorError::Unavailable(_)) = &saved {
            let of = uuid.to_owned();
            let call = Call::other("breaking off the save", ABORT_LIMIT);
            // Where there is nothing to break off any more, it is off or runs: whoever asked looks at its state.
            let _ = self.0.call(call, cancel, move |connection, _| {
                let domain = find(connection, &of)?;
                // SAFETY: the pointer is that of a domain that lives until the end of this block.
                match unsafe { sys::virDomainAbortJob(domain.as_ptr()) } {
                    0 => Ok(()),
                    _ => Err(Error::last_error().into()),
                }
            });
        }
        saved
    }

    fn resume(&self, uuid: &str, cancel: &Cancel) -> Result<(), HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::start("resuming the domain", REQUEST_LIMIT);
        self.0.call(call, cancel, move |connection, _| {
            let domain = find(connection, &uuid)?;
            match facts::state(&domain)? {
                DomainState::PmSuspended => Ok(domain.pm_wakeup(0)?),
                DomainState::Running | DomainState::Blocked => Ok(()),
                _ => match domain.resume() {
                    Err(error) if !matches!(facts::state(&domain), Ok(DomainState::Running)) => Err(error.into()),
                    _ => Ok(()),
                },
            }
        })
    }

    fn request_shutdown(&self, uuid: &str, mode: ShutdownMode, cancel: &Cancel) -> Result<(), HypervisorError> {
        let uuid = uuid.to_owned();
        // Never 0, which would mean: the agent, and the button only after it failed to answer for a minute.
        let (flag, limit) = match mode {
            ShutdownMode::Agent => (sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, AGENT_LIMIT),
            ShutdownMode::Acpi => (sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, REQUEST_LIMIT),
        };
        let call = Call::other("asking the domain to shut down", limit);
        let asked = self.0.call(call, cancel, move |connection, _| {
            let Some(domain) = unless(ErrorNumber::NoDomain, find(connection, &uuid))? else {
                return Ok(());
            };
            match domain.shutdown_flags(flag) {
                Err(_) if is_off(&domain) => Ok(()),
                // A hypervisor that knows no ways to shut down (libvirt's test driver) has one only; QEMU's driver knows both.
                Err(error) if errors::knows_no_flags(&error) => Ok(domain.shutdown()?),
                Err(error) => Err(error.into()),
                Ok(()) => Ok(()),
            }
        });
        match asked {
            Err(HypervisorError::Unavailable(words)) if mode == ShutdownMode::Agent => Err(HypervisorError::NoAgent(words)),
            asked => asked,
        }
    }

    fn destroy(&self, uuid: &str, cancel: &Cancel) -> Result<(), HypervisorError> {
        let uuid = uuid.to_owned();
        let call = Call::other("destroying the domain", DESTROY_LIMIT);
        self.0.call(call, cancel, move |connection, wanted| {
            let Some(domain) = unless(ErrorNumber::NoDomain, find(connection, &uuid))? else {
                return Ok(());
            };
            if !domain.is_active()? {
                return Ok(());
            }
            // Gently first: QEMU writes its caches to the disks when it ends by SIGTERM. It may be stuck.
            if domain.destroy_flags(sys::VIR_DOMAIN_DESTROY_GRACEFUL).is_ok() || is_off(&domain) {
                return Ok(());
            }
            if !wanted() {
                return Err(HypervisorError::Cancelled.into());
            }
            match domain.destroy() {
                Err(error) if !is_off(&domain) => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    fn start_pool(&self, name: &str, cancel: &Cancel) -> Result<(), HypervisorError> {
        let name = name.to_owned();
        let call = Call::start("starting the storage pool", REQUEST_LIMIT);
        self.0.call(call, cancel, move |connection, wanted| {
            let pool = find_pool(connection, &name)?;
            if !pool.is_active()? {
                if !wanted() {
                    return Err(HypervisorError::Cancelled.into());
                }
                // Starting reads the pool's volumes too.
                match pool.create(sys::VIR_STORAGE_POOL_CREATE_NORMAL) {
                    Ok(()) => return Ok(()),
                    Err(error) if !matches!(pool.is_active(), Ok(true)) => return Err(error.into()),
                    Err(_) => {}
                }
            }
            Ok(pool.refresh(0)?)
        })
    }

    fn stop_pool(&self, name: &str, cancel: &Cancel) -> Result<(), HypervisorError> {
        let name = name.to_owned();
        let call = Call::other("stopping the storage pool", REQUEST_LIMIT);
        self.0.call(call, cancel, move |connection, _| {
            let found = connection.lookup_storage_pool_by_name(&name);
            let Some(pool) = unless(ErrorNumber::NoStoragePool, found)? else {
                return Ok(());
            };
            if !pool.is_active()? {
                return Ok(());
            }
            // libvirt's "destroy" stops a pool; its "delete" would delete.
            match pool.destroy() {
                Err(error) if !matches!(pool.is_active(), Ok(false)) => Err(error.into()),
                _ => Ok(()),
            }
        })
    }
}

fn find(connection: &Connect, uuid: &str) -> Result<Domain, Error> {
    connection.lookup_domain_by_uuid_string(uuid)
}

fn find_pool(connection: &Connect, name: &str) -> Result<StoragePool, Failure> {
    connection.lookup_storage_pool_by_name(name).map_err(|error| {
        if error.code().is(ErrorNumber::NoStoragePool) {
            let words = format!("libvirt has no storage pool {name} (virsh pool-list --all)");
            return HypervisorError::NotFound(words).into();
        }
        error.into()
    })
}

/// Starts it. libvirt's own autostart, or a person, may have been quicker.
fn create(domain: &Domain) -> Result<(), Failure> {
    match domain.create() {
        Err(error) if !matches!(domain.is_active(), Ok(true)) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether it is known to be off: a transient domain that is off is no domain any more.
fn is_off(domain: &Domain) -> bool {
    match domain.is_active() {
        Ok(active) => !active,
        Err(error) => error.code().is(ErrorNumber::NoDomain),
    }
}

/// `None` where the error is the one that is none here.
fn unless<T>(code: ErrorNumber, result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if error.code().is(code) => Ok(None),
        result => result.map(Some),
    }
}
