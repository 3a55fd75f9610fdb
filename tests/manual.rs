//! The manual: it is whole, man(1) shows it without a warning, and what it says of keys, defaults and command lines is so.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::{CommandFactory, Parser, error::ErrorKind};
use tempfile::TempDir;
use virt_unlock::cli::Cli;
use virt_unlock::config::{self, Config, DeviceSpec, DomainConfig, Master, SecretConfig, Volume};

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-unlock");
const TABLES: [&str; 5] = ["[host]", "[volume.NAME]", "[master.NAME]", "[secret.NAME]", "[domain.NAME]"];

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A folder with the pages.
fn pages() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new(PROGRAM).args(["generate", "man"]).arg(folder.path()));
    folder
}

fn page(name: &str) -> String {
    let section = name.rsplit('.').next().unwrap();
    fs::read_to_string(pages().path().join(format!("man{section}")).join(name)).unwrap()
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], BTreeSet::new());
    while let Some(next) = folders.pop() {
        for item in fs::read_dir(next).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn man_shows_every_page_without_a_warning() {
    let folder = pages();
    let pages = files(folder.path());
    assert!(pages.len() >= 6, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(folder.path().join(&page)).unwrap();
        if let Some(other) = text.strip_prefix(".so ") {
            // Another name of a page; mandoc would like a link better, and man(1) takes both.
            assert!(folder.path().join(other.trim()).is_file(), "{}: {text}", page.display());
            continue;
        }
        let lint = Command::new("mandoc")
            .current_dir(folder.path())
            .arg("-Tlint")
            .arg(&page)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&lint.stdout), "", "mandoc -Tlint {}", page.display());
        // As lintian looks for what groff complains of.
        let man = run(Command::new("man")
            .current_dir(folder.path())
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80"));
        assert_eq!(String::from_utf8_lossy(&man.stderr), "", "man --warnings {}", page.display());
    }
}

/// The counterpart, which shows that the test above would see it.
#[test]
fn a_wrong_page_is_complained_of() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("x.8");
    fs::write(&page, ".TH X 8 2026-11-25\n.SH NAME\nx \\- y\n.XYZ nonsense\n").unwrap();
    let lint = Command::new("mandoc").arg("-Tlint").arg(&page).output().unwrap();
    assert!(String::from_utf8_lossy(&lint.stdout).contains("XYZ"), "{lint:?}");
}

#[test]
fn pages_are_the_same_each_time_and_name_the_version() {
    let (first, second) = (pages(), pages());
    for page in files(first.path()) {
        let text = fs::read(first.path().join(&page)).unwrap();
        assert_eq!(text, fs::read(second.path().join(&page)).unwrap(), "{}", page.display());
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with(".so ") || text.contains(concat!("virt\\-unlock ", env!("CARGO_PKG_VERSION"))),
            "{}",
            page.display()
        );
    }
}

#[test]
fn every_command_and_option_is_in_its_page() {
    let page = page("virt-unlock.8");
    let cli = Cli::command();
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
    // What has commands of its own is called by them alone.
    let all = shown.flat_map(|command| {
        let name = command.get_name();
        let below = command
            .get_subcommands()
            .map(move |below| (format!("{name} {}", below.get_name()), below));
        let alone = (!command.has_subcommands()).then(|| (name.to_owned(), command));
        below.chain(alone)
    });
    for (name, command) in all {
        let heading = page.lines().find(|line| line.starts_with(&format!(".SS \"{name}")));
        let heading = heading.unwrap_or_else(|| panic!("{name} has no heading"));
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let option = format!("\\-\\-{}", option.replace('-', "\\-"));
            assert!(
                heading.contains(&option) && page.contains(&format!("\\fB{option}\\fR")),
                "{name} {option}"
            );
        }
    }
    assert!(!page.contains("put here"), "something that was asked for was not put in");
}

/// What stands after `.TP` in a section: words in bold, as they are shown.
struct Entry {
    name: String,
    default: Option<String>,
}

/// Roff's ways to write `-` and `"`, and quotes around what a macro takes, undone.
fn shown(text: &str) -> String {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.replace("\\-", "-").replace("\\(dq", "\"").replace("\\fR", "")
}

/// The entries of a section.
fn entries(page: &str, section: &str) -> Vec<Entry> {
    let body = page
        .split(".SH ")
        .find_map(|part| part.strip_prefix(section))
        .unwrap_or_else(|| panic!("there is no section {section}"));
    let entries = body.split("\n.TP\n").skip(1).map(|entry| {
        let name = entry.lines().next().and_then(|line| line.strip_prefix(".B "));
        let name = shown(name.unwrap_or_else(|| panic!("{section}: {entry:?} does not begin with a key")));
        let default = entry
            .split_once("Default:\n.BR ")
            .and_then(|(_, rest)| rest.lines().next()?.strip_suffix(" .").map(shown));
        Entry { name, default }
    });
    entries.collect()
}

#[test]
fn the_configuration_s_page_has_every_key_and_no_other() {
    let page = page("virt-unlock.toml.5");
    let shown = TABLES.iter().flat_map(|section| entries(&page, section));
    let shown: Vec<String> = shown.map(|entry| entry.name).collect();
    let (mut shown, mut keys): (Vec<&str>, Vec<&str>) = (shown.iter().map(String::as_str).collect(), config::keys().collect());
    shown.sort_unstable();
    keys.sort_unstable();
    assert_eq!(shown, keys);
}

#[test]
fn the_configuration_s_page_says_the_defaults() {
    let page = page("virt-unlock.toml.5");
    let [host, volume, master, secret, domain] = TABLES.map(|section| {
        let said = entries(&page, section).into_iter();
        said.filter_map(|entry| Some(format!("{} = {}\n", entry.name, entry.default?)))
            .collect::<String>()
    });
    let text = format!(
        "[host]\n{host}[volume.v]\ndevice = \"/dev/v\"\n{volume}[master.m]\nheader = \"/m\"\n{master}[secret.s]\n{secret}[domain.d]\n{domain}"
    );
    let defaults = Config {
        volumes: vec![Volume::new("v", DeviceSpec::Path("/dev/v".into()))],
        masters: vec![Master::new("m", "/m".into())],
        secrets: vec![SecretConfig::new("s")],
        domains: vec![DomainConfig::new("d")],
        ..Config::default()
    };
    assert_eq!(parse(&text), defaults, "{text}");
    assert!(
        host.lines().count() == 4
            && volume.lines().count() >= 11
            && master.lines().count() == 2
            && secret.lines().count() == 2
            && domain.lines().count() >= 6,
        "{text}"
    );
}

fn parse(text: &str) -> Config {
    config::parse(&[(PathBuf::from("the manual"), text.to_owned())]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The examples of a page, between `.EX` and `.EE`.
fn examples(page: &str) -> Vec<String> {
    let examples = page.split("\n.EX\n").skip(1).map(|rest| rest.split("\n.EE").next().unwrap());
    examples.map(shown).collect()
}

#[test]
fn every_configuration_in_the_manual_is_one() {
    let examples = examples(&page("virt-unlock.toml.5"));
    let whole: Vec<&String> = examples.iter().filter(|text| text.starts_with('[')).collect();
    assert!(whole.len() >= 7, "{examples:?}");
    for text in whole {
        parse(text);
    }
    assert!(examples.iter().any(|text| text.starts_with("mount = {")), "{examples:?}");
    for text in examples.iter().filter(|text| text.starts_with("mount = {")) {
        parse(&format!("[volume.v]\ndevice = \"/dev/v\"\n{text}"));
    }
}

/// What systemd does not understand it passes over, and a unit that misses its credential does not start.
#[test]
fn the_drop_in_of_the_manual_is_understood_by_systemd() {
    let examples = examples(&page("virt-unlock.toml.5"));
    let drop_in = examples
        .iter()
        .find(|text| text.contains("LoadCredentialEncrypted="))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("shown.service");
    let complaints = |text: &str| {
        fs::write(&unit, format!("{text}\nType=oneshot\nExecStart=/bin/true\n")).unwrap();
        let verified = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        said.lines().filter(|line| line.contains("shown.service:")).count()
    };
    assert_eq!(complaints(drop_in), 0, "{drop_in}");
    assert_eq!(complaints("[Service]\nSetCredential=mail:"), 1, "the counterpart");
}

#[test]
fn every_command_line_in_the_manual_is_one() {
    let pages = [
        "virt-unlock.8",
        "virt-unlock.service.8",
        "virt-unlock.toml.5",
        "virt-unlock-migration.7",
    ]
    .map(page);
    let of = |page: &String| {
        let bold = page.lines().filter_map(|line| Some(line.strip_prefix(".B ")?.to_owned()));
        let typed = examples(page).join("\n");
        let typed: Vec<String> = typed.lines().map(|line| line.trim_start_matches("# ").to_owned()).collect();
        bold.chain(typed).map(|line| shown(&line)).collect::<Vec<_>>()
    };
    let lines: Vec<String> = pages.iter().flat_map(of).collect();
    let lines = lines
        .iter()
        .flat_map(|line| line.split("&&"))
        .filter_map(|line| line.split(['|', '>', ':']).next());
    let lines: Vec<&str> = lines.map(str::trim).filter(|line| line.starts_with("virt-unlock ")).collect();
    for line in &lines {
        if let Err(error) = Cli::try_parse_from(line.split(' ')) {
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "`{line}`: {error}");
        }
    }
    for verb in ["up", "down", "status", "plan", "check", "discover"] {
        assert!(
            lines.iter().any(|line| line.split(' ').nth(1) == Some(verb)),
            "{verb}: {lines:?}"
        );
    }
}

#[test]
fn a_name_that_a_page_refers_to_is_a_page() {
    let folder = pages();
    let files = files(folder.path());
    let is_ours = |name: &str| files.iter().any(|file| file.file_name().is_some_and(|file| file == name));
    for file in &files {
        let text = fs::read_to_string(folder.path().join(file)).unwrap().replace("\\-", "-");
        for line in text.lines().filter_map(|line| line.strip_prefix(".BR virt-unlock")) {
            let Some((name, rest)) = line.split_once(" (") else { continue };
            let section = rest.split(')').next().unwrap();
            let name = format!("virt-unlock{name}.{section}");
            assert!(is_ours(&name), "{}: {name}", file.display());
        }
    }
    for unit in ["virt-unlock.service", "virt-unlock-guests.service"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units").join(unit)).unwrap();
        assert!(text.contains("\nDocumentation=man:virt-unlock.service(8)"), "{unit}");
        assert!(is_ours(&format!("{unit}.8")), "{unit}");
    }
}

/// What the kernel ends for want of memory must not make systemd stop the unit, and so every guest.
#[test]
fn the_units_outlive_a_process_of_theirs_as_the_manual_says() {
    for unit in ["virt-unlock.service", "virt-unlock-guests.service", "virt-unlock@.service"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units").join(unit)).unwrap();
        assert!(text.contains("\nOOMPolicy=continue\n"), "{unit}");
    }
}

#[test]
fn make_puts_everything_in_place_and_takes_it_away_again() {
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("built");
    fs::create_dir(&built).unwrap();
    for program in [PROGRAM, env!("CARGO_BIN_EXE_virt-unlock-volumes")] {
        let program = Path::new(program);
        std::os::unix::fs::symlink(program, built.join(program.file_name().unwrap())).unwrap();
    }
    let host = folder.path().join("host");
    let make = |target: &str| {
        run(Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["CARGO=false", target])
            .arg(format!("release={}", built.display()))
            .arg(format!("DESTDIR={}", host.display()))
            .env_remove("MAKEFLAGS"))
    };
    make("install");
    let share = host.join("usr/share");
    let mut generated = files(&pages().path().canonicalize().unwrap());
    generated = generated.into_iter().map(|file| Path::new("man").join(file)).collect();
    let scripts = tempfile::tempdir().unwrap();
    run(Command::new(PROGRAM).args(["generate", "completions"]).arg(scripts.path()));
    generated.extend(files(scripts.path()));
    let installed: BTreeSet<PathBuf> = files(&share).into_iter().filter(|file| !file.starts_with("doc")).collect();
    assert_eq!(installed, generated);
    make("uninstall");
    assert_eq!(files(&host), BTreeSet::new());
}

/// The guard itself is seen at work where a package is removed (`boot package`).
#[test]
fn make_takes_nothing_away_before_it_has_asked_what_is_active() {
    let would_do = |destination: &str| {
        let said = run(Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--dry-run", "uninstall", destination])
            .env_remove("MAKEFLAGS"));
        let said = String::from_utf8(said.stdout).unwrap();
        (said.find("sh packaging/removal-guard.sh"), said.find("rm -"))
    };
    let (asks, removes) = would_do("DESTDIR=");
    assert!(asks.is_some() && asks < removes, "{asks:?} {removes:?}");
    // What lies in a folder is active nowhere.
    let (asks, removes) = would_do("DESTDIR=/folder");
    assert!(asks.is_none() && removes.is_some(), "{asks:?} {removes:?}");
}
