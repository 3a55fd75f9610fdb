//! libvirt's own networks.

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};

use super::errors;

/// Starts a network that is set to autostart and is not active. True: it was started. One that libvirt does not know, or that nobody
/// wants started by itself, is left to the start of the domain, which says it better.
pub fn start(connection: &Connect, name: &str) -> Result<bool, Error> {
    let network = match connection.lookup_network_by_name(name) {
        Err(error) if error.code().is(ErrorNumber::NoNetwork) || errors::has_no_network(&error) => return Ok(false),
        found => found?,
    };
    if network.is_active()? || !network.autostart()? {
        return Ok(false);
    }
    match network.create() {
        // libvirt's own autostart, or a person, may have been quicker.
        Err(error) if !matches!(network.is_active(), Ok(true)) => Err(error),
        Err(_) => Ok(false),
        Ok(()) => Ok(true),
    }
}
