//! The machine. [`ports`] says what the rest of the program may ask of it; the other files are the real thing, one an adapter.
//! The fake host of the tests implements the same ports. Nothing here knows of plans.

pub mod child;
mod credentials;
pub mod devices;
pub mod domain_xml;
mod headers;
pub mod journal;
pub mod keyring;
pub mod lock;
mod network;
pub mod orders;
pub mod ports;
pub mod qcow2;
pub mod questions;
mod resident;
pub mod sources;
pub mod tables;
pub mod tokens;
mod tool;
pub mod uevents;
pub mod units;
pub mod volumes;
pub mod watch;
pub mod worker;

use std::sync::Arc;

pub use network::Tcp;
pub use ports::{
    CloseError, Devices, Header, Headers, Hypervisor, HypervisorError, Image, Key, Keyslot, MasterToken, MountError, Mounts,
    Network, OpenError, Question, QuestionError, Questions, ShutdownMode, User, Volumes,
};
pub use tokens::OtherToken;

/// Everything that touches the machine, in one hand.
#[derive(Clone)]
pub struct Host {
    /// Block devices, mappings, mounts, who uses what.
    pub devices: Arc<dyn Devices>,
    /// LUKS.
    pub volumes: Arc<dyn Volumes>,
    /// The person.
    pub questions: Arc<dyn Questions>,
    /// Filesystems.
    pub mounts: Arc<dyn Mounts>,
    /// What guests are reached by.
    pub network: Arc<dyn Network>,
    /// libvirt; `None` in the half that runs without it.
    pub hypervisor: Option<Arc<dyn Hypervisor>>,
}
