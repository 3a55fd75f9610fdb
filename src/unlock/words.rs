//! The words of a question: which volume, whose guests wait for it, which try this is.

use std::fmt::Write;

use crate::config::Volume;

/// How many guests are named before the rest is counted: a console line has about 80 columns.
const NAMED: usize = 4;

/// One line, without its end: "Passphrase for volume mail (guest mailserver), try 2 of 3, the last one was wrong:".
pub fn question(volume: &Volume, guests: &[String], group_waits: usize, attempt: u32, last: Option<&str>) -> String {
    // Writing into a string cannot fail.
    let mut words = format!("Passphrase for volume {}", volume.name);
    if !guests.is_empty() {
        let _ = write!(words, " ({})", list(guests));
    }
    if let Some(group) = volume.passphrase_group.as_ref().filter(|_| group_waits > 0) {
        let _ = write!(words, " and {group_waits} more of group {group}");
    }
    let _ = write!(words, ", try {attempt}");
    if volume.tries > 0 {
        let _ = write!(words, " of {}", volume.tries);
    }
    if let Some(last) = last {
        let _ = write!(words, ", {last}");
    }
    words.push(':');
    // libvirt allows almost any name: nothing of it may move a cursor or begin a line.
    words.replace(|c: char| c.is_control(), "?")
}

fn list(guests: &[String]) -> String {
    let word = if guests.len() == 1 { "guest" } else { "guests" };
    let named = guests.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match guests.len().saturating_sub(NAMED) {
        0 => format!("{word} {named}"),
        more => format!("{word} {named} and {more} more"),
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
        let guests = ["mailserver".to_owned()];
        assert_eq!(
            question(&volume(), &guests, 0, 1, None),
            "Passphrase for volume mail (guest mailserver), try 1 of 3:"
        );
        assert_eq!(
            question(&volume(), &guests, 0, 2, Some("the last one was wrong")),
            "Passphrase for volume mail (guest mailserver), try 2 of 3, the last one was wrong:"
        );
    }

    #[test]
    fn says_who_else_is_served_by_the_answer() {
        let mut volume = volume();
        volume.passphrase_group = Some("office".to_owned());
        volume.tries = 0;
        let guests: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec();
        let words = question(&volume, &guests, 2, 7, None);
        assert_eq!(
            words,
            "Passphrase for volume mail (guests a, b, c, d and 2 more) and 2 more of group office, try 7:"
        );
    }

    #[test]
    fn a_hostile_name_cannot_move_the_cursor() {
        let words = question(&volume(), &["x\x1b[2J\r\nroot login:".to_owned()], 0, 1, None);
        assert!(!words.contains(|c: char| c.is_control()), "{words:?}");
    }
}
