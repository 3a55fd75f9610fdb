//! What a host that is off left on its disks.

/// The answers of `examine.sh`.
#[derive(Debug, Clone)]
pub struct Examination {
    text: String,
}

impl Examination {
    pub(super) fn new(text: String) -> Self {
        Self { text }
    }

    /// How often a guest wrote the marker of an event, `up` or `off` (for a guest that ignores its button: heard it).
    #[track_caller]
    pub fn marker(&self, guest: &str, event: &str) -> u16 {
        let head = format!("@marker {guest} {event} ");
        let found = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix(&head)?.split(' ').next()?.parse().ok());
        found.unwrap_or_else(|| panic!("no marker {event:?} of a guest {guest:?} in:\n{}", self.text))
    }

    /// Whether the filesystem on the volume `vm` was unmounted in good order.
    pub fn filesystem_clean(&self) -> bool {
        self.text.contains("\n@filesystem vm clean\n")
    }

    /// What the scenario's own commands printed.
    pub fn output(&self) -> &str {
        let from = self
            .text
            .find("@script\n")
            .map_or(self.text.len(), |start| start + "@script\n".len());
        let rest = &self.text[from..];
        rest.split_once("@end\n").map_or(rest, |(output, _)| output)
    }
}
