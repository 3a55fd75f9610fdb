//! Whatever the file says: no panic, and every problem's place lies inside its file.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::sample::Index;
use virt_unlock::config;
use virt_unlock::facts::{DomainFacts, DomainState, Facts, LibvirtFacts};
use virt_unlock::graph;

const PIECES: [&str; 24] = [
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    ",",
    ".",
    "#",
    "\n",
    "\r\n",
    "\\",
    "\u{0}",
    "\u{1b}",
    "é",
    "🔑",
    "after",
    "volume",
    "-1",
    "1979-05-27",
];

fn check(files: &[String]) -> Result<(), TestCaseError> {
    let files: Vec<(PathBuf, String)> = files
        .iter()
        .enumerate()
        .map(|(place, text)| (PathBuf::from(format!("{place}.toml")), text.clone()))
        .collect();
    let Err(problems) = config::parse(&files) else { return Ok(()) };
    prop_assert!(problems.len() > 0);
    let mut last = (0, 0);
    for found in problems.iter() {
        let file = files.iter().position(|(path, _)| path == found.file).unwrap();
        let line = files[file].1.split('\n').nth(found.line - 1);
        prop_assert!(line.is_some_and(|line| found.column <= line.chars().count() + 1), "{found:?}");
        prop_assert!(last <= (file, found.line), "not in order: {found:?}");
        prop_assert!(!found.message.contains(char::is_control), "{found:?}");
        last = (file, found.line);
    }
    for shown in [problems.render(false), problems.render(true)] {
        prop_assert_eq!(shown.matches("error").count() >= problems.len(), true);
    }
    Ok(())
}

fn example() -> String {
    let text = fs::read_to_string(super::path("config.example.toml")).unwrap();
    // Without its prose, so that mutations hit something.
    let text = super::uncommented(&text);
    let keys: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    keys.join(
        "
",
    )
}

fn nearest_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>) {
        check(&[String::from_utf8_lossy(&bytes).into_owned()])?;
    }

    #[test]
    fn any_pieces_are_no_panic(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        check(&[pieces.concat()])?;
    }

    #[test]
    fn a_mutated_file_is_no_panic(cuts in prop::collection::vec((any::<Index>(), 0_usize..40, prop::sample::select(&PIECES[..])), 1..6)) {
        let mut text = example();
        for (at, length, piece) in cuts {
            let start = nearest_boundary(&text, at.index(text.len() + 1));
            let end = nearest_boundary(&text, (start + length).min(text.len()));
            text.replace_range(start..end.max(start), piece);
        }
        check(&[text.clone(), text])?;
    }

    #[test]
    fn values_of_any_type_anywhere_are_no_panic(
        line in any::<Index>(),
        value in prop::sample::select(&["1", "-1", "1.5", "nan", "true", "''", "'x'", "[]", "[[]]", "[1, {}]", "{}", "{ a = 1 }", "1979-05-27", "0x7fffffffffffffffff"][..]),
    ) {
        let text = example();
        let lines: Vec<&str> = text.lines().collect();
        let chosen = line.index(lines.len());
        let changed = lines.iter().enumerate().map(|(place, line)| match line.split_once('=') {
            Some((key, _)) if place == chosen => format!("{key}= {value}\n"),
            _ => format!("{line}\n"),
        });
        check(&[changed.collect()])?;
    }
}

/// Some of `names`, as an array of TOML.
fn some_of(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::subsequence(names, 0..=2).prop_map(|chosen| format!("{chosen:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    /// What is found here does not meet anybody later: whatever is no problem has a graph.
    #[test]
    fn a_sound_configuration_has_no_circle(
        volumes in prop::collection::vec((some_of(&["v0", "v1", "v2"]), prop::option::of(prop::sample::select(&["/m", "/m/n", "/m/n/o", "/x"][..]))), 3),
        domains in prop::collection::vec(some_of(&["d0", "d1", "d2"]), 3),
    ) {
        let volumes = volumes.iter().enumerate().map(|(number, (after, mount))| {
            let mount = mount.map_or_else(String::new, |at| format!("mount = {at:?}\n"));
            format!("[volume.v{number}]\ndevice = '/dev/{number}'\nafter = {after}\n{mount}")
        });
        let domains = domains.iter().enumerate().map(|(number, after)| format!("[domain.d{number}]\nafter = {after}\n"));
        let tables: Vec<String> = volumes.chain(domains).collect();
        let text = tables.concat();
        check(std::slice::from_ref(&text))?;
        if let Ok(config) = super::parse(&text) {
            let domains = (0..3).map(|number| domain(&format!("d{number}"))).collect();
            let libvirt = LibvirtFacts { domains, ..LibvirtFacts::default() };
            let facts = Facts { libvirt: Some(libvirt), ..Facts::default() };
            let graph = graph::of(&config, &facts);
            prop_assert!(graph.is_ok(), "{}", graph.unwrap_err());
        }
    }
}

fn domain(name: &str) -> DomainFacts {
    DomainFacts {
        name: name.to_owned(),
        uuid: String::new(),
        state: DomainState::ShutOff,
        autostart: true,
        sources: Vec::new(),
        ..DomainFacts::default()
    }
}

#[test]
fn endless_nesting_is_no_panic() {
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(50_000)),
        "a.".repeat(50_000),
    ] {
        check(&[text]).unwrap();
    }
}

#[test]
fn a_file_of_nothing_but_mistakes_is_read_in_good_time() {
    check(&["[a\n".repeat(20_000)]).unwrap();
    check(&["[volume.a]\n= 1\n".repeat(5_000)]).unwrap();
}
