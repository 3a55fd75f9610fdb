//! Everything on the host that may be a volume: a LUKS header, the open mapping from it and the line of crypttab(5) for it are one.

use super::crypttab;
use crate::config::{DeviceSpec, Volume};
use crate::facts::DevNum;
use crate::facts::survey::{CryptMapping, CrypttabLine, FstabLine, LuksDevice, Survey};

/// What may be a volume, with what is known of it.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    /// Its device, where that has a LUKS header.
    pub luks: Option<&'a LuksDevice>,
    /// It is open.
    pub mapping: Option<&'a CryptMapping>,
    /// Its line in crypttab(5).
    pub line: Option<&'a CrypttabLine>,
    /// The line of fstab(5) that mounts it.
    pub fstab: Option<&'a FstabLine>,
    /// Whether another device has the same LUKS UUID.
    pub has_twin: bool,
    /// Its table.
    pub volume: Volume,
    /// What somebody has to look at.
    pub doubts: Vec<String>,
    /// What of its line in crypttab(5) has no counterpart.
    pub lost: Vec<String>,
    /// What of its line in fstab(5) has none.
    pub lost_of_mount: Vec<String>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its table is written.
    Written,
    /// Its table is written as a comment, and why.
    Suggested(String),
    /// It has no table, and why.
    Left(String),
}

impl Candidate<'_> {
    pub(super) fn is_left(&self) -> bool {
        matches!(self.fate, Fate::Left(_))
    }

    pub(super) fn is_written(&self) -> bool {
        self.fate == Fate::Written
    }

    /// The device in words.
    pub(super) fn shown(&self) -> String {
        let base = || self.mapping.and_then(|mapping| mapping.bases.first());
        let path = self.luks.map(|luks| &luks.device).or_else(base).map(|device| &device.path);
        match (path, self.line) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(line)) => line.device.clone(),
            (None, None) => "an unknown device".to_owned(),
        }
    }

    /// The logical volume's name, where it is one.
    pub(super) fn logical_volume(&self) -> Option<&str> {
        self.luks?.device.logical_volume.as_deref()
    }

    /// The label in its header.
    pub(super) fn label(&self) -> Option<&str> {
        self.luks?.label.as_deref()
    }
}

/// All candidates: the devices in their order, then what is known of a mapping or a line alone. Names, mounts and options come later.
pub(super) fn all(survey: &Survey) -> Vec<Candidate<'_>> {
    let mut mappings: Vec<&CryptMapping> = survey.mappings.iter().collect();
    let mut lines: Vec<&CrypttabLine> = survey.crypttab.iter().collect();
    let mut found = Vec::new();
    for luks in &survey.luks {
        let mapping = take(&mut mappings, |mapping| is_of(mapping, luks));
        let line = take(&mut lines, |line| {
            line.number == Some(luks.device.number) || names_uuid(line, luks)
        })
        .or_else(|| take(&mut lines, |line| mapping.is_some_and(|mapping| mapping.name == line.name)));
        let has_twin = survey.luks.iter().filter(|other| other.uuid == luks.uuid).count() > 1;
        found.push(candidate(Some(luks), mapping, line, has_twin));
    }
    for mapping in mappings {
        let line = take(&mut lines, |line| line.name == mapping.name || is_on(mapping, line.number));
        found.push(candidate(None, Some(mapping), line, false));
    }
    found.extend(lines.into_iter().map(|line| candidate(None, None, Some(line), false)));
    found
}

fn candidate<'a>(
    luks: Option<&'a LuksDevice>,
    mapping: Option<&'a CryptMapping>,
    line: Option<&'a CrypttabLine>,
    has_twin: bool,
) -> Candidate<'a> {
    let device = device(luks, mapping, line, has_twin);
    let mut candidate = Candidate {
        luks,
        mapping,
        line,
        fstab: None,
        has_twin,
        // An empty path stands for a device that is not known; such a candidate is left.
        volume: Volume::new("", device.clone().unwrap_or(DeviceSpec::Path("".into()))),
        doubts: Vec::new(),
        lost: Vec::new(),
        lost_of_mount: Vec::new(),
        fate: Fate::Written,
    };
    let unfit = line.and_then(crypttab::unfit);
    if let Some(why) = unfit {
        candidate.fate = Fate::Left(why);
    } else if mapping.is_some_and(|mapping| mapping.uuid.is_none()) {
        candidate.fate = Fate::Left("is open without a LUKS header (plain dm-crypt, TCRYPT or another format)".to_owned());
    } else if let Some(outer) = luks.and_then(|luks| luks.inside.as_ref()) {
        candidate.fate = Fate::Left(format!("lies inside the open volume {outer}: it belongs to the guest there"));
    } else if device.is_none() {
        candidate.fate = Fate::Left("its device cannot be told".to_owned());
    }
    candidate
}

/// How the configuration names the device: a logical volume by its path, anything else by its LUKS UUID.
fn device(
    luks: Option<&LuksDevice>,
    mapping: Option<&CryptMapping>,
    line: Option<&CrypttabLine>,
    has_twin: bool,
) -> Option<DeviceSpec> {
    let written = line.and_then(|line| line.device.replace('"', "").parse().ok());
    let Some(luks) = luks else {
        // The header lies apart, or the device is not there now.
        return written.or_else(|| Some(DeviceSpec::Path(mapping?.bases.first()?.path.clone())));
    };
    let path = DeviceSpec::Path(luks.device.path.clone());
    if luks.device.logical_volume.is_some() {
        return Some(path);
    }
    let uuid = luks.uuid.as_ref().and_then(|uuid| format!("UUID={uuid}").parse().ok());
    // A UUID that two devices have may lead to either.
    Some(if has_twin {
        written.unwrap_or(path)
    } else {
        uuid.unwrap_or(path)
    })
}

fn is_of(mapping: &CryptMapping, luks: &LuksDevice) -> bool {
    let plain = |uuid: &String| uuid.replace('-', "").to_ascii_lowercase();
    mapping.uuid.is_some() && mapping.uuid == luks.uuid.as_ref().map(plain) && is_on(mapping, Some(luks.device.number))
}

fn is_on(mapping: &CryptMapping, number: Option<DevNum>) -> bool {
    mapping.bases.iter().any(|base| Some(base.number) == number)
}

/// Whether a line names a device by the UUID that this one has.
fn names_uuid(line: &CrypttabLine, luks: &LuksDevice) -> bool {
    let Some(uuid) = &luks.uuid else { return false };
    let written = line.device.replace('"', "");
    let written = written
        .strip_prefix("UUID=")
        .or_else(|| written.strip_prefix("/dev/disk/by-uuid/"));
    line.number.is_none() && written.is_some_and(|written| written.eq_ignore_ascii_case(uuid))
}

/// Takes the first that fits out of a list.
fn take<'a, T>(list: &mut Vec<&'a T>, fits: impl Fn(&T) -> bool) -> Option<&'a T> {
    let place = list.iter().position(|item| fits(item))?;
    Some(list.remove(place))
}
