//! The catalogue that explains our entries in the journal, as systemd reads it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const CATALOGUE: &str = include_str!("../units/virt-unlock.catalog");
const IDS: &str = include_str!("../src/report/ids.rs");

/// The ids that the program has, each with the name of its constant.
fn ids() -> BTreeMap<&'static str, &'static str> {
    let constants = IDS.lines().filter_map(|line| line.strip_prefix("pub const "));
    let pairs = constants.map(|line| {
        let (name, value) = line.split_once(": &str = ").unwrap();
        (value.trim_matches(['"', ';']), name)
    });
    let all: Vec<_> = pairs.collect();
    let ids: BTreeMap<_, _> = all.iter().copied().collect();
    assert_eq!(ids.len(), all.len(), "two kinds have one id");
    assert!(ids.len() > 12, "{ids:?}");
    for (id, name) in &ids {
        assert!(
            id.len() == 32 && id.chars().all(|c| "0123456789abcdef".contains(c)),
            "{name}: {id}"
        );
    }
    ids
}

/// Each explanation: its id, its header, its text.
fn explanations() -> Vec<(&'static str, &'static str, &'static str)> {
    let entries = CATALOGUE.split("\n-- ").skip(1);
    entries
        .map(|entry| {
            let (id, rest) = entry.split_once('\n').unwrap();
            let (header, text) = rest.split_once("\n\n").unwrap_or_else(|| panic!("{id} has no text"));
            (id, header, text)
        })
        .collect()
}

#[test]
fn every_id_is_explained_and_no_other() {
    let mut ids = ids();
    for (id, header, text) in explanations() {
        assert!(ids.remove(id).is_some(), "{id} is explained twice, or is no id of ours");
        for field in ["Subject: ", "Defined-By: virt-unlock", "Documentation: man:"] {
            assert!(header.lines().any(|line| line.starts_with(field)), "{id} has no {field}");
        }
        // A field that no entry has would be shown as it stands here.
        for field in header.split('@').chain(text.split('@')).skip(1).step_by(2) {
            let known = ["VIRT_UNLOCK_VOLUME", "VIRT_UNLOCK_DOMAIN"];
            assert!(!field.starts_with("VIRT") || known.contains(&field), "{id}: @{field}@");
        }
        let longest = text.lines().max_by_key(|line| shown_width(line)).unwrap();
        assert!(shown_width(longest) <= 80, "{id}: {longest}");
    }
    assert!(ids.is_empty(), "not explained: {ids:?}");
}

/// How wide a line is once a name of eight characters stands in it.
fn shown_width(line: &str) -> usize {
    line.replace("@VIRT_UNLOCK_VOLUME@", "mailmail")
        .replace("@VIRT_UNLOCK_DOMAIN@", "mailmail")
        .len()
}

/// Runs systemd's own compiler of catalogues below a folder, and gives what journalctl then knows.
fn compiled(catalogue: &str) -> (String, String) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    fs::write(folder.join("virt-unlock.catalog"), catalogue).unwrap();
    let journalctl = |argument: &str| {
        let output = Command::new("journalctl")
            .args([argument, "--root", root.path().to_str().unwrap()])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (_, complaints) = journalctl("--update-catalog");
    (journalctl("--dump-catalog").0, complaints)
}

#[test]
fn systemd_compiles_it() {
    let (known, complaints) = compiled(CATALOGUE);
    assert_eq!(complaints, "");
    for (id, header, text) in explanations() {
        let whole = format!("-- {id}\n{header}\n\n{}", text.trim_end());
        assert!(known.contains(&whole), "{whole}\nis not in\n{known}");
    }
    // The counterpart: what is wrong is seen.
    let (_, complaints) = compiled(&format!("words of no id\n{CATALOGUE}"));
    assert!(complaints.contains("before ID"), "{complaints}");
}
