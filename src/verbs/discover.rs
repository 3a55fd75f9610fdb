//! `virt-unlock discover`: a starting configuration for this host on standard output. Asks for nothing and changes nothing.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::session::{Session, ask_libvirt};
use super::surroundings::Surroundings;
use super::{App, Failure, Verdict, answer};
use crate::cancel::Cancel;
use crate::config::{self, HostConfig};
use crate::discover::{self, Found};
use crate::event::Events;
use crate::facts::LibvirtFacts;
use crate::host::HypervisorError;
use crate::host::devices::Kernel;
use crate::report;

/// A person waits for the answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn discover(app: &App) -> Result<Verdict, Failure> {
    Session::need_root("discover")?;
    let cancel = Cancel::new()?;
    let (uri, mut remarks) = configured(app.config.as_deref());
    let default = HostConfig::default().libvirt_uri;
    let libvirt = match libvirt(app, uri.as_deref().unwrap_or(&default), &cancel) {
        Ok(facts) => Ok(facts),
        Err(HypervisorError::Cancelled) => return Err(Failure::Cancelled),
        Err(error) => Err(error.to_string()),
    };
    let survey = Kernel::new().survey(libvirt.iter().flat_map(discover::places));
    let around = Surroundings::read();
    if around.libvirt_guests_suspends {
        remarks.push(format!(
            "libvirt-guests.service writes the memory of guests to the unencrypted disk at shutdown (ON_SHUTDOWN=suspend); \
             systemctl disable --now libvirt-guests, or set ON_SHUTDOWN=shutdown in {}",
            around.libvirt_guests_file.display()
        ));
    }
    answer(&discover::configuration(&Found {
        survey: &survey,
        libvirt: libvirt.as_ref().map_err(String::as_str),
        libvirt_uri: uri.as_deref(),
        remarks: &remarks,
    }))?;
    // Standard output is a file most of the time.
    if let Err(why) = &libvirt {
        report::complain(&report::plain(&format!(
            "virt-unlock: {why}; the guests are missing from what was written"
        )));
    }
    Ok(libvirt.is_ok().into())
}

fn libvirt(app: &App, uri: &str, cancel: &Cancel) -> Result<LibvirtFacts, HypervisorError> {
    let Some(connect) = app.connect else {
        return Err(HypervisorError::Unavailable("this program is built without it".to_owned()));
    };
    ask_libvirt(connect(uri).as_ref(), Some(LIBVIRT_PATIENCE), &Events::new(|_| ()), cancel)
}

/// What a configuration that is there already says of libvirt (`None`: the default), and what is to be known of it. None is needed,
/// and a wrong one is no hindrance.
fn configured(at: Option<&Path>) -> (Option<String>, Vec<String>) {
    let main = at.unwrap_or(Path::new(config::DEFAULT_PATH));
    match config::load(at) {
        Ok(loaded) => {
            let uri = loaded.config.host.libvirt_uri;
            let uri = (uri != HostConfig::default().libvirt_uri).then_some(uri);
            let volumes: Vec<&str> = loaded.config.volumes.iter().map(|volume| volume.name.as_str()).collect();
            let files: Vec<String> = loaded.files.iter().map(|(path, _)| path.display().to_string()).collect();
            let remark = format!(
                "a configuration is there already ({}), with the volumes {}; a table may stand only once in all files together, \
                 so this one replaces it and cannot stand beside it",
                files.join(", "),
                volumes.join(", ")
            );
            (uri, if volumes.is_empty() { Vec::new() } else { vec![remark] })
        }
        Err(_)
            if main
                .symlink_metadata()
                .is_err_and(|error| error.kind() == ErrorKind::NotFound) =>
        {
            (None, Vec::new())
        }
        Err(_) => {
            let words = format!(
                "the configuration that is there ({} and config.d beside it) is wrong and was not read; `virt-unlock check` says where",
                main.display()
            );
            (None, vec![words])
        }
    }
}
