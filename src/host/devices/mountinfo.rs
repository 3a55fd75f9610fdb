//! The list of mounts of one namespace, `proc_pid_mountinfo(5)`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::path_of;
use super::sysfs::parse_number;
use crate::facts::DevNum;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Its number, the same in every mount namespace.
    pub id: u64,
    /// The mount that it is mounted on.
    pub parent: u64,
    /// What `st_dev` is in its files; an anonymous number for filesystems on several devices (btrfs).
    pub number: DevNum,
    /// Where.
    pub at: PathBuf,
    /// How this mount differs from others of its filesystem, between commas.
    pub options: String,
    /// The filesystem's type.
    pub fstype: String,
    /// What is mounted there, as the filesystem names it: mostly a path below `/dev`.
    pub source: PathBuf,
    /// The group of mounts that it passes mounts and unmounts on to.
    pub shared: Option<u64>,
    /// The group of mounts that it gets them from.
    pub master: Option<u64>,
}

/// The mounts of one namespace. Lines that are not as they should be are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = ascii(fields.next()?)?.parse().ok()?;
    let parent = ascii(fields.next()?)?.parse().ok()?;
    let number = parse_number(ascii(fields.next()?)?)?;
    let at = path_of(unescape(fields.nth(1)?));
    let options = ascii(fields.next()?)?.to_owned();
    let (mut shared, mut master) = (None, None);
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        match ascii(field)?.split_once(':') {
            Some(("shared", group)) => shared = group.parse().ok(),
            Some(("master", group)) => master = group.parse().ok(),
            _ => {}
        }
    }
    Some(Mounted {
        id,
        parent,
        number,
        at,
        options,
        fstype: ascii(fields.next()?)?.to_owned(),
        source: path_of(unescape(fields.next()?)),
        shared,
        master,
    })
}

fn ascii(field: &[u8]) -> Option<&str> {
    str::from_utf8(field).ok()
}

/// Undoes the kernel's `\040` for space, tab, line end and backslash.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .and_then(ascii)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) if first == b'\\' => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

/// The mounts of one namespace, for who looks up many paths: a look-up does not go through the whole list.
pub(super) struct Table {
    mounts: Vec<Mounted>,
    ids: HashSet<u64>,
    /// Which of them each mount point has.
    at: HashMap<PathBuf, Vec<usize>>,
}

impl Table {
    /// Of these mounts.
    pub(super) fn of(mounts: Vec<Mounted>) -> Self {
        let mut at: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        for (place, mount) in mounts.iter().enumerate() {
            at.entry(mount.at.clone()).or_default().push(place);
        }
        Self {
            ids: mounts.iter().map(|mount| mount.id).collect(),
            mounts,
            at,
        }
    }

    /// The mount that has the path now: what a look-up of the path walks into, from mount to mount. A mount below one that was
    /// mounted over it later is not reached, nor is the lower one of two at the same place.
    pub(super) fn visible(&self, path: &Path) -> Option<&Mounted> {
        // From the outermost.
        let above: Vec<&Path> = path.ancestors().collect();
        let places = above.iter().rev().filter_map(|above| self.at.get(*above)).flatten();
        let on_the_way: Vec<&Mounted> = places.map(|place| &self.mounts[*place]).collect();
        let nearest = |is_candidate: &dyn Fn(&Mounted) -> bool| on_the_way.iter().copied().find(|mount| is_candidate(mount));
        let mut here = nearest(&|mount| mount.parent == mount.id || !self.ids.contains(&mount.parent))?;
        // Parents lead to the root, so that this ends; the count is for lists that changed while they were read.
        for _ in 0..self.mounts.len() {
            match nearest(&|mount| mount.parent == here.id && mount.id != here.id) {
                Some(next) => here = next,
                None => break,
            }
        }
        Some(here)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOOTED: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
31 22 253:3 / /srv/my\\040vm\\134x rw,nosuid shared:40 master:7 propagate_from:2 - ext4 /dev/mapper/vm rw
40 22 0:45 /@ /srv/b rw - btrfs /dev/mapper/b rw,subvol=/@
not a line
";

    fn seen(text: &str, path: &str) -> u64 {
        Table::of(parse(text.as_bytes())).visible(Path::new(path)).unwrap().id
    }

    #[test]
    fn lines_are_read_and_their_paths_unescaped() {
        let mounts = parse(BOOTED);
        assert_eq!(mounts.len(), 3);
        let expected = Mounted {
            id: 31,
            parent: 22,
            number: DevNum { major: 253, minor: 3 },
            at: "/srv/my vm\\x".into(),
            options: "rw,nosuid".into(),
            fstype: "ext4".into(),
            source: "/dev/mapper/vm".into(),
            shared: Some(40),
            master: Some(7),
        };
        assert_eq!(mounts[1], expected);
        assert_eq!(unescape(b"a\\04\\"), b"a\\04\\");
    }

    #[test]
    fn the_upper_of_two_at_one_place_has_it() {
        let text = "1 0 8:0 / / rw - ext4 a rw\n3 2 8:2 / /srv rw - ext4 c rw\n2 1 8:1 / /srv rw - ext4 b rw\n";
        assert_eq!(seen(text, "/srv"), 3);
        assert_eq!(seen(text, "/srv/x"), 3);
        assert_eq!(seen(text, "/srvx"), 1);
    }

    #[test]
    fn a_mount_below_one_that_was_mounted_over_it_is_not_reached() {
        let text = "1 0 8:0 / / rw - ext4 a rw\n2 1 8:1 / /srv/vm rw - ext4 b rw\n3 1 8:2 / /srv rw - ext4 c rw\n";
        assert_eq!(seen(text, "/srv/vm"), 3);
        let inside = format!("{text}4 3 8:3 / /srv/vm rw - ext4 d rw\n");
        assert_eq!(seen(&inside, "/srv/vm"), 4);
    }

    #[test]
    fn this_process_s_own_mounts_are_read() {
        let mounts = parse(&std::fs::read("/proc/self/mountinfo").unwrap());
        let mounts = Table::of(mounts);
        assert_eq!(mounts.visible(Path::new("/proc/self")).unwrap().fstype, "proc");
        assert_eq!(Table::of(Vec::new()).visible(Path::new("/")), None);
    }
}
