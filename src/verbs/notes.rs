//! Which guests wait for which volume, for the words of the questions. The asking half runs before libvirt is up, so the guests
//! half leaves it a note. Words only: nothing goes wrong when the note is old or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::config::{Config, Start};
use crate::facts::Facts;
use crate::graph::{Graph, Layer, Need};
use crate::private_file;

/// Where notes are kept from one boot to the next.
pub(super) const FOLDER: &str = "/var/lib/virt-unlock";
const FILE: &str = "guests.json";

/// For each volume, its guests.
pub(super) type WaitingGuests = BTreeMap<String, Vec<String>>;

/// The guests that need each volume, directly or not, and are wanted up: from libvirt where it was asked, else from the
/// configuration's tables and the note.
pub(super) fn waiting_guests(config: &Config, facts: &Facts, graph: &Graph) -> WaitingGuests {
    match &facts.libvirt {
        Some(_) => of_graph(config, facts, graph),
        None => of_tables_and_note(config, noted()),
    }
}

/// What the note says.
pub(super) fn noted() -> WaitingGuests {
    read(Path::new(FOLDER))
}

/// Leaves the note, where it says something new.
pub(super) fn write(config: &Config, graph: &Graph, facts: &Facts) {
    if facts.libvirt.is_none() {
        return;
    }
    let folder = Path::new(FOLDER);
    let now = of_graph(config, facts, graph);
    if read(folder) != now
        && let Ok(text) = serde_json::to_vec_pretty(&now)
    {
        // A host with a read-only /var asks without names.
        let _ = keep(folder, &text);
    }
}

/// For root alone: libvirt does not tell everybody the names of its guests.
fn keep(folder: &Path, text: &[u8]) -> io::Result<()> {
    private_file::replace(&folder.join(FILE), text)
}

fn read(folder: &Path) -> WaitingGuests {
    fs::read(folder.join(FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn of_graph(config: &Config, facts: &Facts, graph: &Graph) -> WaitingGuests {
    let wanted: BTreeSet<&str> = facts
        .libvirt
        .iter()
        .flat_map(|libvirt| &libvirt.domains)
        .filter(|domain| config.wants(&domain.name, domain.autostart))
        .map(|domain| domain.name.as_str())
        .collect();
    let mut found = WaitingGuests::new();
    let nodes = graph.nodes();
    for (place, node) in nodes.iter().enumerate() {
        let Layer::Domain(name) = &node.layer else { continue };
        if !wanted.contains(&**name) {
            continue;
        }
        // Only what it lies on itself: to name every guest at the volume that all others need would hide who waits for what.
        for (need, kind) in &nodes[place].needs {
            if *kind == Need::Requires && matches!(nodes[*need].layer, Layer::Volume(_) | Layer::Mount(_)) {
                found
                    .entry(nodes[*need].layer.name().to_owned())
                    .or_default()
                    .push(name.to_string());
            }
        }
    }
    found
}

fn of_tables_and_note(config: &Config, note: WaitingGuests) -> WaitingGuests {
    let mut found = note;
    for table in &config.domains {
        for guests in found.values_mut() {
            if table.start == Start::Never {
                guests.retain(|guest| *guest != table.name);
            }
        }
        for volume in table.volumes.iter().flatten().filter(|_| table.start != Start::Never) {
            let guests = found.entry(volume.clone()).or_default();
            if !guests.contains(&table.name) {
                guests.push(table.name.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::DomainConfig;

    #[test]
    fn tables_add_to_the_note_and_overrule_it() {
        let mut web = DomainConfig::new("web");
        web.volumes = Some(vec!["vm".to_owned()]);
        let mut old = DomainConfig::new("old");
        old.start = Start::Never;
        let config = Config {
            domains: vec![web, old],
            ..Config::default()
        };
        let note = WaitingGuests::from([("mail".to_owned(), vec!["mailserver".to_owned(), "old".to_owned()])]);
        let found = of_tables_and_note(&config, note);
        assert_eq!(found["mail"], ["mailserver"]);
        assert_eq!(found["vm"], ["web"]);
    }

    #[test]
    fn the_note_is_for_root_alone() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), b"{}").unwrap();
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_note_is_no_note() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_empty());
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(read(folder.path()).is_empty());
    }
}
