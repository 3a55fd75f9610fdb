//! What may be asked of libvirt.

use std::time::Duration;

use crate::cancel::Cancel;
use crate::facts::{DomainFacts, DomainState, LibvirtFacts, SecretId};
use crate::secret::Secret;

/// libvirt. Every call is bounded; a daemon that restarts is reconnected to inside a call where that is safe.
pub trait Hypervisor: Send + Sync {
    /// Domains and pools.
    fn facts(&self, cancel: &Cancel) -> Result<LibvirtFacts, HypervisorError>;

    /// One domain, as [`Hypervisor::facts`] has it; `None`: there is no such domain (any more). By UUID.
    fn domain(&self, uuid: &str, cancel: &Cancel) -> Result<Option<DomainFacts>, HypervisorError>;

    /// A domain's state; `None`: there is no such domain (any more). By UUID. A start that was cancelled in the middle, and that
    /// libvirt goes on with, is waited for first.
    fn state(&self, uuid: &str, cancel: &Cancel) -> Result<Option<DomainState>, HypervisorError>;

    /// Starts the networks of libvirt's that a domain's definition names, that are set to autostart and are not active; gives their
    /// names.
    fn start_networks(&self, uuid: &str, cancel: &Cancel) -> Result<Vec<String>, HypervisorError>;

    /// Starts a domain. `Ok` too if it runs already. True: its memory was restored from a managed save; only now that is certain, for
    /// libvirt looks for saved domains when its daemon starts, and the folder may have been mounted later.
    fn start(&self, uuid: &str, cancel: &Cancel) -> Result<bool, HypervisorError>;

    /// Gives libvirt the value of a secret, which it keeps in memory alone; one that it does not have yet is made. One that it keeps on
    /// its disk is refused.
    fn set_secret(&self, secret: &SecretId, value: &Secret, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Makes libvirt forget a secret that it keeps in memory alone. `Ok` too if it has none.
    fn forget_secret(&self, secret: &SecretId, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Asks the guest agent of a domain whether it is there, and waits a few seconds for its answer.
    /// [`HypervisorError::NoAgent`]: it does not answer, and may later.
    fn ping_agent(&self, uuid: &str, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Saves a domain's memory, so that its next start goes on from there, and ends it (managed save). Over `limit` it is broken off,
    /// and the domain goes on to run. `Ok` too if it is off already.
    fn save(&self, uuid: &str, limit: Duration, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Wakes up a paused domain, so that it can hear a request.
    fn resume(&self, uuid: &str, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Asks a domain to shut down, and does not wait for it. `Ok` too if it is off already.
    fn request_shutdown(&self, uuid: &str, mode: ShutdownMode, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Pulls a domain's plug, its disk caches flushed first where its process still listens. `Ok` too if it is off already.
    fn destroy(&self, uuid: &str, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Starts and refreshes a storage pool. `Ok` too if it is active already.
    fn start_pool(&self, name: &str, cancel: &Cancel) -> Result<(), HypervisorError>;

    /// Stops a storage pool, nothing of it is deleted. `Ok` too if it is inactive or not defined.
    fn stop_pool(&self, name: &str, cancel: &Cancel) -> Result<(), HypervisorError>;
}

/// How a domain is asked to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// By its guest agent.
    Agent,
    /// By the power button.
    Acpi,
}

/// Why libvirt did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HypervisorError {
    /// No daemon, or it went away in the middle, or it does not answer: may pass.
    #[error("libvirt does not answer: {0}")]
    Unavailable(String),
    /// This person may not.
    #[error("libvirt does not allow it: {0}")]
    Denied(String),
    /// There is no such domain or pool.
    #[error("{0}")]
    NotFound(String),
    /// The agent of a domain does not answer.
    #[error("the guest agent does not answer: {0}")]
    NoAgent(String),
    /// Cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It said no, for a reason that may pass: memory is short, a network is not there yet, somebody else has what it needs.
    #[error("{0}")]
    Passing(String),
    /// A disk of the domain does not open with its secret.
    #[error("{0}")]
    WrongSecret(String),
    /// It said no; its words.
    #[error("{0}")]
    Refused(String),
}
