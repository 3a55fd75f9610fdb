//! What libvirt says of its domains and pools, as [`virt_unlock::facts`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::statvfs::statvfs;
use virt::connect::Connect;
use virt::domain::{self, Domain, DomainPausedReason, DomainRunningReason, DomainStateReason, DomainStateReasonEnum};
use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::sys;
use virt_unlock::facts::{DomainFacts, DomainState, LibvirtFacts, Pause, PoolState, SecretUse};
use virt_unlock::host::domain_xml::{DomainXml, Place, PoolXml};
use virt_unlock::host::sources;

use super::{errors, secrets};

/// All domains and pools.
pub fn all(connection: &Connect) -> Result<LibvirtFacts, Error> {
    let mut pools = Pools::new(connection);
    let domains = list(connection, &mut Some(&mut pools))?;
    // The domains are listed by now: an error is that of the storage driver alone (with modular daemons another daemon).
    let (listed, pools_error) = match pools.list() {
        Ok(listed) => (listed, None),
        Err(error) => (Listed::default(), Some(error.message().to_owned())),
    };
    // No other daemon is asked, or started, for what nobody needs.
    let (secrets, secrets_error) = if domains.iter().all(|domain| domain.secrets.is_empty()) {
        (Vec::new(), None)
    } else {
        match secrets::list(connection) {
            Ok(secrets) => (secrets, None),
            Err(error) => (Vec::new(), Some(error.message().to_owned())),
        }
    };
    Ok(LibvirtFacts {
        secrets,
        secrets_error,
        domains,
        pools: listed.states,
        pool_folders: listed.folders,
        pools_error,
    })
}

/// All domains, without a word to the storage driver: of a disk in a pool the pool's name alone is known.
pub fn domains(connection: &Connect) -> Result<Vec<DomainFacts>, Error> {
    list(connection, &mut None)
}

/// One domain.
pub fn domain(connection: &Connect, found: &Domain) -> Result<DomainFacts, Error> {
    read(found, &mut Some(&mut Pools::new(connection)))
}

fn list(connection: &Connect, pools: &mut Option<&mut Pools<'_>>) -> Result<Vec<DomainFacts>, Error> {
    let mut domains = Vec::new();
    for found in connection.list_all_domains(0)? {
        match read(&found, pools) {
            Ok(facts) => domains.push(facts),
            // It went since it was listed.
            Err(error) if error.code().is(ErrorNumber::NoDomain) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(domains)
}

/// A domain's state.
pub fn state(found: &Domain) -> Result<DomainState, Error> {
    let (state, reason) = found.state()?;
    let Some(state) = state.known() else {
        // The binding's `state` drops the error of the call, and what it returns then is no state.
        return Err(Error::last_error());
    };
    Ok(match state {
        domain::DomainState::NoState => DomainState::NoState,
        domain::DomainState::Running => DomainState::Running,
        domain::DomainState::Blocked => DomainState::Blocked,
        domain::DomainState::Paused => paused(reason),
        domain::DomainState::Shutdown => DomainState::ShuttingDown,
        domain::DomainState::Shutoff => DomainState::ShutOff,
        // <on_crash>preserve</on_crash> leaves the process there, its processors stopped, its disks open.
        domain::DomainState::Crashed if found.is_active()? => DomainState::Paused(Pause::Crashed),
        domain::DomainState::Crashed => DomainState::Crashed,
        domain::DomainState::PMSuspended => DomainState::PmSuspended,
    })
}

/// Whether it runs because its memory was restored.
pub fn is_restored(found: &Domain) -> bool {
    let reason = match found.state() {
        Ok((_, Enum::Known(DomainStateReason::Running(reason)))) => reason.known(),
        _ => None,
    };
    reason == Some(DomainRunningReason::Restored)
}

fn paused(reason: DomainStateReasonEnum) -> DomainState {
    let reason = match reason {
        Enum::Known(DomainStateReason::Paused(reason)) => reason.known(),
        _ => None,
    };
    DomainState::Paused(match reason {
        Some(DomainPausedReason::ShuttingDown) => return DomainState::ShuttingDown,
        Some(DomainPausedReason::IOError) => Pause::IoError,
        Some(DomainPausedReason::Crashed) => Pause::Crashed,
        // Whoever began it, libvirt resumes the domain at the end, or it is off or gone then.
        Some(
            DomainPausedReason::Migration
            | DomainPausedReason::Save
            | DomainPausedReason::Dump
            | DomainPausedReason::Snapshot
            | DomainPausedReason::StartingUp
            | DomainPausedReason::PostCopy,
        ) => Pause::Held,
        _ => Pause::Ordered,
    })
}

fn read(found: &Domain, pools: &mut Option<&mut Pools<'_>>) -> Result<DomainFacts, Error> {
    // What it will use when it starts, and, where it runs, what it uses now: the two may differ.
    let mut texts = vec![found.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?];
    if found.is_active()? {
        texts.push(found.xml_desc(0)?);
    }
    let mut facts = DomainFacts {
        name: found.name()?,
        uuid: found.uuid_string()?,
        state: state(found)?,
        autostart: found.autostart()?,
        sources: Vec::new(),
        restarts_on_poweroff: false,
        is_saved: found.has_managed_save(0)?,
        has_agent: false,
        secrets: Vec::new(),
    };
    for text in texts {
        let Ok(definition) = DomainXml::parse(&text) else {
            // Nothing that libvirt writes comes here. If it did: nobody knows which volumes it needs, so it is not started by
            // itself, and it keeps no other domain from being known.
            facts.autostart = false;
            continue;
        };
        facts.restarts_on_poweroff |= definition.restarts_on_poweroff;
        facts.has_agent |= definition.has_agent;
        for needed in definition.secrets {
            let image = needed.place.map(|place| located(place, pools).0);
            let used = SecretUse {
                id: needed.id,
                image: image.filter(|path| path.is_absolute()),
                format: needed.format,
            };
            if !facts.secrets.contains(&used) {
                facts.secrets.push(used);
            }
        }
        for disk in definition.disks {
            let (path, pool) = located(disk.place, pools);
            sources::add(&mut facts.sources, path, pool, disk.format.as_deref(), !disk.backing_declared);
        }
    }
    Ok(facts)
}

/// Where an image lies, and in which pool. Where the storage driver does not answer the pool's name alone counts.
fn located(place: Place, pools: &mut Option<&mut Pools<'_>>) -> (PathBuf, Option<String>) {
    match place {
        Place::Path(path) => (path, None),
        Place::Volume { pool, volume } => {
            let path = pools.as_mut().map(|pools| pools.path(&pool, &volume).unwrap_or_default());
            (path.unwrap_or_default(), Some(pool))
        }
    }
}

/// The storage pools, each asked once.
struct Pools<'a> {
    connection: &'a Connect,
    known: BTreeMap<String, Option<Pool>>,
}

/// The pools of the host, by name.
#[derive(Default)]
struct Listed {
    states: BTreeMap<String, PoolState>,
    folders: BTreeMap<String, PathBuf>,
}

struct Pool {
    handle: StoragePool,
    is_active: bool,
    target: Option<PathBuf>,
}

impl<'a> Pools<'a> {
    fn new(connection: &'a Connect) -> Self {
        let known = BTreeMap::new();
        Self { connection, known }
    }

    /// Each pool's state, and its folder where it is one.
    fn list(&self) -> Result<Listed, Error> {
        let found = match self.connection.list_all_storage_pools(0) {
            Err(error) if errors::has_no_storage(&error) => return Ok(Listed::default()),
            found => found?,
        };
        let mut listed = Listed::default();
        for pool in found {
            match folder_of(&pool).and_then(|folder| Ok((pool.name()?, state_of(&pool, folder.as_ref())?, folder))) {
                Ok((name, state, folder)) => {
                    listed.folders.extend(folder.map(|folder| (name.clone(), folder)));
                    listed.states.insert(name, state);
                }
                Err(error) if error.code().is(ErrorNumber::NoStoragePool) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    /// The path of a pool's volume: libvirt's own word while the pool is active, else where it will be. Empty where nobody
    /// knows: the pool's name alone counts then.
    fn path(&mut self, name: &str, volume: &str) -> Result<PathBuf, Error> {
        if !self.known.contains_key(name) {
            let pool = self.read(name)?;
            self.known.insert(name.to_owned(), pool);
        }
        let Some(Some(pool)) = self.known.get(name) else {
            return Ok(PathBuf::new());
        };
        if pool.is_active {
            match pool
                .handle
                .lookup_storage_vol_by_name(volume)
                .and_then(|volume| volume.path())
            {
                Ok(path) => return Ok(PathBuf::from(path)),
                // It came after the pool was last refreshed, or the pool was stopped since.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pool.target.as_ref().map(|target| target.join(volume)).unwrap_or_default())
    }

    fn read(&self, name: &str) -> Result<Option<Pool>, Error> {
        let handle = match self.connection.lookup_storage_pool_by_name(name) {
            Err(error) if error.code().is(ErrorNumber::NoStoragePool) || errors::has_no_storage(&error) => return Ok(None),
            found => found?,
        };
        let definition = PoolXml::parse(&handle.xml_desc(0)?).unwrap_or_default();
        Ok(Some(Pool {
            is_active: handle.is_active()?,
            target: definition.target,
            handle,
        }))
    }
}

/// The folder of a pool of the kind `dir`. A pool of another kind mounts or finds for itself what it has.
fn folder_of(pool: &StoragePool) -> Result<Option<PathBuf>, Error> {
    let definition = PoolXml::parse(&pool.xml_desc(0)?).unwrap_or_default();
    Ok(definition.target.filter(|_| definition.kind == "dir"))
}

/// Whether a pool is active, and has read the filesystem that is there: a refresh leaves the size of that one as its capacity
/// (`virStorageBackendRefreshLocal`). A pool that is no folder is not looked at: a server that does not answer must not be asked here.
fn state_of(pool: &StoragePool, folder: Option<&PathBuf>) -> Result<PoolState, Error> {
    if !pool.is_active()? {
        return Ok(PoolState::Inactive);
    }
    let size = folder.and_then(|folder| statvfs(folder).ok());
    let size = size.map(|found| found.blocks().saturating_mul(found.fragment_size()));
    Ok(match size {
        Some(size) if size != pool.info()?.capacity => PoolState::Stale,
        _ => PoolState::Active,
    })
}

fn is_absent(error: &Error) -> bool {
    let code = error.code();
    code.is(ErrorNumber::NoStorageVolume) || code.is(ErrorNumber::OperationInvalid) || code.is(ErrorNumber::NoStoragePool)
}
