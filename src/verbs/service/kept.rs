//! The configuration that a way up went by, kept for the way down.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{self, Config};
use crate::host::lock::FOLDER;
use crate::report::{plain, remark};
use crate::verbs::in_force::in_force;
use crate::verbs::session::Session;
use crate::verbs::{App, Failure};

/// The file's name without its ending. Each unit of one name has its own: it may be begun with another configuration.
const RUNNING_CONFIG: &str = "running";

/// For the way down: the configuration as it is, with what is open by that of the way up and was taken out or changed since; or, if
/// somebody has just broken it, the one of the way up. `name`: of the unit of one name.
pub(super) fn session_of_running(app: &App, name: Option<&str>) -> Result<Session, Failure> {
    let kept = running_config(name);
    let failure = match Session::begin(app, false) {
        Err(failure @ Failure::Config(_)) => failure,
        other => return Ok(with_forgotten(other?, &kept)),
    };
    if !kept.exists() {
        return Err(failure);
    }
    remark(failure.priority(), failure.kind(), &failure.to_string());
    let words = format!(
        "the configuration is wrong: going down by the one that was in force on the way up, {}",
        kept.display()
    );
    remark(4, None, &words);
    Session::with_config(app, Some(&kept), false)
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
    // One after the other they are one file: a table may stand once in all of them, and nothing stands outside of a table.
    let text = session
        .files
        .iter()
        .map(|(_, text)| text.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    let kept = running_config(name);
    let new = kept.with_extension("new");
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
    };
    let written = fs::create_dir_all(FOLDER)
        .and_then(|()| open())
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, &kept));
    if let Err(error) = written {
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
