//! The names that `up`, `down` and `plan` take, for whoever completes them in a shell: at once, without a question and without a
//! complaint. What cannot be known so is left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::session::Session;
use super::{App, Connect, notes};
use crate::cancel::Cancel;
use crate::event::Events;
use crate::graph::Layer;
use crate::report::Verbosity;

/// Somebody waits for it at each press of a key.
const PATIENCE: Duration = Duration::from_millis(500);

const VOLUME: &str = "volume";
const GUEST: &str = "guest";

/// The names of volumes and guests, each with its kind in a word: from the configuration, from the note of the guests' names, and
/// from libvirt if it answers at once.
pub fn known(config: Option<&Path>, connect: Connect) -> BTreeMap<String, &'static str> {
    let mut names = BTreeMap::new();
    let app = App {
        config: config.map(Path::to_owned),
        verbosity: Verbosity::Quiet,
        connect: None,
    };
    // A configuration that is wrong, or that this user may not read, has no names.
    let Ok(mut session) = Session::begin(&app, false) else {
        return names;
    };
    for volume in &session.config.volumes {
        names.insert(volume.name.clone(), VOLUME);
    }
    let noted = notes::noted();
    let on_volumes = noted.iter().filter(|(volume, _)| session.config.volume(volume).is_some());
    let guests = on_volumes
        .flat_map(|(_, guests)| guests)
        .chain(session.config.domains.iter().map(|table| &table.name));
    for guest in guests {
        names.entry(guest.clone()).or_insert(GUEST);
    }
    if answers_without_a_question(&session.config.host.libvirt_uri) {
        session.host.hypervisor = Some(connect(&session.config.host.libvirt_uri));
        for guest in guests_of_libvirt(&session).unwrap_or_default() {
            names.entry(guest).or_insert(GUEST);
        }
    }
    names
}

/// The names of the configuration's masters and volumes, which `master` takes.
pub fn of_masters(config: Option<&Path>) -> (Vec<String>, Vec<String>) {
    let app = App {
        config: config.map(Path::to_owned),
        verbosity: Verbosity::Quiet,
        connect: None,
    };
    let Ok(session) = Session::begin(&app, false) else {
        return Default::default();
    };
    let masters = session.config.masters.into_iter().map(|master| master.name);
    let volumes = session.config.volumes.into_iter().map(|volume| volume.name);
    (masters.collect(), volumes.collect())
}

/// Anybody but root is asked for a password by polkit, and anybody by a host beyond this one.
fn answers_without_a_question(uri: &str) -> bool {
    let is_here = uri.split_once("://").is_some_and(|(driver, rest)| {
        let way = driver.split_once('+').map_or("unix", |(_, way)| way);
        way == "unix" && rest.starts_with('/')
    });
    is_here && nix::unistd::geteuid().is_root()
}

fn guests_of_libvirt(session: &Session) -> Option<Vec<String>> {
    let (over, never) = (Cancel::new().ok()?, Cancel::new().ok()?);
    let limit = over.clone();
    thread::Builder::new()
        .name("limit".to_owned())
        .spawn(move || {
            never.wait(PATIENCE);
            limit.raise();
        })
        .ok()?;
    let facts = session.facts(Some(Duration::ZERO), &Events::new(|_| ()), &over).ok()?;
    let graph = session.graph(&facts).ok()?;
    let guests = graph.nodes().iter().filter_map(|node| match &node.layer {
        Layer::Domain(name) => Some(name.to_string()),
        _ => None,
    });
    Some(guests.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_libvirt_of_this_host_is_asked() {
        let is_root = nix::unistd::geteuid().is_root();
        for uri in ["qemu:///system", "test:///default", "qemu+unix:///system?socket=/run/x"] {
            assert_eq!(answers_without_a_question(uri), is_root, "{uri}");
        }
        for uri in ["qemu+ssh://host/system", "qemu://host/system", "qemu+tls:///system", "esx:x"] {
            assert!(!answers_without_a_question(uri), "{uri}");
        }
    }
}
