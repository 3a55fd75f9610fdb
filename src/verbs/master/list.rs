//! `virt-unlock master list`

use serde::Serialize;

use crate::cancel::Cancel;
use crate::config::{Config, Master, Volume};
use crate::host::{Header, Host, Keyslot, OpenError};
use crate::report::{Colour, Style, plain};
use crate::text;
use crate::unlock::enrolled::{NotEnrolled, keyslot_for};
use crate::verbs::session::Session;
use crate::verbs::{App, Failure, Verdict, answer, answer_json};

pub(super) fn list(app: &App, json: bool) -> Result<Verdict, Failure> {
    Session::need_root("master list")?;
    let session = Session::begin(app, false)?;
    let listing = Listing::read(&session.config, &session.host, &Cancel::new()?);
    if json {
        answer_json(&listing)?;
    } else {
        answer(&listing.table(Colour::on_stdout()))?;
    }
    Ok(listing.is_good().into())
}

/// How every master stands. The JSON form is part of the contract: keys are added, never changed.
#[derive(Debug, Serialize)]
struct Listing {
    version: u32,
    masters: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    header: String,
    uuid: Option<String>,
    keyslots: Vec<Keyslot>,
    /// Why its header is not read.
    reason: Option<String>,
    volumes: Vec<Member>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Member {
    name: String,
    state: Membership,
    keyslot: Option<u32>,
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Membership {
    Enrolled,
    /// It has a token, and the keyslot is gone.
    WithoutKeyslot,
    NotEnrolled,
    /// Its device is not there, or has no header that can be read.
    Unknown,
}

impl Listing {
    fn read(config: &Config, host: &Host, cancel: &Cancel) -> Self {
        let headers: Vec<(&Volume, Result<Header, String>)> = config
            .volumes
            .iter()
            .map(|volume| {
                let device = host.devices.find(&volume.device);
                let header = device
                    .ok_or_else(|| format!("its device {} is not there", volume.device))
                    .and_then(|device| {
                        let header = host.volumes.probe(volume, &device.path, cancel);
                        header.map_err(|error| error.to_string())
                    });
                (volume, header)
            })
            .collect();
        let masters = config.masters.iter().map(|master| {
            let header = host.volumes.probe_master(master, cancel);
            Listed::of(master, header, &headers)
        });
        Self {
            version: 1,
            masters: masters.collect(),
        }
    }

    fn is_good(&self) -> bool {
        let is_good = |member: &Member| member.state == Membership::Enrolled;
        self.masters
            .iter()
            .all(|master| master.reason.is_none() && master.volumes.iter().all(is_good))
    }

    fn table(&self, colour: Colour) -> String {
        if self.masters.is_empty() {
            return "no master is configured: each needs a [master.NAME] table (`virt-unlock master create NAME` shows it)\n"
                .to_owned();
        }
        self.masters.iter().map(|master| master.lines(colour)).collect()
    }
}

impl Listed {
    fn of(master: &Master, header: Result<Header, OpenError>, volumes: &[(&Volume, Result<Header, String>)]) -> Self {
        let (header, reason) = match header {
            Ok(header) => (Some(header), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let uuid = header.as_ref().map(|header| header.uuid.clone());
        let member =
            |(volume, header): &(&Volume, Result<Header, String>)| Member::of(master, uuid.as_deref(), volume, header.as_ref());
        Self {
            name: master.name.clone(),
            header: master.header.display().to_string(),
            volumes: volumes.iter().filter_map(member).collect(),
            keyslots: header.map(|header| header.keyslots).unwrap_or_default(),
            uuid,
            reason,
        }
    }

    fn lines(&self, colour: Colour) -> String {
        let state = match &self.reason {
            Some(reason) => colour.paint(Style::Bad, plain(reason)),
            None => format!("UUID {}", self.uuid.as_deref().unwrap_or_default()),
        };
        let mut lines = format!("master {}  {}  {state}\n", plain(&self.name), plain(&self.header));
        for slot in &self.keyslots {
            let memory = match slot.memory_kib {
                0 => String::new(),
                kib => format!(", {}", text::bytes(kib << 10)),
            };
            lines.push_str(&format!("  keyslot {:<3} {}{memory}\n", slot.number, plain(&slot.kdf)));
        }
        for member in &self.volumes {
            let style = match member.state {
                Membership::Enrolled => Style::Good,
                Membership::NotEnrolled => Style::Warning,
                Membership::WithoutKeyslot | Membership::Unknown => Style::Bad,
            };
            let words = match (member.keyslot, &member.reason) {
                (Some(keyslot), _) => format!("enrolled, keyslot {keyslot}"),
                (None, Some(reason)) => plain(reason),
                (None, None) => "unknown without the master's header".to_owned(),
            };
            lines.push_str(&format!("  volume {}  {}\n", plain(&member.name), colour.paint(style, words)));
        }
        lines
    }
}

impl Member {
    /// `None`: they have nothing to do with each other.
    fn of(master: &Master, uuid: Option<&str>, volume: &Volume, header: Result<&Header, &String>) -> Option<Self> {
        let is_named = volume.is_opened_by(&master.name);
        let member = |state, keyslot, reason| Member {
            name: volume.name.clone(),
            state,
            keyslot,
            reason,
        };
        let (header, uuid) = match (header, uuid) {
            (Ok(header), Some(uuid)) => (header, uuid),
            (Err(why), _) => return is_named.then(|| member(Membership::Unknown, None, Some(why.clone()))),
            (Ok(_), None) => return is_named.then(|| member(Membership::Unknown, None, None)),
        };
        let why = match keyslot_for(header, uuid) {
            Ok(keyslot) => return Some(member(Membership::Enrolled, Some(keyslot), None)),
            Err(why) => why,
        };
        let state = match &why {
            NotEnrolled::KeyslotGone { .. } => Membership::WithoutKeyslot,
            _ if is_named => Membership::NotEnrolled,
            _ => return None,
        };
        let words = format!("{why}; {}", why.remedy(&master.name, &volume.name));
        Some(member(state, None, Some(words)))
    }
}
