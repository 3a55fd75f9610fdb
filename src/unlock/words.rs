//! The words of a question: which volume, whose guests wait for it, which try this is.

use std::fmt::Write;

use crate::config::Volume;
use crate::text;

/// How many guests, or volumes, are named before the rest is counted: a console line has about 80 columns.
const NAMED: usize = 4;

/// One line: "Passphrase for volume mail (guest mailserver), try 2 of 3, the last one was wrong:".
pub fn question(wanted: &str, what: &str, attempt: u32, tries: u32, last: Option<&str>) -> String {
    // Writing into a string cannot fail.
    let mut words = format!("{wanted} for {what}, try {attempt}");
    if tries > 0 {
        let _ = write!(words, " of {tries}");
    }
    if let Some(last) = last {
        let _ = write!(words, ", {last}");
    }
    words.push(':');
    // libvirt allows almost any name: nothing of it may move a cursor, begin a line, or turn what follows around.
    words.replace(text::moves, "?")
}

/// A volume and who is served by its passphrase: "volume mail (guest mailserver) and 2 more of group office".
pub fn of_volume(volume: &Volume, guests: &[String], group_waits: usize) -> String {
    let mut words = format!("volume {}", volume.name);
    if !guests.is_empty() {
        let _ = write!(words, " ({})", list("guest", guests));
    }
    if let Some(group) = volume.passphrase_group.as_ref().filter(|_| group_waits > 0) {
        let _ = write!(words, " and {group_waits} more of group {group}");
    }
    words
}

/// A secret by the guests whose disks it opens: "guest web (secret 5f1c2a7e-…)".
pub fn of_secret(secret: &str, guests: &[String], group_waits: usize) -> String {
    let mut words = format!("secret {secret}");
    if !guests.is_empty() {
        words = format!("{} ({words})", list("guest", guests));
    }
    if group_waits > 0 {
        let _ = write!(words, " and {group_waits} more of its group");
    }
    words
}

/// A master and what waits for it: "master office (volumes mail, vm; guests mailserver, webserver)".
pub fn of_master(master: &str, volumes: &[String], guests: &[String]) -> String {
    let lists = [("volume", volumes), ("guest", guests)];
    let lists: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(word, names)| list(word, names))
        .collect();
    if lists.is_empty() {
        return format!("master {master}");
    }
    format!("master {master} ({})", lists.join("; "))
}

fn list(word: &str, names: &[String]) -> String {
    let word = if names.len() == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    };
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => format!("{word} {first}"),
        more => format!("{word} {first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSpec;

    fn volume() -> Volume {
        Volume::new("mail", DeviceSpec::Path("/dev/vg0/mail".into()))
    }

    #[test]
    fn says_which_volume_which_guests_which_try() {
        let what = of_volume(&volume(), &["mailserver".to_owned()], 0);
        assert_eq!(
            question("Passphrase", &what, 1, 3, None),
            "Passphrase for volume mail (guest mailserver), try 1 of 3:"
        );
        assert_eq!(
            question("Passphrase", &what, 2, 3, Some("the last one was wrong")),
            "Passphrase for volume mail (guest mailserver), try 2 of 3, the last one was wrong:"
        );
    }

    #[test]
    fn says_who_else_is_served_by_the_answer() {
        let mut volume = volume();
        volume.passphrase_group = Some("office".to_owned());
        let guests: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec();
        assert_eq!(
            question("Passphrase", &of_volume(&volume, &guests, 2), 7, 0, None),
            "Passphrase for volume mail (guests a, b, c, d and 2 more) and 2 more of group office, try 7:"
        );
    }

    #[test]
    fn says_what_waits_for_a_master() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (volumes, guests) = (names(&["mail", "v", "w", "x", "y", "z"]), names(&["web"]));
        assert_eq!(
            question("Passphrase", &of_master("office", &volumes, &guests), 1, 3, None),
            "Passphrase for master office (volumes mail, v, w, x and 2 more; guest web), try 1 of 3:"
        );
        assert_eq!(of_master("office", &volumes[..1], &[]), "master office (volume mail)");
        assert_eq!(of_master("office", &[], &[]), "master office");
    }

    #[test]
    fn says_what_is_wanted() {
        assert_eq!(
            question("Token PIN", "master office", 1, 0, None),
            "Token PIN for master office, try 1:"
        );
    }

    #[test]
    fn says_whose_disk_a_secret_opens() {
        let guests = ["web".to_owned()];
        assert_eq!(of_secret("5f1c", &guests, 0), "guest web (secret 5f1c)");
        assert_eq!(of_secret("5f1c", &[], 2), "secret 5f1c and 2 more of its group");
    }

    #[test]
    fn a_hostile_name_cannot_move_the_cursor() {
        let what = of_volume(&volume(), &["x\x1b[2J\r\nroot\u{9b}2J\u{202e} login:".to_owned()], 0);
        let words = question("Passphrase", &what, 1, 3, None);
        assert!(!words.contains(text::moves), "{words:?}");
    }
}
