//! The configuration file: [`types`] is what the rest of the program sees.

mod types;

pub use types::{Config, DeviceSpec, DomainConfig, HostConfig, Mount, OnStopTimeout, OpenFlags, Start, Unlock, Volume};
