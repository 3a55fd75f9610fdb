//! Entries of the journal with fields, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>): a line on standard output
//! cannot carry them.

use std::env;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lines::Line;
use super::spans::Span;
use super::{complain, ids};
use crate::event::{Event, Kind};
use crate::graph::Layer;
use crate::text::plain;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// journald is given this long to make room. Then the line goes to standard output, as it would without the protocol.
const PATIENCE: Duration = Duration::from_secs(5);
/// Both units' entries stand under one name.
const IDENTIFIER: &str = "virt-unlock";
/// `LOG_DAEMON`, the facility of what services write to their standard output (syslog(3)).
const FACILITY: &str = "3";

/// The journal, where it has this process's standard output and standard error.
pub(super) struct Journal {
    socket: UnixDatagram,
    at: PathBuf,
    unit: Option<String>,
}

impl Journal {
    /// The journal that systemd has given this process to write to, if it has.
    pub(super) fn of_this_process() -> Option<Self> {
        let stream = env::var("JOURNAL_STREAM").ok()?;
        if is_stream(&stream, std::io::stdout()) && is_stream(&stream, std::io::stderr()) {
            Self::at(
                Path::new(SOCKET),
                unit_of(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
            )
        } else {
            None
        }
    }

    fn at(socket: &Path, unit: Option<String>) -> Option<Self> {
        if !socket.exists() {
            return None;
        }
        let own = UnixDatagram::unbound().ok()?;
        own.set_write_timeout(Some(PATIENCE)).ok()?;
        Some(Self {
            socket: own,
            at: socket.to_owned(),
            unit,
        })
    }

    /// Writes an event's line, with what its layer has spent its time with. False: it could not be written, and is to be said
    /// elsewhere.
    pub(super) fn tell(&self, line: &Line, event: &Event, spans: &[Span]) -> bool {
        let mut entry = self.entry(line.priority, event.kind, event.layer.as_ref(), &line.text);
        for span in spans {
            put(&mut entry, "VIRT_UNLOCK_SPAN", &span.to_string());
        }
        self.send(&entry)
    }

    fn entry(&self, priority: u8, kind: Option<Kind>, layer: Option<&Layer>, text: &str) -> Vec<u8> {
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "MESSAGE", text);
        put(&mut entry, "PRIORITY", &priority.to_string());
        put(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
        put(&mut entry, "SYSLOG_FACILITY", FACILITY);
        if let Some(kind) = kind {
            put(&mut entry, "MESSAGE_ID", ids::of(kind));
        }
        if let Some(layer) = layer {
            put(&mut entry, "VIRT_UNLOCK_LAYER", &plain(&layer.to_string()));
            let field = match layer {
                Layer::Volume(_) | Layer::Mount(_) => Some("VIRT_UNLOCK_VOLUME"),
                Layer::Domain(_) => Some("VIRT_UNLOCK_DOMAIN"),
                Layer::Pool(_) | Layer::Secret(_) => None,
            };
            if let Some(field) = field {
                put(&mut entry, field, &plain(layer.name()));
            }
        }
        // journald looks up the unit of who wrote an entry, and finds nothing when that process has ended meanwhile. `journalctl -u`
        // looks at this field too.
        if let Some(unit) = &self.unit {
            put(&mut entry, "OBJECT_SYSTEMD_UNIT", unit);
        }
        entry
    }

    fn send(&self, entry: &[u8]) -> bool {
        self.socket.send_to(entry, &self.at).is_ok_and(|sent| sent == entry.len())
    }
}

/// Says, in a service, what is no event: an entry of the journal, or lines on standard error where there is none.
pub fn remark(priority: u8, kind: Option<Kind>, text: &str) {
    let journal = Journal::of_this_process();
    if journal.is_some_and(|journal| journal.send(&journal.entry(priority, kind, None, text.trim_end()))) {
        return;
    }
    if env::var_os("JOURNAL_STREAM").is_some() {
        text.lines().for_each(|line| complain(&format!("<{priority}>{line}")));
    } else {
        complain(text);
    }
}

/// One field. A value of more than one line is written with its length: what is in it is never read as a field.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// Whether this is the stream `DEVICE:INODE` that `JOURNAL_STREAM` names (systemd.exec(5)). The variable alone says little: a program
/// that a service starts inherits it, wherever its own output goes.
fn is_stream(stream: &str, file: impl AsFd) -> bool {
    nix::sys::stat::fstat(file).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// The service that a process belongs to, by its `/proc/PID/cgroup`: in the one hierarchy of cgroups(7), or in systemd's own of many.
fn unit_of(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    let mut units = paths.filter_map(|path| path.rsplit('/').find(|part| part.ends_with(".service")));
    units.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Happened, Outcome, Phase};

    /// A journal that keeps what it is sent.
    fn listening(folder: &Path) -> (Journal, UnixDatagram) {
        let at = folder.join("socket");
        let journald = UnixDatagram::bind(&at).unwrap();
        journald.set_nonblocking(true).unwrap();
        let journal = Journal::at(&at, Some("virt-unlock.service".to_owned())).unwrap();
        (journal, journald)
    }

    /// The next entry that has come, read as journald reads it.
    fn received(journald: &UnixDatagram) -> Vec<(String, String)> {
        let mut buffer = [0; 4096];
        let length = journald.recv(&mut buffer).unwrap();
        let (mut rest, mut fields) = (&buffer[..length], Vec::new());
        let words = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if let Some(sign) = line.iter().position(|byte| *byte == b'=') {
                fields.push((words(&line[..sign]), words(&line[sign + 1..])));
                rest = after;
            } else {
                let (size, after) = after.split_at(8);
                let size = usize::try_from(u64::from_le_bytes(size.try_into().unwrap())).unwrap();
                fields.push((words(line), words(&after[..size])));
                rest = &after[size + 1..];
            }
        }
        fields
    }

    fn event(layer: Layer, kind: Option<Kind>, happened: Happened) -> Event {
        Event {
            layer: Some(layer),
            kind,
            happened,
        }
    }

    #[test]
    fn an_entry_has_its_line_its_id_and_what_it_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, journald) = listening(folder.path());
        let event = event(
            Layer::Mount("vm".into()),
            Some(Kind::Mounted),
            Happened::Ended(Outcome::Done("mounted at /srv/vm".into())),
        );
        let span = |phase, begin, end| Span { phase, begin, end };
        let spans = [span(Phase::Mount, 7, 19), span(Phase::Mount, 20, 21)];
        assert!(journal.tell(&Line::of(&event), &event, &spans));
        let expected = [
            ("MESSAGE", "mount vm: mounted at /srv/vm"),
            ("PRIORITY", "5"),
            ("SYSLOG_IDENTIFIER", "virt-unlock"),
            ("SYSLOG_FACILITY", "3"),
            ("MESSAGE_ID", ids::MOUNTED),
            ("VIRT_UNLOCK_LAYER", "mount vm"),
            ("VIRT_UNLOCK_VOLUME", "vm"),
            ("OBJECT_SYSTEMD_UNIT", "virt-unlock.service"),
            ("VIRT_UNLOCK_SPAN", "mount 7 19"),
            ("VIRT_UNLOCK_SPAN", "mount 20 21"),
        ];
        assert_eq!(
            received(&journald),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn no_name_and_no_words_make_a_field_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, journald) = listening(folder.path());
        let event = event(
            Layer::Domain("web\nPRIORITY=0\nMESSAGE_ID=f".into()),
            None,
            Happened::Note("a\nPRIORITY=0".into()),
        );
        assert!(journal.tell(&Line::of(&event), &event, &[]));
        let text = "the configuration is wrong\nPRIORITY=0\n\nline 7";
        assert!(journal.send(&journal.entry(3, Some(Kind::ConfigWrong), None, text)));

        let of = |fields: &[(String, String)], name: &str| -> Vec<String> {
            let values = fields.iter().filter(|(found, _)| found == name);
            values.map(|(_, value)| value.clone()).collect()
        };
        let (first, second) = (received(&journald), received(&journald));
        assert_eq!(of(&first, "PRIORITY"), ["6"]);
        assert_eq!(of(&first, "MESSAGE_ID"), [""; 0]);
        assert_eq!(of(&first, "VIRT_UNLOCK_DOMAIN"), ["web PRIORITY=0 MESSAGE_ID=f"]);
        assert_eq!(of(&second, "PRIORITY"), ["3"]);
        assert_eq!(of(&second, "MESSAGE"), [text]);
    }

    #[test]
    fn what_journald_does_not_take_is_said_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::at(&folder.path().join("socket"), None).is_none());
        let (journal, journald) = listening(folder.path());
        drop(journald);
        assert!(!journal.send(b"MESSAGE=lost\n"));
    }

    #[test]
    fn only_the_stream_that_systemd_gave_is_the_journal() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let stat = nix::sys::stat::fstat(&file).unwrap();
        let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_stream(&stream, &file));
        assert!(!is_stream(&stream, &other));
        assert!(!is_stream("", &file));
    }

    #[test]
    fn a_process_knows_its_service() {
        let unit = |cgroup: &str| unit_of(cgroup);
        assert_eq!(
            unit("0::/system.slice/virt-unlock.service\n").as_deref(),
            Some("virt-unlock.service")
        );
        assert_eq!(
            unit("4:memory:/x.service\n1:name=systemd:/system.slice/system-a.slice/a@b.service/sub\n").as_deref(),
            Some("a@b.service")
        );
        assert_eq!(unit("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }
}
