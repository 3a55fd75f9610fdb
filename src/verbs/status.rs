//! `virt-unlock status`: every layer, now, and why it is not as it should be. Needs no root; what an ordinary user may not see of
//! libvirt is left out.

mod awaited;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::ending::{LastShutdown, last_shutdown};
use super::session::Session;
use super::{App, Failure, NOTHING_CONFIGURED, Verdict, answer, answer_json};
use crate::cancel::Cancel;
use crate::config::{Config, DomainConfig, SecretConfig, Start, Volume};
use crate::event::Events;
use crate::facts::{DomainFacts, DomainState, Facts, Mapping, MountState, Pause, VolumeFacts};
use crate::graph::{Layer, Placement};
use crate::host::lock::{self, FOLDER, Part};
use crate::report::{Colour, Record, Remembered, Style, Verbosity, plain};

/// A person waits for the answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn status(app: &App, json: bool) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let nobody = Events::new(|_| ());
    let facts = session.facts(Some(LIBVIRT_PATIENCE), &nobody, &Cancel::new()?)?;
    let mut status = Status::of(
        &session.config,
        &facts,
        &Record::read(Path::new(FOLDER)),
        UnderWay {
            volumes: lock::held_by(Path::new(FOLDER), Part::Volumes).is_some(),
            guests: lock::held_by(Path::new(FOLDER), Part::Guests).is_some(),
        },
    );
    status.last_shutdown = last_shutdown();
    if json {
        answer_json(&status)?;
    } else {
        answer(&status.table(app.verbosity, Colour::on_stdout()))?;
    }
    Ok((status.state == State::Up).into())
}

/// How everything stands. The JSON form is part of the contract: keys are added, never changed.
#[derive(Debug, Serialize)]
struct Status {
    version: u32,
    state: State,
    volumes: Vec<VolumeStatus>,
    secrets: Vec<SecretStatus>,
    domains: Vec<DomainStatus>,
    /// How the host went off before this boot, where that is known.
    last_shutdown: Option<LastShutdown>,
    /// Why nothing is known of domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    libvirt: Option<String>,
}

/// Whether somebody works on them now.
#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    volumes: bool,
    guests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Up,
    Down,
    Waiting,
    Degraded,
}

#[derive(Debug, Serialize)]
struct VolumeStatus {
    name: String,
    device: String,
    state: VolumeState,
    /// Whether it is wanted up; one that is closed and `noauto` is not.
    wanted: bool,
    mount: Option<MountStatus>,
    used_by: Vec<String>,
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum VolumeState {
    Open,
    Closed,
    Waiting,
    Missing,
    Failed,
}

#[derive(Debug, Serialize)]
struct MountStatus {
    #[serde(rename = "where")]
    at: String,
    mounted: bool,
}

#[derive(Debug, Serialize)]
struct DomainStatus {
    name: String,
    state: String,
    wanted: bool,
    volumes: Vec<String>,
    /// Whether its next start restores it from its managed save.
    saved: bool,
    reason: Option<String>,
    #[serde(skip)]
    active: bool,
}

/// A secret of libvirt's.
#[derive(Debug, Serialize)]
struct SecretStatus {
    name: String,
    /// Whether libvirt has it now.
    set: bool,
    /// The guests that need it to start.
    used_by: Vec<String>,
    reason: Option<String>,
}

impl Status {
    /// Pure: the machine's facts, with the words that the last way up or down left for what is not up.
    fn of(config: &Config, facts: &Facts, record: &Record, under_way: UnderWay) -> Self {
        let placement = Placement::new(config, &facts.volumes);
        let mut domains: Vec<DomainStatus> = Vec::new();
        for domain in facts.libvirt.iter().flat_map(|libvirt| &libvirt.domains) {
            let on: Vec<String> = placement.volumes_of(domain).into_iter().map(str::to_owned).collect();
            let is_sealed = domain.secrets.iter().any(|used| config.secret_of(&used.id).is_some());
            if !on.is_empty() || is_sealed || config.domain(&domain.name).is_some() {
                domains.push(DomainStatus::of(config, facts, domain, on, record, under_way.guests));
            }
        }
        if let Some(libvirt) = &facts.libvirt {
            let is_there = |table: &&DomainConfig| libvirt.domains.iter().any(|domain| domain.name == table.name);
            domains.extend(
                config
                    .domains
                    .iter()
                    .filter(|table| !is_there(table))
                    .map(DomainStatus::missing),
            );
        }
        domains.sort_by(|one, other| one.name.cmp(&other.name));
        let volumes: Vec<VolumeStatus> = config
            .volumes
            .iter()
            .map(|volume| VolumeStatus::of(volume, facts, &domains, record, under_way.volumes))
            .collect();
        let is_waiting = |layer: Layer| matches!(record.of(&layer), Some(Remembered::Waiting(_)));
        // A volume that waits says so itself. Here: what is on its way on volumes that are open.
        let on_its_way = volumes
            .iter()
            .any(|volume| under_way.volumes && !volume.is_up() && is_waiting(Layer::Mount(volume.name.as_str().into())))
            || domains
                .iter()
                .any(|domain| under_way.guests && !domain.is_up() && is_waiting(Layer::Domain(domain.name.as_str().into())));
        Self {
            version: 1,
            state: State::of(&volumes, &domains, facts.libvirt_error.is_some(), on_its_way),
            secrets: config
                .secrets
                .iter()
                .map(|secret| SecretStatus::of(secret, facts, record))
                .collect(),
            volumes,
            domains,
            last_shutdown: None,
            libvirt: facts.libvirt_error.as_deref().map(plain),
        }
    }

    /// For people. `Quiet`: only what is not as it should be.
    fn table(&self, verbosity: Verbosity, colour: Colour) -> String {
        let is_shown = |is_good: bool| verbosity > Verbosity::Quiet || !is_good;
        let word = match self.state {
            State::Up => colour.paint(Style::Good, "up"),
            State::Down => colour.paint(Style::Dim, "down"),
            State::Waiting => colour.paint(Style::Waiting, "waiting"),
            State::Degraded => colour.paint(Style::Bad, "degraded: something is not as it should be"),
        };
        let is_empty = self.volumes.is_empty() && self.secrets.is_empty() && self.domains.is_empty() && self.libvirt.is_none();
        if is_empty && is_shown(true) {
            return format!("{NOTHING_CONFIGURED}\n");
        }
        let mut out = String::new();
        if is_shown(self.state == State::Up) {
            out.push_str(&format!("{word}\n"));
        }
        let names = || {
            let volumes = self.volumes.iter().map(|volume| volume.name.as_str());
            let secrets = self.secrets.iter().map(|secret| secret.name.as_str());
            volumes
                .chain(secrets)
                .chain(self.domains.iter().map(|domain| domain.name.as_str()))
        };
        let width = names().map(|name| plain(name).chars().count()).max().unwrap_or(0);
        for volume in self.volumes.iter().filter(|volume| is_shown(volume.is_up())) {
            let (word, style) = match volume.state {
                VolumeState::Open => ("open", Style::Good),
                VolumeState::Closed => ("closed", Style::Dim),
                VolumeState::Waiting => ("waiting", Style::Waiting),
                VolumeState::Missing => ("missing", Style::Bad),
                VolumeState::Failed => ("failed", Style::Bad),
            };
            let mut words = vec![format!("on {}", volume.device)];
            if let Some(mount) = &volume.mount {
                let not = if mount.mounted { "" } else { "not " };
                words.push(format!("{not}mounted at {}", mount.at));
            }
            if !volume.wanted {
                words.push("noauto".to_owned());
            }
            words.extend(volume.reason.clone());
            out.push_str(&row(
                "volume",
                &volume.name,
                width,
                &colour.paint(style, format!("{word:9}")),
                &words,
            ));
        }
        for secret in self.secrets.iter().filter(|secret| is_shown(secret.reason.is_none())) {
            out.push_str(&secret.row(width, colour));
        }
        for domain in self.domains.iter().filter(|domain| is_shown(domain.is_up())) {
            let style = match (domain.active, domain.wanted) {
                (true, _) => Style::Good,
                (false, true) => Style::Bad,
                (false, false) => Style::Dim,
            };
            let mut words = Vec::new();
            if !domain.volumes.is_empty() {
                words.push(format!("on {}", domain.volumes.join(", ")));
            }
            if domain.saved {
                words.push("started means restored from its managed save".to_owned());
            }
            words.extend(domain.reason.clone());
            out.push_str(&row(
                "guest",
                &domain.name,
                width,
                &colour.paint(style, format!("{:9}", domain.state)),
                &words,
            ));
        }
        if let Some(reason) = &self.libvirt {
            out.push_str(&format!(
                "guests   {}\n",
                colour.paint(Style::Bad, format!("not known: {reason}"))
            ));
        }
        match &self.last_shutdown {
            Some(LastShutdown {
                at: Some(at),
                words: Some(words),
                ..
            }) if is_shown(true) => {
                let at = at.replace('T', " ").replace('Z', " UTC");
                out.push_str(&format!("last shutdown: {at}: {words}\n"));
            }
            Some(LastShutdown { completed: false, .. }) => {
                let words = "not completed: the host went off while volumes were open";
                out.push_str(&format!("last shutdown: {}\n", colour.paint(Style::Bad, words)));
            }
            _ => {}
        }
        out
    }
}

fn row(kind: &str, name: &str, width: usize, state: &str, words: &[String]) -> String {
    let words = plain(&words.join("; "));
    format!("{kind:8} {:width$}  {state} {words}\n", plain(name)).replace(" \n", "\n")
}

impl State {
    fn of(volumes: &[VolumeStatus], domains: &[DomainStatus], blind: bool, on_its_way: bool) -> Self {
        let is_down = |volume: &VolumeStatus| volume.state == VolumeState::Closed || !volume.wanted;
        let nothing_runs = domains.iter().all(|domain| !domain.active || domain.volumes.is_empty());
        if on_its_way || volumes.iter().any(|volume| volume.state == VolumeState::Waiting) {
            Self::Waiting
        } else if volumes.iter().all(VolumeStatus::is_up) && domains.iter().all(DomainStatus::is_up) && !blind {
            Self::Up
        } else if volumes.iter().all(is_down) && nothing_runs {
            Self::Down
        } else {
            Self::Degraded
        }
    }
}

impl SecretStatus {
    fn of(secret: &SecretConfig, facts: &Facts, record: &Record) -> Self {
        let libvirt = facts.libvirt.as_ref();
        let needs_it = |domain: &&DomainFacts| domain.secrets.iter().any(|used| used.id == secret.id);
        let users: Vec<&DomainFacts> = libvirt.iter().flat_map(|libvirt| &libvirt.domains).filter(needs_it).collect();
        let found = libvirt.and_then(|libvirt| libvirt.secret(&secret.id));
        let is_over = users.iter().all(|domain| domain.state.is_active());
        let reason = match (found, record.of(&Layer::Secret(secret.name.as_str().into()))) {
            (Some(found), _) if !found.ephemeral => Some("libvirt keeps it on this host's disk".to_owned()),
            (None, Some(Remembered::Failed(words) | Remembered::Waiting(words))) if !is_over => Some(words.clone()),
            _ => None,
        };
        Self {
            name: secret.name.clone(),
            set: found.is_some(),
            used_by: users.iter().map(|domain| domain.name.clone()).collect(),
            reason,
        }
    }

    fn row(&self, width: usize, colour: Colour) -> String {
        let (word, style) = if self.set {
            ("set", Style::Good)
        } else {
            ("not set", Style::Dim)
        };
        let mut words = Vec::new();
        if !self.used_by.is_empty() {
            words.push(format!("for {}", self.used_by.join(", ")));
        }
        words.extend(self.reason.clone());
        let word = colour.paint(style, format!("{word:9}"));
        row("secret", &self.name, width, &word, &words)
    }
}

impl VolumeStatus {
    fn of(volume: &Volume, facts: &Facts, domains: &[DomainStatus], record: &Record, under_way: bool) -> Self {
        let found = facts.volumes.get(&volume.name).cloned().unwrap_or_default();
        let name = || volume.name.as_str().into();
        let remembered = record.of(&Layer::Volume(name())).cloned();
        let wanted = is_wanted(volume, &found);
        let (state, mut reason) = match (&found.mapping, &found.device, remembered) {
            (Mapping::Open(_), _, _) => (VolumeState::Open, None),
            (Mapping::Foreign(words), _, _) => (VolumeState::Failed, Some(words.clone())),
            (Mapping::None, _, Some(Remembered::Waiting(words))) if under_way => (VolumeState::Waiting, Some(words)),
            (Mapping::None, None, _) => (
                VolumeState::Missing,
                Some("its device is not there: attach or activate it (`lsblk -f` shows what is there)".to_owned()),
            ),
            (Mapping::None, Some(_), Some(Remembered::Failed(words))) => (VolumeState::Failed, Some(words)),
            (Mapping::None, Some(_), _) => (VolumeState::Closed, None),
        };
        let mount = volume.mount.as_ref().map(|mount| MountStatus {
            at: mount.at.display().to_string(),
            mounted: found.mount == MountState::Ours,
        });
        if let (MountState::Foreign(words), None) = (&found.mount, &reason) {
            reason = Some(words.clone());
        }
        if let (VolumeState::Open, Some(MountStatus { mounted: false, .. }), None) = (state, &mount, &reason) {
            reason = match record.of(&Layer::Mount(name())) {
                Some(Remembered::Failed(words)) => Some(words.clone()),
                Some(Remembered::Waiting(words)) if under_way => Some(words.clone()),
                _ => Some(format!("not mounted: `virt-unlock up{}` mounts it", named(volume))),
            };
        }
        let on_it = |domain: &&DomainStatus| domain.volumes.contains(&volume.name);
        Self {
            name: volume.name.clone(),
            device: volume.device.to_string(),
            state,
            wanted,
            mount,
            used_by: domains.iter().filter(on_it).map(|domain| domain.name.clone()).collect(),
            reason,
        }
    }

    fn is_up(&self) -> bool {
        !self.wanted || self.state == VolumeState::Open && self.mount.as_ref().is_none_or(|mount| mount.mounted)
    }
}

/// Whether a volume should be up: that is what does not wait for its name, and what somebody has opened.
fn is_wanted(volume: &Volume, found: &VolumeFacts) -> bool {
    !volume.noauto || found.mapping != Mapping::None
}

/// What has to be added to a command that is to touch this volume.
fn named(volume: &Volume) -> String {
    if volume.noauto {
        format!(" {}", volume.name)
    } else {
        String::new()
    }
}

impl DomainStatus {
    /// One that has a table and that libvirt does not know.
    fn missing(table: &DomainConfig) -> Self {
        Self {
            name: table.name.clone(),
            state: "missing".to_owned(),
            wanted: table.start != Start::Never,
            volumes: table.volumes.clone().unwrap_or_default(),
            saved: false,
            reason: Some("libvirt has no such guest: `virsh list --all` shows the names".to_owned()),
            active: false,
        }
    }

    fn is_up(&self) -> bool {
        self.active || !self.wanted
    }

    fn of(config: &Config, facts: &Facts, domain: &DomainFacts, volumes: Vec<String>, record: &Record, under_way: bool) -> Self {
        let waits_for_its_name = |name: &String| {
            let volume = config.volume(name).zip(facts.volumes.get(name));
            volume.is_some_and(|(volume, found)| !is_wanted(volume, found))
        };
        let wanted = config.wants(&domain.name, domain.autostart) && !volumes.iter().any(waits_for_its_name);
        let active = domain.state.is_active();
        let reason = match record.of(&Layer::Domain(domain.name.as_str().into())) {
            Some(Remembered::Waiting(words)) if active && under_way => Some(words.clone()),
            _ if active || !wanted => None,
            Some(Remembered::Failed(words) | Remembered::Waiting(words)) => Some(words.clone()),
            None => {
                let awaited = awaited::awaited(config, facts, domain, &volumes, record).filter(|_| under_way);
                Some(awaited.unwrap_or_else(|| "wanted, and not started: `virt-unlock up` starts it".to_owned()))
            }
        };
        Self {
            name: domain.name.clone(),
            state: domain.state.word().to_owned(),
            wanted,
            volumes,
            saved: domain.is_saved,
            reason,
            // While libvirt restores it, say, it is not up yet.
            active: active && !(under_way && domain.state == DomainState::Paused(Pause::Held)),
        }
    }
}

#[cfg(test)]
mod tests;
