//! `virt-unlock status`: every layer, now, and why it is not as it should be. Needs no root; what an ordinary user may not see of
//! libvirt is left out.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::session::Session;
use super::{App, Failure, Verdict};
use crate::cancel::Cancel;
use crate::config::{Config, Volume};
use crate::event::Events;
use crate::facts::{DomainFacts, Facts, Mapping, MountState};
use crate::graph::{Layer, Placement};
use crate::host::lock::{self, FOLDER, Part};
use crate::report::{Colour, Record, Remembered, Style, plain};

/// A person waits for the answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn status(app: &App, json: bool) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let nobody = Events::new(|_| ());
    let facts = session.facts(Some(LIBVIRT_PATIENCE), &nobody, &Cancel::new()?);
    let status = Status::of(
        &session.config,
        &facts,
        &Record::read(Path::new(FOLDER)),
        lock::held_by(Path::new(FOLDER), Part::Volumes).is_some(),
    );
    if json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(std::io::Error::other)?);
    } else {
        print!("{}", status.table(Colour::on_stdout()));
    }
    Ok((status.state == State::Up).into())
}

/// How everything stands. The JSON form is part of the contract: keys are added, never changed.
#[derive(Debug, Serialize)]
struct Status {
    version: u32,
    state: State,
    volumes: Vec<VolumeStatus>,
    domains: Vec<DomainStatus>,
    /// Why nothing is known of domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    libvirt: Option<String>,
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
    reason: Option<String>,
    #[serde(skip)]
    active: bool,
}

impl Status {
    /// Pure: the machine's facts, with the words that the last way up or down left for what is not up. `under_way`: somebody works
    /// on the volumes now.
    fn of(config: &Config, facts: &Facts, record: &Record, under_way: bool) -> Self {
        let placement = Placement::new(config, &facts.volumes);
        let mut domains: Vec<DomainStatus> = Vec::new();
        for domain in facts.libvirt.iter().flat_map(|libvirt| &libvirt.domains) {
            let on: Vec<String> = placement.volumes_of(domain).into_iter().map(str::to_owned).collect();
            if !on.is_empty() || config.domain(&domain.name).is_some() {
                domains.push(DomainStatus::of(config, domain, on, record));
            }
        }
        domains.sort_by(|one, other| one.name.cmp(&other.name));
        let volumes: Vec<VolumeStatus> = config
            .volumes
            .iter()
            .map(|volume| VolumeStatus::of(volume, facts, &domains, record, under_way))
            .collect();
        Self {
            version: 1,
            state: State::of(&volumes, &domains, facts.libvirt_error.is_some()),
            volumes,
            domains,
            libvirt: facts.libvirt_error.as_deref().map(plain),
        }
    }

    fn table(&self, colour: Colour) -> String {
        let word = match self.state {
            State::Up => colour.paint(Style::Good, "up"),
            State::Down => colour.paint(Style::Dim, "down"),
            State::Waiting => colour.paint(Style::Waiting, "waiting"),
            State::Degraded => colour.paint(Style::Bad, "degraded: something is not as it should be"),
        };
        let mut out = format!("{word}\n");
        let names = || {
            let volumes = self.volumes.iter().map(|volume| volume.name.as_str());
            volumes.chain(self.domains.iter().map(|domain| domain.name.as_str()))
        };
        let width = names().map(|name| plain(name).chars().count()).max().unwrap_or(0);
        for volume in &self.volumes {
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
            words.extend(volume.reason.clone());
            out.push_str(&row(
                "volume",
                &volume.name,
                width,
                &colour.paint(style, format!("{word:9}")),
                &words,
            ));
        }
        for domain in &self.domains {
            let style = match (domain.active, domain.wanted) {
                (true, _) => Style::Good,
                (false, true) => Style::Bad,
                (false, false) => Style::Dim,
            };
            let mut words = Vec::new();
            if !domain.volumes.is_empty() {
                words.push(format!("on {}", domain.volumes.join(", ")));
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
        out
    }
}

fn row(kind: &str, name: &str, width: usize, state: &str, words: &[String]) -> String {
    let words = plain(&words.join("; "));
    format!("{kind:8} {:width$}  {state} {words}\n", plain(name)).replace(" \n", "\n")
}

impl State {
    fn of(volumes: &[VolumeStatus], domains: &[DomainStatus], blind: bool) -> Self {
        let is_up =
            |volume: &VolumeStatus| volume.state == VolumeState::Open && volume.mount.as_ref().is_none_or(|mount| mount.mounted);
        let is_down = |volume: &VolumeStatus| volume.state == VolumeState::Closed;
        let nothing_runs = domains.iter().all(|domain| !domain.active || domain.volumes.is_empty());
        if volumes.iter().any(|volume| volume.state == VolumeState::Waiting) {
            Self::Waiting
        } else if volumes.iter().all(is_up) && domains.iter().all(|domain| domain.active || !domain.wanted) && !blind {
            Self::Up
        } else if volumes.iter().all(is_down) && nothing_runs {
            Self::Down
        } else {
            Self::Degraded
        }
    }
}

impl VolumeStatus {
    fn of(volume: &Volume, facts: &Facts, domains: &[DomainStatus], record: &Record, under_way: bool) -> Self {
        let found = facts.volumes.get(&volume.name).cloned().unwrap_or_default();
        let name = || volume.name.as_str().into();
        let remembered = record.of(&Layer::Volume(name())).cloned();
        let (state, mut reason) = match (&found.mapping, &found.device, remembered) {
            (Mapping::Open(_), _, _) => (VolumeState::Open, None),
            (Mapping::Foreign(words), _, _) => (VolumeState::Failed, Some(words.clone())),
            (Mapping::None, _, Some(Remembered::Waiting(words))) if under_way => (VolumeState::Waiting, Some(words)),
            (Mapping::None, None, _) => (VolumeState::Missing, Some("its device is not there".to_owned())),
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
                _ => None,
            };
        }
        let on_it = |domain: &&DomainStatus| domain.volumes.contains(&volume.name);
        Self {
            name: volume.name.clone(),
            device: volume.device.to_string(),
            state,
            mount,
            used_by: domains.iter().filter(on_it).map(|domain| domain.name.clone()).collect(),
            reason,
        }
    }
}

impl DomainStatus {
    fn of(config: &Config, domain: &DomainFacts, volumes: Vec<String>, record: &Record) -> Self {
        let wanted = config.wants(&domain.name, domain.autostart);
        let active = domain.state.is_active();
        let reason = match record.of(&Layer::Domain(domain.name.as_str().into())) {
            _ if active || !wanted => None,
            Some(Remembered::Failed(words) | Remembered::Waiting(words)) => Some(words.clone()),
            None => Some("wanted, and not started: `virt-unlock up` starts it".to_owned()),
        };
        Self {
            name: domain.name.clone(),
            state: domain.state.word().to_owned(),
            wanted,
            volumes,
            reason,
            active,
        }
    }
}
