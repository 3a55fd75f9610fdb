//! The story of one volume: device, header, ways to a key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Unlocker;
use super::ask::Asked;
use super::gate::{Held, Refused, memory_of};
use crate::cancel::Cancel;
use crate::config::{Unlock, Volume};
use crate::event::{Ending, Kind, Outcome, Phase, Progress};
use crate::facts::{Mapping, VolumeFacts};
use crate::host::watch::Watch;
use crate::host::{Header, Key, OpenError};
use crate::monitor::Ended;
use crate::text;

/// Whether somebody may be asked for this volume's key.
pub(super) fn is_asked_for(volume: &Volume) -> bool {
    volume.unlock.contains(&Unlock::Passphrase)
}

/// A volume on its way, with all that its steps need.
pub(super) struct OnTheWay<'a> {
    pub volume: &'a Volume,
    pub device: &'a Path,
    pub header: &'a Header,
    pub rank: usize,
    pub progress: Progress<'a>,
    pub cancel: &'a Cancel,
    /// Ends what waits for an answer: raised too when somebody else opens the volume.
    pub asking: &'a Cancel,
}

impl Unlocker {
    /// Opens one volume, whatever that takes. `rank`: its place in the order of the questions.
    pub fn unlock(&self, volume: &Volume, rank: usize, watch: &Watch, progress: Progress<'_>, cancel: &Cancel) -> Ending {
        let standing = Standing {
            unlocker: self,
            volume,
            rank,
        };
        let device = match await_device(volume, watch, progress, cancel, &standing) {
            Ok(device) => device,
            Err(ending) => return ending,
        };
        let header = match progress.during(Phase::Header, || self.host.volumes.probe(volume, &device, cancel)) {
            Ok(header) => header,
            Err(OpenError::Cancelled) => return Outcome::Cancelled.into(),
            Err(error @ OpenError::Header(_)) => return no_header(volume, &device, &error),
            Err(error) => return Outcome::Failed(error.to_string()).into(),
        };
        let Ok(asking) = cancel.child() else {
            return Outcome::Failed("no file descriptor is left".to_owned()).into();
        };
        let way = OnTheWay {
            volume,
            device: &device,
            header: &header,
            rank,
            progress,
            cancel,
            asking: &asking,
        };
        let ending = watch.meanwhile(&volume.name, VolumeFacts::is_open, &asking, || self.try_ways(&way));
        if ending.outcome == Outcome::Cancelled && !cancel.is_raised() && self.is_open_now(volume) {
            return Outcome::Already("somebody else has opened it".to_owned()).into();
        }
        ending
    }

    fn try_ways(&self, way: &OnTheWay<'_>) -> Ending {
        let volume = way.volume;
        let mut tried: Vec<String> = Vec::new();
        for unlock in &volume.unlock {
            match unlock {
                Unlock::Passphrase => match self.ask_and_open(way) {
                    Asked::Through(ending) => return ending,
                    Asked::GivenUp(words) => tried.push(words),
                },
                Unlock::KeyFile { path, offset, size } => {
                    let key = Key::File {
                        path: path.clone(),
                        offset: *offset,
                        size: *size,
                    };
                    match self.try_key(way, &key, &format!("key file {}", path.display())) {
                        Asked::Through(ending) => return ending,
                        Asked::GivenUp(words) => tried.push(words),
                    }
                }
                Unlock::Credential { name } => {
                    let key = Key::Credential { name: name.clone() };
                    match self.try_key(way, &key, &format!("credential {name}")) {
                        Asked::Through(ending) => return ending,
                        Asked::GivenUp(words) => tried.push(words),
                    }
                }
                Unlock::Master { name } => {
                    let words = format!("master {name}: this program cannot open masters");
                    way.progress.warning(words.clone());
                    tried.push(words);
                }
            }
        }
        Outcome::Failed(format!("{}; `virt-unlock up {}` tries again", tried.join("; "), volume.name)).of(Kind::VolumeGivenUp)
    }

    /// Tries a key that nobody has to be asked for. Why it does not open the volume is said, for the next way may.
    fn try_key(&self, way: &OnTheWay<'_>, key: &Key, what: &str) -> Asked {
        match self.open(way, key) {
            Err(error @ (OpenError::WrongKey | OpenError::KeyFile(_) | OpenError::NoKey(_))) => {
                let words = format!("{what}: {error}");
                way.progress.warning(words.clone());
                Asked::GivenUp(words)
            }
            result => Asked::Through(self.ending(way, result, &format!("opened by {what}"))),
        }
    }

    /// One key, one derivation, as soon as there is memory for it.
    pub(super) fn open(&self, way: &OnTheWay<'_>, key: &Key) -> Result<(), OpenError> {
        self.turn.not_now(way.rank);
        let say = |held| match held {
            Held::Others => way.progress.waiting("waiting until other keys are derived"),
            Held::Memory { needed, free } => {
                let (needed, free) = (text::bytes(needed), text::bytes(free));
                let limit = text::duration(self.pace.memory_limit);
                way.progress.waiting(format!(
                    "its keyslot takes {needed} of memory, and {free} are free; waiting up to {limit} for more"
                ));
            }
        };
        // The question is answered, whatever it waits for now.
        way.progress.working("waiting for a processor and memory to derive the key");
        let needed = memory_of(&way.header.keyslots);
        let entered = way
            .progress
            .during(Phase::Room, || self.gate.enter(way.rank, needed, way.cancel, say));
        let _pass = match entered {
            Ok(pass) => pass,
            Err(Refused::Cancelled) => return Err(OpenError::Cancelled),
            Err(Refused::TooLittle { needed, free }) => {
                let (needed, free) = (text::bytes(needed), text::bytes(free));
                return Err(OpenError::Memory(format!("its keyslot takes {needed}, and {free} are free")));
            }
        };
        way.progress.working("deriving the key");
        way.progress
            .during(Phase::Key, || self.host.volumes.open(way.volume, way.device, key, way.cancel))
    }

    /// What a way that cannot be tried again came to.
    pub(super) fn ending(&self, way: &OnTheWay<'_>, result: Result<(), OpenError>, done: &str) -> Ending {
        let name = &way.volume.name;
        let error = match result {
            Ok(()) => return Outcome::Done(done.to_owned()).into(),
            Err(OpenError::Cancelled) => return Outcome::Cancelled.into(),
            // Somebody was faster, with `cryptsetup open` by hand.
            Err(OpenError::Exists(_) | OpenError::Busy(_)) if self.is_open_now(way.volume) => {
                return Outcome::Already("open already".to_owned()).into();
            }
            Err(error) => error,
        };
        match &error {
            OpenError::Exists(_) => Outcome::Failed(error.to_string()).of(Kind::ForeignMapping),
            OpenError::Busy(_) => Outcome::Failed(format!(
                "{error}; `lsblk {}` shows by what (is it open under another name?)",
                way.device.display()
            ))
            .into(),
            OpenError::Memory(_) => Outcome::Failed(format!(
                "{error}; free some, then `virt-unlock up {name}` (no try was used up)"
            ))
            .of(Kind::NoMemory),
            OpenError::Header(_) => no_header(way.volume, way.device, &error),
            _ => Outcome::Failed(error.to_string()).into(),
        }
    }

    fn is_open_now(&self, volume: &Volume) -> bool {
        self.host.devices.volume_facts(volume).is_open()
    }
}

fn await_device(
    volume: &Volume,
    watch: &Watch,
    progress: Progress<'_>,
    cancel: &Cancel,
    standing: &Standing<'_>,
) -> Result<PathBuf, Ending> {
    let look = |limit| {
        watch.wait(&volume.name, Some(limit), cancel, |facts| {
            match (&facts.mapping, &facts.device) {
                (Mapping::Open(_), _) => Some(Err(Outcome::Already("open already".to_owned()).into())),
                (Mapping::Foreign(words), _) => Some(Err(Outcome::Failed(words.clone()).of(Kind::ForeignMapping))),
                (Mapping::None, Some(device)) => Some(Ok(device.path.clone())),
                (Mapping::None, None) => None,
            }
        })
    };
    let grace = standing.unlocker.pace.device_grace;
    let mut found = look(Duration::ZERO);
    if found == Err(Ended::TimedOut) {
        // It keeps its place for a moment: the devices of one volume group come one by one, in any order.
        let limit = text::duration(volume.device_timeout);
        progress.waiting(format!(
            "its device {} is not there; waiting up to {limit} for it",
            volume.device
        ));
        found = progress.during(Phase::Device, || look(volume.device_timeout.min(grace)));
    }
    if found == Err(Ended::TimedOut) && volume.device_timeout > grace {
        standing.not_now();
        standing.device_is_missing();
        found = progress.during(Phase::Device, || look(volume.device_timeout.saturating_sub(grace)));
    }
    match found {
        Ok(device) => device,
        Err(Ended::Cancelled) => Err(Outcome::Cancelled.into()),
        Err(Ended::TimedOut) => Err(Outcome::Failed(format!(
            "its device {} did not appear within {}; attach or activate it, then `virt-unlock up {}`",
            volume.device,
            text::duration(volume.device_timeout),
            volume.name
        ))
        .of(Kind::DeviceMissing)),
    }
}

fn no_header(volume: &Volume, device: &Path, error: &OpenError) -> Ending {
    let place = volume.header.as_deref().unwrap_or(device).display();
    Outcome::Failed(format!(
        "{error}; `cryptsetup luksDump {place}` shows more, `cryptsetup repair` or a header backup may help"
    ))
    .of(Kind::NoHeader)
}

/// What a volume on its way keeps the others from, let go of at the latest when it is through, however that comes about.
struct Standing<'a> {
    unlocker: &'a Unlocker,
    volume: &'a Volume,
    rank: usize,
}

impl Standing<'_> {
    /// Its device may never come.
    fn device_is_missing(&self) {
        self.unlocker.settle_with_followers(&self.volume.name);
    }

    /// It cannot ask in a moment.
    fn not_now(&self) {
        self.unlocker.turn.not_now(self.rank);
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.not_now();
        self.unlocker.pass_over(self.volume);
    }
}
