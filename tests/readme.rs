//! README and ARCHITECTURE say what is so, as far as that can be read from the sources: command lines, configuration, tests, files, floors.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Parser, error::ErrorKind};
use virt_unlock::{
    cli::Cli,
    config::{self, Config, Problems},
};

fn read(path: &str) -> String {
    fs::read_to_string(in_tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn parse(text: &str) -> Result<Config, Problems> {
    config::parse(&[(PathBuf::from("README.md"), text.to_owned())])
}

/// The contents of the fenced blocks in a language, without the indentation that a list gives them.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let (mut blocks, mut open): (Vec<String>, bool) = (Vec::new(), false);
    for line in text.lines().map(str::trim_start) {
        match (open, line) {
            (false, line) if line == fence => {
                blocks.push(String::new());
                open = true;
            }
            (true, "```") => open = false,
            (true, line) => *blocks.last_mut().unwrap() += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// What stands between backquotes in a text.
fn code(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Code in the running text, fenced blocks left out.
fn inline_code(text: &str) -> Vec<String> {
    let mut open = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            open = !open;
        } else if !open {
            prose += &format!("{line}\n");
        }
    }
    // A quotation that is indented may have a single backquote; a paragraph has pairs.
    prose
        .split("\n\n")
        .filter(|part| !part.starts_with("    "))
        .flat_map(code)
        .collect()
}

/// The cells of the table that comes first after `heading`, row by row, its own head left out.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let from = text.find(heading).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let cells = |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    let rows: Vec<_> = text[from..]
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(cells)
        .collect();
    assert!(!rows.is_empty(), "{heading:?} has no table");
    rows
}

/// The command lines of virt-unlock in a text: at a prompt, indented on a line of their own, or as code.
fn command_lines(text: &str) -> Vec<String> {
    let shown = text
        .lines()
        .filter(|line| line.starts_with("    "))
        .map(|line| line.trim_start().trim_start_matches("root@host:~").trim_start_matches("# "));
    let spans = inline_code(text);
    shown
        .chain(spans.iter().map(String::as_str))
        .map(|line| line.trim_start_matches("sudo "))
        .filter(|line| line.split(' ').next() == Some("virt-unlock"))
        .filter_map(|line| line.split(['|', ';', '&', '>']).next())
        .map(|line| line.trim().to_owned())
        .filter(|line| line != "virt-unlock")
        .collect()
}

#[test]
fn every_command_line_is_one() {
    let readme = read("README.md");
    let lines = command_lines(&readme);
    for line in &lines {
        if let Err(error) = Cli::try_parse_from(line.split(' ')) {
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "`{line}`: {error}");
        }
    }
    for verb in ["up", "down", "status", "plan", "check"] {
        let shown = lines.iter().any(|line| line.split(' ').nth(1) == Some(verb));
        assert!(shown, "no command line shows {verb}: {lines:?}");
    }
}

#[test]
fn every_configuration_is_one() {
    let shown = blocks(&read("README.md"), "toml");
    assert!(!shown.is_empty());
    for text in shown {
        parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    }
    for text in blocks(&read("README.md"), "json") {
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}

#[test]
fn every_test_that_proves_a_promise_is_there() {
    let rows = table(&read("README.md"), "## What it promises");
    for row in &rows {
        let named = code(&row[1]);
        assert!(!named.is_empty(), "no test shows: {}", row[0]);
        for name in named {
            let (file, path) = name.split_once(' ').unwrap_or_else(|| panic!("`{name}` is no FILE NAME"));
            let source = match path.rsplit_once("::") {
                Some((module, _)) => format!("tests/{file}/{module}.rs"),
                None if in_tree(&format!("tests/{file}/main.rs")).exists() => format!("tests/{file}/main.rs"),
                None => format!("tests/{file}.rs"),
            };
            let function = path.rsplit("::").next().unwrap();
            let text = read(&source);
            let place = text
                .find(&format!("fn {function}("))
                .unwrap_or_else(|| panic!("{source} has no {function}"));
            let mut before = text[..place].trim_end().lines().rev().map(str::trim);
            // Some run in `make test-hosts` alone.
            let is_test = before.find(|line| !line.starts_with("#[ignore = \"make test-hosts")) == Some("#[test]");
            assert!(is_test, "{function} in {source} is no test");
        }
    }
}

#[test]
fn every_file_and_target_that_is_named_is_there() {
    let makefile = read("Makefile");
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = read(page);
        for name in inline_code(&text) {
            let is_path = ["tests/", "src/", "units/"].iter().any(|top| name.starts_with(top));
            assert!(!is_path || in_tree(&name).exists(), "{page}: there is no {name}");
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(link.contains("://") || in_tree(link).exists(), "{page}: there is no {link}");
        }
        let lines = inline_code(&text)
            .into_iter()
            .chain(text.lines().map(|line| line.trim().to_owned()));
        for line in lines {
            let Some(target) = line.trim_start_matches("sudo ").strip_prefix("make ") else {
                continue;
            };
            let target = target.split(' ').next().unwrap();
            assert!(
                makefile.contains(&format!("\n{target}:")),
                "{page}: there is no `make {target}`"
            );
        }
    }
}

/// Each floor with what it uses, as tests/floors.rs has it.
fn floors() -> Vec<(String, Vec<String>)> {
    let text = read("tests/floors.rs");
    let from = text.find("const FLOORS").unwrap();
    let body = &text[from..from + text[from..].find("\n];").unwrap()];
    let body: String = body
        .lines()
        .skip(1)
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    body.split('[')
        .scan(None, |next: &mut Option<String>, part| {
            // "… ]), ("NAME", &": what ends before this floor's name are the uses of the floor before.
            let (uses, name) = part.rsplit_once('(').unwrap_or((part, ""));
            let quoted = |text: &str| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
            let floor = std::mem::replace(next, quoted(name).pop());
            Some(floor.map(|floor| (floor, quoted(uses))))
        })
        .flatten()
        .collect()
}

#[test]
fn the_floors_are_those_that_are_checked() {
    let text = read("ARCHITECTURE.md");
    let floors = floors();
    assert!(floors.len() > 8, "{floors:?}");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let mut last = 0;
    for (floor, uses) in floors {
        let row = format!(
            "{floor:8}  {}",
            if uses.is_empty() { "-".to_owned() } else { uses.join(", ") }
        );
        let place = lines.iter().position(|line| *line == row);
        let place = place.unwrap_or_else(|| panic!("ARCHITECTURE.md does not have the line\n    {row}"));
        assert!(place > last, "{floor} stands too high");
        last = place;
    }
}
