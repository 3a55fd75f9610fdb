//! From a path that a definition names to the places that it leads to.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::qcow2;
use crate::facts::{DevNum, Source};
use nix::sys::stat::{major, minor};

/// How many symbolic links one path may lead through, as in the kernel (its `MAXSYMLINKS`).
const LINK_LIMIT: usize = 40;

/// How long one image may take to be looked at: a server that is away keeps who asks for ever.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a folder whose server did not answer is not asked again.
const SILENCE: Duration = Duration::from_secs(60);

/// The folders whose server did not answer in time, and when: it is not asked for the next image in them.
static SILENT: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());

/// Adds a path and everything that its image needs besides it. What is there already is not added again.
pub fn add(sources: &mut Vec<Source>, path: PathBuf, pool: Option<String>, format: Option<&str>, backing: bool) {
    let unseen = Source {
        path: path.clone(),
        resolved: path.clone(),
        number: None,
        pool: pool.clone(),
    };
    let format = format.map(str::to_owned);
    let look = move || {
        let below = qcow2::chain(&path, format.as_deref(), backing);
        let below = below.into_iter().map(|path| source(path, None));
        std::iter::once(source(path, pool)).chain(below).collect()
    };
    for source in within(LIMIT, unseen, look) {
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
}

/// What `look` finds, or what stands in the definition alone: an image on a server that is away keeps no other guest from being known,
/// and none of ours lies there. The thread that waits for the server ends when that answers, or with the process.
fn within(limit: Duration, unseen: Source, look: impl FnOnce() -> Vec<Source> + Send + 'static) -> Vec<Source> {
    let folder = unseen.path.parent().unwrap_or(&unseen.path).to_owned();
    let silent = || SILENT.lock().unwrap_or_else(PoisonError::into_inner);
    if silent().get(&folder).is_some_and(|since| since.elapsed() < SILENCE) {
        return vec![unseen];
    }
    let (tell, found) = mpsc::channel();
    let begun = thread::Builder::new()
        .name("image".to_owned())
        .spawn(move || tell.send(look()));
    match begun.map(|_| found.recv_timeout(limit)) {
        Ok(Ok(found)) => found,
        Ok(Err(RecvTimeoutError::Timeout)) => {
            silent().insert(folder, Instant::now());
            vec![unseen]
        }
        _ => vec![unseen],
    }
}

fn source(path: PathBuf, pool: Option<String>) -> Source {
    let resolved = resolve(&path);
    let device = std::fs::metadata(&path)
        .ok()
        .filter(|found| found.file_type().is_block_device());
    Source {
        number: device.map(|device| DevNum {
            major: major(device.rdev()),
            minor: minor(device.rdev()),
        }),
        // "/srv/a/../b" is below /srv/a in its letters only.
        path: if path.components().any(|part| part == Component::ParentDir) {
            resolved.clone()
        } else {
            path
        },
        resolved,
        pool,
    }
}

/// The path with every symbolic link followed, also one to a place that is not there yet (a volume that is not mounted), as
/// `realpath --canonicalize-missing` does.
fn resolve(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    let mut links = 0;
    // What is still to be walked, the next part last.
    let mut parts = parts_of(path);
    while let Some(part) = parts.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        resolved.push(part);
        if links < LINK_LIMIT
            && let Ok(target) = std::fs::read_link(&resolved)
        {
            links += 1;
            // An absolute target starts anew by its first part, "/".
            resolved.pop();
            parts.extend(parts_of(&target));
        }
    }
    resolved
}

fn parts_of(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.rev().map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_also_to_what_is_not_there_yet() {
        let at = tempfile::tempdir().unwrap();
        let here = std::fs::canonicalize(at.path()).unwrap();
        std::fs::create_dir(here.join("images")).unwrap();
        symlink("/not/mounted/../vm/web.qcow2", here.join("images/web")).unwrap();
        symlink("images", here.join("short")).unwrap();
        symlink("self", here.join("self")).unwrap();
        assert_eq!(resolve(&here.join("short/web")), Path::new("/not/vm/web.qcow2"));
        assert_eq!(resolve(&here.join("short/./new/disk")), here.join("images/new/disk"));
        assert_eq!(resolve(&here.join("short/../other")), here.join("other"));
        assert_eq!(resolve(&here.join("self")), here.join("self"));
        assert_eq!(resolve(Path::new("/../x")), Path::new("/x"));
        assert_eq!(resolve(Path::new("")), Path::new(""));
    }

    #[test]
    fn a_path_that_goes_up_again_is_not_below_what_it_passes() {
        let found = source("/not/a/../b/disk".into(), None);
        assert_eq!((found.path.as_path(), found.number), (Path::new("/not/b/disk"), None));
    }

    #[test]
    fn a_server_that_is_away_is_asked_once_and_keeps_nobody() {
        let (release, away) = mpsc::channel::<()>();
        let seen = |path: &str| source(path.into(), None);
        let hang = move || {
            let _ = away.recv();
            Vec::new()
        };
        let first = seen("/away-server/one.iso");
        assert_eq!(within(Duration::from_millis(5), first.clone(), hang), [first]);
        let second = seen("/away-server/two.iso");
        let ask = || panic!("the server was asked again");
        assert_eq!(within(Duration::from_secs(60), second.clone(), ask), [second]);
        let other = seen("/elsewhere/one");
        let found = other.clone();
        assert_eq!(
            within(Duration::from_secs(60), seen("/elsewhere/x"), move || vec![found]),
            [other]
        );
        drop(release);
    }

    #[test]
    fn nothing_stands_there_twice() {
        let mut sources = Vec::new();
        for pool in [None, None, Some("vms".to_owned())] {
            add(&mut sources, "/srv/disk".into(), pool, Some("qcow2"), true);
        }
        assert_eq!(sources.len(), 2);
    }
}
