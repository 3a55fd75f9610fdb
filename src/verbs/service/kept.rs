//! The configuration that a way up went by, kept for the way down.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{self, Config};
use crate::host::lock::FOLDER;
use crate::private_file;
use crate::report::{complain, plain, remark};
use crate::verbs::in_force::in_force;
use crate::verbs::session::Session;
use crate::verbs::{App, Failure};

/// The file's name without its ending. Each unit of one name has its own: it may be begun with another configuration.
const RUNNING_CONFIG: &str = "running";
/// Of the last `virt-unlock up` of a person's, which may have named another configuration too.
const BY_HAND: &str = "by-hand.toml";

/// For the way down: the configuration as it is, with what is open by that of the way up and was taken out or changed since; or, if
/// somebody has just broken it, the one of the way up. `name`: of the unit of one name.
pub(super) fn session_of_running(app: &App, name: Option<&str>) -> Result<Session, Failure> {
    let kept = if name.is_some() {
        vec![running_config(name)]
    } else {
        kept_for_all()
    };
    let session = match Session::begin(app, false) {
        Err(failure @ Failure::Config(_)) => {
            let Some(right) = newest_right(&kept) else {
                return Err(failure);
            };
            remark(failure.priority(), failure.kind(), &failure.to_string());
            going_by(right);
            Session::with_config(app, Some(right), false)?
        }
        other => other?,
    };
    Ok(with_all_forgotten(session, &kept))
}

/// For a way down that a person has ordered, who has time to correct a broken file: that is an error. A configuration that was named
/// is the only one that counts.
pub(in crate::verbs) fn session_by_hand(app: &App) -> Result<Session, Failure> {
    let session = Session::begin(app, false)?;
    Ok(match app.config {
        Some(_) => session,
        None => with_all_forgotten(session, &kept_for_all()),
    })
}

fn newest_right(kept: &[PathBuf]) -> Option<&Path> {
    kept.iter()
        .map(PathBuf::as_path)
        .find(|path| config::load(Some(path)).is_ok())
}

/// For an emergency, which no slip of the pen in a file may prevent: the configuration as it is, or, where that is wrong, the newest
/// one of a way up; with what is open by any other that was kept.
pub(in crate::verbs) fn session_of_emergency(app: &App) -> Result<Session, Failure> {
    let kept = all_kept(Path::new(FOLDER));
    let session = match Session::begin(app, false) {
        Err(failure @ Failure::Config(_)) => {
            let Some(right) = newest_right(&kept) else {
                complain(&format!("virt-unlock: {}", nothing_kept()));
                return Err(failure);
            };
            complain(&failure.for_terminal());
            going_by(right);
            Session::with_config(app, Some(right), false)?
        }
        other => other?,
    };
    Ok(with_all_forgotten(session, &kept))
}

fn going_by(kept: &Path) {
    let words = format!(
        "the configuration is wrong: going down by the one that was in force on the way up, {}",
        kept.display()
    );
    remark(4, None, &words);
}

/// What a person can do who has no time to lose.
fn nothing_kept() -> String {
    format!(
        "NOTHING WAS TAKEN DOWN: the configuration is wrong, as said below, and none of a way up is kept in {FOLDER}; correct it, or \
         by hand: `virsh destroy GUEST` for each guest, and `cryptsetup luksSuspend NAME`, which takes its key out of the kernel, for each \
         name that `dmsetup ls --target crypt` shows"
    )
}

/// The configurations that ways up have left, the newest first.
fn all_kept(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| is_kept(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The same for a way down of everything: what a unit of one name has opened is closed by that unit.
fn kept_for_all() -> Vec<PathBuf> {
    let mut kept = all_kept(Path::new(FOLDER));
    kept.retain(|path| !is_of_one_name(path));
    kept
}

fn is_kept(file: &str) -> bool {
    let rest = file.strip_suffix(".toml").and_then(|name| name.strip_prefix(RUNNING_CONFIG));
    file == BY_HAND || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn is_of_one_name(path: &Path) -> bool {
    path.file_stem()
        .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{RUNNING_CONFIG}-")))
}

fn with_all_forgotten(session: Session, kept: &[PathBuf]) -> Session {
    kept.iter().fold(session, |session, path| with_forgotten(session, path))
}

fn with_forgotten(mut session: Session, kept: &Path) -> Session {
    // It was right when it was kept; one that another version of this program wrote is no help.
    let Ok(loaded) = config::load(Some(kept)) else {
        return session;
    };
    let devices = Arc::clone(&session.host.devices);
    let (config, forgotten) = in_force(session.config, &loaded.config, |volume| devices.volume_facts(volume));
    session.config = config;
    for name in forgotten {
        let words = format!(
            "volume {name} is open, but not as the configuration has it now: going down by the one of the way up, {}",
            kept.display()
        );
        remark(4, None, &words);
    }
    session
}

/// The configuration of the way up that virt-unlock.service made, if there was one.
pub(in crate::verbs) fn kept_configuration() -> Option<Config> {
    config::load(Some(&running_config(None))).ok().map(|loaded| loaded.config)
}

/// Keeps the configuration of this way up: the way down must not depend on what somebody is editing.
pub(super) fn keep_configuration(session: &Session, name: Option<&str>) {
    keep(session, &running_config(name));
}

/// The same for a way up that a person has ordered.
pub(in crate::verbs) fn keep_by_hand(session: &Session) {
    keep(session, &Path::new(FOLDER).join(BY_HAND));
}

fn keep(session: &Session, kept: &Path) {
    let text = config::joined(session.files.iter().map(|(_, text)| text.as_str()));
    if let Err(error) = private_file::replace(kept, text.as_bytes()) {
        let words = format!(
            "the configuration is not kept for the way down: {}: {}",
            kept.display(),
            plain(&error.to_string())
        );
        remark(4, None, &words);
    }
}

fn running_config(name: Option<&str>) -> PathBuf {
    let of = name.map(|name| format!("-{name}")).unwrap_or_default();
    Path::new(FOLDER).join(format!("{RUNNING_CONFIG}{of}.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ways_up_have_kept_is_found_the_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "running.toml",
            "by-hand.toml",
            "running-vm.toml",
            "other.toml",
            "running.toml.new",
            "runningx.toml",
        ];
        for (age, name) in (1..).zip(names) {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age))
                .unwrap();
        }
        let found = all_kept(folder.path());
        let found: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(found, ["running-vm.toml", "by-hand.toml", "running.toml"]);
        assert!(all_kept(&folder.path().join("nowhere")).is_empty());
    }
}
