//! The man pages: written by hand in `man/`, with the words of the command line put in where a line asks for them.

use std::io;

use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use virt_unlock::cli::Cli;

use super::Generated;

/// Each page that is written by hand, with its name and section.
const PAGES: [(&str, u8, &str); 4] = [
    ("virt-unlock", 8, include_str!("../../man/virt-unlock.8")),
    ("virt-unlock.service", 8, include_str!("../../man/virt-unlock.service.8")),
    ("virt-unlock.toml", 5, include_str!("../../man/virt-unlock.toml.5")),
    ("virt-unlock-migration", 7, include_str!("../../man/virt-unlock-migration.7")),
];
/// Other names, all of section 8, under which a page is found.
const ALSO: [(&str, &str); 2] = [
    ("virt-unlock-guests.service", "virt-unlock.service"),
    ("virt-unlock@.service", "virt-unlock.service"),
];

/// A line of a page that begins so is a comment to man(1), and asks for something here.
const ASKS: &str = ".\\\" put here: ";
/// How long the lines are in the sources of the pages.
const WIDTH: usize = 79;
const VERSION: &str = "@VERSION@";

/// All pages.
pub fn all() -> io::Result<Vec<Generated>> {
    let path = |name: &str, section: u8| format!("man{section}/{name}.{section}");
    let mut pages = Vec::new();
    for (name, section, text) in PAGES {
        pages.push((path(name, section), filled_in(text)?));
    }
    for (name, of) in ALSO {
        pages.push((path(name, 8), format!(".so {}\n", path(of, 8))));
    }
    Ok(pages)
}

/// The page with everything that it asks for.
fn filled_in(page: &str) -> io::Result<String> {
    let cli = Cli::command();
    let mut left = commands(&cli);
    let mut text = String::new();
    for line in page.lines() {
        let asked = line.strip_prefix(ASKS);
        match asked.map(|asked| asked.split_once(' ').unwrap_or((asked, ""))) {
            None => text += &(line.replace(VERSION, env!("CARGO_PKG_VERSION")) + "\n"),
            Some(("options", "")) => text += &options(cli.clone())?,
            Some(("command", name)) => {
                let place = left.iter().position(|(known, _)| known == name);
                let place =
                    place.ok_or_else(|| io::Error::other(format!("{line}: there is no such command, or not any more")))?;
                let (name, of) = left.remove(place);
                text += &command(&name, of)?;
            }
            Some(("other", "commands")) => {
                for (name, of) in left.drain(..) {
                    text += &command(&name, of)?;
                }
            }
            Some(_) => return Err(io::Error::other(format!("{line}: asks for what there is not"))),
        }
    }
    Ok(text)
}

/// Each command with its words: `up`, `master create`.
fn commands(cli: &Command) -> Vec<(String, &Command)> {
    let mut found = Vec::new();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let below = commands(command);
        if below.is_empty() {
            found.push((name.to_owned(), command));
        }
        found.extend(below.into_iter().map(|(rest, command)| (format!("{name} {rest}"), command)));
    }
    found
}

/// The options that every command takes.
fn options(cli: Command) -> io::Result<String> {
    part(|text| Man::new(cli).render_options_section(text))
}

/// A command: how it is called, what it does, and what it takes.
fn command(name: &str, command: &Command) -> io::Result<String> {
    let usage = command.get_arguments().filter(|argument| !argument.is_hide_set()).map(usage);
    let usage: String = std::iter::once(name.to_owned()).chain(usage).collect::<Vec<_>>().join(" ");
    let man = Man::new(command.clone().disable_help_flag(true));
    let words = part(|text| man.render_description_section(text))?;
    let arguments = part(|text| man.render_options_section(text))?;
    let heading = usage.replace('-', "\\-");
    Ok(format!(".SS \"{heading}\"\n{words}{arguments}"))
}

fn usage(argument: &Arg) -> String {
    let name = argument
        .get_value_names()
        .and_then(<[_]>::first)
        .map_or("", |name| name.as_str());
    match argument.get_long() {
        Some(long) if argument.get_action().takes_values() => format!("[--{long} {name}]"),
        Some(long) => format!("[--{long}]"),
        None if argument.get_action().takes_values() => {
            let more = argument.get_num_args().is_some_and(|count| count.max_values() > 1);
            let name = format!("{name}{}", if more { "..." } else { "" });
            if argument.is_required_set() {
                name
            } else {
                format!("[{name}]")
            }
        }
        None => String::new(),
    }
}

/// What the crate writes of a page, without what only a whole page has: the heading, and a definition of the apostrophe.
fn part(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut text = Vec::new();
    render(&mut text)?;
    let text = String::from_utf8_lossy(&text).replace("\\*(Aq", "\\(aq");
    let is_of_page = |line: &&str| [".SH", ".ie", ".el"].iter().any(|request| line.starts_with(request));
    let lines = text.lines().filter(|line| !is_of_page(line) && !line.is_empty());
    Ok(lines.map(|line| wrapped(&of_names(line)) + "\n").collect())
}

/// The crate writes `[NAME]` for an argument that may stand any number of times, and `<NAME>` for one that must stand.
fn of_names(line: &str) -> String {
    let between = |before: &str, after: &str| line.strip_prefix(before)?.strip_suffix(after);
    match (between("[\\fI", "\\fR]"), between("<\\fI", "\\fR>")) {
        (Some(name), _) => format!("\\fI{name}\\fR..."),
        (_, Some(name)) => format!("\\fI{name}\\fR"),
        _ => line.to_owned(),
    }
}

/// A line of text as several, which mean the same to man(1) and can be read in the source too.
fn wrapped(line: &str) -> String {
    if line.starts_with('.') {
        return line.to_owned();
    }
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let last = lines
            .last_mut()
            .filter(|last| last.is_empty() || last.len() + 1 + word.len() <= WIDTH);
        match last {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) => *last += &format!(" {word}"),
            // At the beginning of a line these two would be requests.
            None if word.starts_with(['.', '\'']) => lines.push(format!("\\&{word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_asks_only_for_what_there_is() {
        let asking = |what: &str| filled_in(&format!(".SH X\n{ASKS}{what}\n"));
        assert!(asking("command plan").unwrap().contains("\n.SS \"plan [\\-\\-down]"));
        assert!(asking("options").unwrap().contains("\\fB\\-\\-config\\fR"));
        let all = asking("other commands").unwrap();
        assert!(all.contains(".SS \"up [NAME...]\"") && all.contains(".SS \"check\""), "{all}");
        assert!(!all.contains("service volumes"), "hidden commands stay hidden: {all}");
        for wrong in ["command pln", "opinions", "command service"] {
            assert!(asking(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_wrapped_and_stay_text() {
        let long = format!("{} .TH 'x {}", "word ".repeat(15).trim(), "y".repeat(100));
        let text = wrapped(&long);
        assert_eq!(text.replace('\n', " ").replace("\\&", ""), long);
        assert!(text.lines().count() > 1 && !text.contains("\n."), "{text}");
        assert_eq!(wrapped(".SS \"a b\""), ".SS \"a b\"");
    }
}
