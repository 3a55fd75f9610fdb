//! The rule of the floors: which part of the program may use which, read from the sources themselves.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The floors, top to bottom, and what each uses. Each may use only what stands below it, so there is no circle and no arrow up.
const FLOORS: &[(&str, &[&str])] = &[
    // Man pages and completions, made from the command line. Like the libvirt adapter it belongs to the main program.
    ("manual", &["verbs", "cli", "report"]),
    // What a person or systemd calls.
    (
        "verbs",
        &[
            "cli", "timeline", "report", "engine", "unlock", "host", "discover", "plan", "graph", "config", "event",
        ],
    ),
    // Pure: from the entries of the journal to a picture.
    ("timeline", &["report", "event"]),
    // Renders what happens. It changes nothing, so it cannot reach the machine.
    ("report", &["plan", "graph", "config", "event"]),
    // Does what the plan says.
    ("engine", &["unlock", "host", "plan", "graph", "config", "event"]),
    // From a closed volume to an open one, with the questions on the way.
    ("unlock", &["host", "config", "event"]),
    // The machine: of plans it knows nothing.
    ("libvirt", &["host"]),
    ("host", &["config"]),
    // Pure: the same input gives the same text, and the same plan.
    ("discover", &["graph", "config"]),
    ("plan", &["graph", "config"]),
    ("event", &["graph"]),
    ("graph", &["config"]),
    ("config", &[]),
    // The words of the command line, as types.
    ("cli", &[]),
];

/// The ground, used by every floor; each of these may use those after it.
const GROUND: &[&str] = &["monitor", "cancel", "pace", "secret", "facts", "text", "private_file"];

/// The shell of the two programs stands on top of all floors. `lib` only lists the modules.
const SHELL: &[&str] = &["main", "bin", "lib"];

/// The adapter of libvirt uses no more than this: it speaks for the hypervisor, not for volumes.
const LIBVIRT_GROUND: &[&str] = &["monitor", "cancel", "secret", "facts", "text"];

/// Crates that are used in one place only.
const CRATES: &[(&str, &[&str])] = &[
    ("virt", &["libvirt"]),
    ("virt_sys", &["libvirt"]),
    ("libcryptsetup_rs", &["host"]),
    ("libcryptsetup_rs_sys", &["host"]),
    ("linux_keyutils", &["host"]),
    ("zbus", &["host"]),
    ("roxmltree", &["host"]),
    ("hkdf", &["unlock"]),
    ("sha2", &["unlock"]),
    ("toml", &["config"]),
    ("annotate_snippets", &["config"]),
    ("sd_notify", &["report", "verbs"]),
    ("clap", &["main", "bin", "cli", "manual"]),
    ("clap_complete", &["manual"]),
    ("clap_mangen", &["manual"]),
];

/// Where a SAFETY reason may stand.
const UNSAFE: &[&str] = &["host", "libvirt", "secret"];

/// What a pure floor does without.
const IMPURE: &[&str] = &["fs", "net", "process", "thread", "env", "Instant", "SystemTime"];
const PURE: &[&str] = &["timeline", "discover", "plan", "graph", "event", "facts", "text"];

/// A file longer than this has two purposes.
const LONGEST: usize = 450;

#[test]
fn every_file_keeps_to_its_floor() {
    let broken: Vec<String> = sources().iter().flat_map(|(path, text)| broken_rules(path, text)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_floor_uses_one_above_it() {
    for (index, (floor, below)) in FLOORS.iter().enumerate() {
        for used in *below {
            assert!(
                FLOORS[index + 1..].iter().any(|(name, _)| name == used),
                "the table itself: {floor} uses {used}, which does not stand below it"
            );
        }
    }
}

#[test]
fn the_rules_find_what_breaks_them() {
    let first = |path: &str, text: &str| {
        let broken = broken_rules(Path::new(path), &format!("//! A file.\n{text}\n"));
        broken.into_iter().next().unwrap_or_default()
    };
    for (path, text) in [
        ("plan/up.rs", "use crate::engine::Walk;"),
        ("plan/up.rs", "use crate::{\n    facts::Facts,\n    engine::{self, Walk},\n};"),
        ("plan/mod.rs", "fn f() { crate::engine::walk() }"),
        ("plan/mod.rs", "mod tests { use super::super::engine; }"),
        ("event.rs", "use super::engine::Walk;"),
        ("graph/mod.rs", "use crate::event::Event;"),
        ("report/live.rs", "pub use crate::host::Host;"),
        ("libvirt/mod.rs", "use virt_unlock::engine;"),
        ("libvirt/mod.rs", "use virt_unlock::pace::Pace;"),
        ("cancel.rs", "use crate::monitor::Monitor;"),
        ("attic.rs", ""),
        ("plan/up.rs", "use crate::attic::Old;"),
        ("plan/up.rs", "use crate::*;"),
        ("engine/up.rs", "fn f() { virt::connect::Connect::open(None); }"),
        ("engine/up.rs", "fn f() { unsafe { g() } }"),
        ("plan/up.rs", "use std::{collections::BTreeMap, fs};"),
        ("plan/up.rs", "fn f() { std::time::Instant::now(); }"),
    ] {
        assert_ne!(first(path, text), "", "nothing was found in {path}: {text}");
    }
    for (path, text) in [
        (
            "plan/up.rs",
            "use crate::{facts::Facts, graph::{Graph, Layer}};\nuse super::down;",
        ),
        (
            "plan/mod.rs",
            "mod tests { use super::*; fn f(host: u8) { /* crate::engine */ } }",
        ),
        (
            "plan/up.rs",
            "// crate::engine\nconst A: (&str, &str, char) = (\"crate::engine\", r#\"unsafe \"crate::host\"#, '\"');",
        ),
        ("plan/up.rs", "fn f<'a>(x: &'a str) -> char { '\\'' }"),
        (
            "libvirt/mod.rs",
            "use virt::connect::Connect;\nuse virt_unlock::host::Hypervisor;",
        ),
        ("host/worker.rs", "fn f() { unsafe { g() } }"),
    ] {
        assert_eq!(first(path, text), "", "{path}: {text}");
    }
    assert!(
        !broken_rules(Path::new("plan/up.rs"), "use std::fmt;\n").is_empty(),
        "no //! on top"
    );
    assert!(!broken_rules(Path::new("plan/up.rs"), &"//! long\n".repeat(LONGEST + 1)).is_empty());
}

/// All sources: their paths below `src`, and what is in them.
fn sources() -> Vec<(PathBuf, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![top.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&top).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 20, "there is more below src than {found:?}");
    found.sort();
    found
}

/// What a file does that it must not, as `FILE:LINE: words`.
fn broken_rules(path: &Path, text: &str) -> Vec<String> {
    let module: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name != "mod")
        .collect();
    let floor = module[0].as_str();
    let (mut broken, shown) = (Vec::new(), Path::new("src").join(path));
    let mut say = |line: usize, words: String| broken.push(format!("{}:{line}: {words}", shown.display()));
    if !text.starts_with("//!") {
        say(1, "begins without a comment (//!) that says what it is for".to_owned());
    }
    if text.lines().count() > LONGEST {
        say(
            LONGEST,
            format!("has more than {LONGEST} lines: it has more than one purpose"),
        );
    }
    if !is_known(floor) {
        say(1, format!("{floor} stands on no floor: give it a line in tests/floors.rs"));
        return broken;
    }
    let tokens = tokens(text);
    for (line, used) in uses(&tokens, module.len()) {
        if !may_use(floor, &used) {
            say(line, format!("{floor} must not use {used}"));
        }
    }
    for (index, token) in tokens.iter().enumerate() {
        let word = token.text.as_str();
        if word == "unsafe" && !UNSAFE.contains(&floor) {
            say(token.line, format!("unsafe code belongs to {} alone", UNSAFE.join(", ")));
        }
        if !begins_path(&tokens, index) {
            continue;
        }
        if let Some((_, homes)) = CRATES.iter().find(|(name, _)| *name == word)
            && !homes.contains(&floor)
        {
            say(token.line, format!("the crate {word} belongs to {} alone", homes.join(", ")));
        }
        if word == "std" && PURE.contains(&floor) {
            for name in path_from(&tokens, index)
                .iter()
                .filter(|name| IMPURE.contains(&name.text.as_str()))
            {
                say(name.line, format!("{floor} is pure: it must not use std's {}", name.text));
            }
        }
    }
    broken
}

fn is_known(module: &str) -> bool {
    SHELL.contains(&module) || GROUND.contains(&module) || FLOORS.iter().any(|(name, _)| *name == module)
}

fn may_use(floor: &str, used: &str) -> bool {
    if floor == used || SHELL.contains(&floor) {
        return is_known(used);
    }
    if floor == "libvirt" && GROUND.contains(&used) {
        return LIBVIRT_GROUND.contains(&used);
    }
    if let Some(place) = GROUND.iter().position(|name| *name == floor) {
        return GROUND[place + 1..].contains(&used);
    }
    let below = FLOORS
        .iter()
        .find(|(name, _)| *name == floor)
        .map_or(&[][..], |(_, below)| below);
    GROUND.contains(&used) || below.contains(&used)
}

/// The modules at the top of the crate that are named here, each with its line; `depth` is that of the file's own module.
fn uses(tokens: &[Token], depth: usize) -> Vec<(usize, String)> {
    let (mut found, mut braces, mut inner) = (Vec::new(), 0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => {
                braces += 1;
                if at >= 2 && tokens[at - 2].text == "mod" {
                    inner.push(braces);
                }
            }
            "}" => {
                inner.pop_if(|opened| *opened == braces);
                braces -= 1;
            }
            first if begins_path(tokens, at) => {
                let path = path_from(tokens, at);
                let ups = path.iter().step_by(2).take_while(|token| token.text == "super").count();
                let top = match first {
                    "crate" | "virt_unlock" => Some(2),
                    "super" if ups == depth + inner.len() => Some(2 * ups),
                    _ => None,
                };
                let names = top.map(|top| first_names(&path[top..])).unwrap_or_default();
                found.extend(names.into_iter().map(|name| (token.line, name)));
            }
            _ => (),
        }
    }
    found
}

/// Whether a path of at least two names begins here.
fn begins_path(tokens: &[Token], at: usize) -> bool {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let name = tokens[at].text.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    name && is(at + 1, "::") && (at == 0 || !is(at - 1, "::"))
}

/// The path that begins here: names, and a group in braces at its end.
fn path_from(tokens: &[Token], from: usize) -> &[Token] {
    let (mut end, mut braces) = (from, 0);
    while let Some(token) = tokens.get(end) {
        end += 1;
        match token.text.as_str() {
            "{" => braces += 1,
            "}" => braces -= 1,
            _ => (),
        }
        let goes_on = token.text == "::" || tokens.get(end).is_some_and(|next| next.text == "::");
        if braces == 0 && !goes_on {
            break;
        }
    }
    &tokens[from..end]
}

/// What a path, or each path of a group, begins with.
fn first_names(path: &[Token]) -> Vec<String> {
    let Some("{") = path.first().map(|token| token.text.as_str()) else {
        return path.first().map(|token| token.text.clone()).into_iter().collect();
    };
    let (mut names, mut braces, mut begins) = (Vec::new(), 0, false);
    for token in path {
        match token.text.as_str() {
            "{" => braces += 1,
            "}" => braces -= 1,
            name if begins => names.push(name.to_owned()),
            _ => (),
        }
        begins = braces == 1 && matches!(token.text.as_str(), "{" | ",");
    }
    names
}

/// A name, `::`, or one other character.
struct Token {
    text: String,
    line: usize,
}

/// The tokens of a source without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let (mut tokens, mut rest, mut line) = (Vec::new(), source, 1);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_whitespace() {
            first.len_utf8()
        } else {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match name {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                length => length,
            };
            let text = rest[..length].to_owned();
            tokens.push(Token { text, line });
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a comment that may hold others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let tail = &text[at..];
        let step = if tail.starts_with("/*") {
            depth += 1;
            2
        } else if tail.starts_with("*/") {
            depth -= 1;
            2
        } else {
            tail.chars().next().map_or(0, char::len_utf8)
        };
        at += step;
        if depth == 0 || step == 0 {
            return at;
        }
    }
}

/// The length of a string, a character or a lifetime, if the text begins with one.
fn literal(text: &str) -> Option<usize> {
    let body = ["br", "cr", "r", "b", "c", ""].iter().find_map(|prefix| {
        let body = text.strip_prefix(prefix)?;
        let marks = if prefix.ends_with('r') {
            body.len() - body.trim_start_matches('#').len()
        } else {
            0
        };
        let quote = body[marks..].chars().next()?;
        (quote == '"' || quote == '\'' && matches!(*prefix, "" | "b")).then_some((body, prefix.ends_with('r'), marks))
    });
    let (body, raw, marks) = body?;
    let start = text.len() - body.len();
    if raw {
        let end = format!("\"{}", "#".repeat(marks));
        let inside = start + marks + 1;
        return Some(text[inside..].find(&end).map_or(text.len(), |at| inside + at + end.len()));
    }
    let mut characters = body.char_indices();
    let quote = characters.next()?.1;
    // 'a' is a character, 'a alone a lifetime.
    if quote == '\'' && !body[1..].starts_with('\\') && body.chars().nth(2) != Some('\'') {
        return Some(start + 1);
    }
    let mut escaped = false;
    let end = characters.find(|(_, character)| {
        let ends = !escaped && *character == quote;
        escaped = !escaped && *character == '\\';
        ends
    });
    Some(end.map_or(text.len(), |(at, _)| start + at + 1))
}
