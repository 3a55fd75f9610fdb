//! Whatever comes in from outside: no panic, no endless work, and what is taken is sound. `make fuzz` runs it for long
//! (`PROPTEST_CASES` says how often); what it finds stays below `tests/fuzz/corpus`. The formats that have no way in from outside this
//! program's own library (tokens, what goes to a worker) are tested beside their code, with the same corpus.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests too

mod mutate;

use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;
use virt_unlock::config;
use virt_unlock::facts::Facts;
use virt_unlock::graph;
use virt_unlock::host::domain_xml::{DomainXml, PoolXml};
use virt_unlock::host::qcow2;
use virt_unlock::plan::{self, Names};
use virt_unlock::secret::Secret;

use mutate::{changed, changes, corpus, look};

fn configuration(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let files = [(PathBuf::from("config.toml"), text)];
    match config::parse(&files) {
        Ok(config) => {
            let facts = Facts::default();
            let graph = graph::of(&config, &facts).unwrap();
            let plan = plan::up(&config, &facts, &graph, &Names::default()).unwrap();
            assert_eq!(plan.steps.len(), graph.nodes().len());
            for volume in &config.volumes {
                assert!(config::check_volume(&volume.name).is_ok());
            }
        }
        Err(problems) => {
            assert!(problems.len() > 0);
            for found in problems.iter() {
                assert!(found.line > 0 && found.column > 0, "{found:?}");
                assert!(!found.message.chars().any(char::is_control), "{found:?}");
            }
            let _ = problems.render(true);
        }
    }
}

fn xml(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(domain) = DomainXml::parse(&text) {
        // An entity that names itself again and again would make more of little.
        assert!(domain.disks.len() <= input.len());
    }
    let _ = PoolXml::parse(&text);
}

fn image(input: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(input).unwrap();
    if let Ok(references) = qcow2::references(file.path()) {
        for named in references.backing.iter().chain(&references.data) {
            assert!(named.path.is_absolute(), "{named:?}");
        }
    }
    assert!(qcow2::chain(file.path(), Some("qcow2"), true).len() < 1000);
}

fn answer(input: &[u8]) {
    const LIMIT: usize = 64;
    match Secret::read_from(&mut &input[..], LIMIT) {
        Ok(secret) => assert_eq!(secret.expose(), input),
        Err(error) => assert!(input.len() > LIMIT, "{error}"),
    }
}

/// Looks at an input, and panics at one that breaks what is promised.
type Look = fn(&[u8]);

/// All kinds, each with what looks at it.
const KINDS: [(&str, Look); 4] = [("config", configuration), ("xml", xml), ("qcow2", image), ("answer", answer)];

#[test]
fn the_corpus_is_sound() {
    for (kind, looks) in KINDS {
        for input in corpus(kind) {
            looks(&input);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_is_taken_or_refused(kind in 0..KINDS.len(), changes in changes()) {
        let (kind, looks) = KINDS[kind];
        look(kind, &changed(&corpus(kind), &changes), looks);
    }
}
