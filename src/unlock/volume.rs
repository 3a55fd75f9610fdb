//! The story of one volume: device, header, ways to a key.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Unlocker;
use super::ask::Asked;
use super::gate::{Held, Refused, memory_of};
use super::secret::Wanted;
use crate::cancel::Cancel;
use crate::config::{Master, Unlock, Volume};
use crate::event::{Ending, Kind, Outcome, Phase, Progress};
use crate::facts::{Mapping, VolumeFacts};
use crate::host::watch::Watch;
use crate::host::{Header, Image, Key, Keyslot, OpenError};
use crate::monitor::Ended;
use crate::secret::Secret;
use crate::text;

/// What is said while a token is tried.
const BY_TOKEN: &str = "getting the key from a token (touch it if it blinks)";

/// What is to be opened.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A volume, as a device of its own.
    Volume {
        volume: &'a Volume,
        /// The encrypted device.
        device: &'a Path,
    },
    /// A master, for its key.
    Master {
        master: &'a Master,
        /// Where the key goes.
        key: &'a OnceCell<Secret>,
    },
    /// A secret of libvirt's, for its value.
    Secret {
        wanted: Wanted<'a>,
        /// Those of its images that can be looked at.
        images: &'a [Image],
        /// Where the value goes.
        value: &'a OnceCell<Secret>,
    },
}

impl<'a> Target<'a> {
    pub fn ways(self) -> &'a [Unlock] {
        match self {
            Self::Volume { volume, .. } => &volume.unlock,
            Self::Master { master, .. } => &master.unlock,
            Self::Secret { wanted, .. } => &wanted.secret.unlock,
        }
    }

    /// Wrong answers before it is given up; zero: for ever.
    pub fn tries(self) -> u32 {
        match self {
            Self::Volume { volume, .. } => volume.tries,
            Self::Master { master, .. } => master.tries,
            Self::Secret { wanted, .. } => wanted.secret.tries,
        }
    }

    /// What agents know it by.
    pub fn id(self, scheme: &str) -> String {
        match self {
            Self::Volume { device, .. } => format!("{scheme}:{}", device.display()),
            Self::Master { master, .. } => format!("{scheme}:{}", master.header.display()),
            Self::Secret { wanted, .. } => format!("virt-unlock:secret:{}", wanted.secret.id),
        }
    }
}

/// A volume, or the master that it needs, on its way, with all that its steps need.
pub(super) struct OnTheWay<'a> {
    pub target: Target<'a>,
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
            target: Target::Volume { volume, device: &device },
            header: &header,
            rank,
            progress,
            cancel,
            asking: &asking,
        };
        let asked = watch.meanwhile(&volume.name, VolumeFacts::is_open, &asking, || self.try_ways(&way));
        let ending = match asked {
            Asked::Through(ending) => ending,
            Asked::GivenUp(words) => {
                Outcome::Failed(format!("{words}; `virt-unlock up {}` tries again", volume.name)).of(Kind::VolumeGivenUp)
            }
        };
        if ending.outcome == Outcome::Cancelled && !cancel.is_raised() && self.is_open_now(volume) {
            return Outcome::Already("somebody else has opened it".to_owned()).into();
        }
        ending
    }

    pub(super) fn try_ways(&self, way: &OnTheWay<'_>) -> Asked {
        let ways = way.target.ways();
        let mut tried: Vec<String> = Vec::new();
        for (place, unlock) in ways.iter().enumerate() {
            let asked = match (unlock, way.target) {
                (Unlock::Passphrase, _) => self.ask_and_open(way),
                (Unlock::KeyFile(file), _) => self.by_key_file(way, file),
                (Unlock::Credential { name }, _) => {
                    let key = Key::Credential { name: name.clone() };
                    self.try_key(way, &key, &unlock.to_string())
                }
                (Unlock::Token, Target::Volume { .. } | Target::Master { .. }) => self.open_by_token(way),
                (Unlock::Master { name }, Target::Volume { volume, .. }) => {
                    self.open_by_master(way, volume, name, self.asks(&ways[place + 1..]))
                }
                (Unlock::Token | Unlock::Master { .. }, _) => continue,
            };
            match asked {
                Asked::GivenUp(words) => tried.push(words),
                through @ Asked::Through(_) => return through,
            }
        }
        Asked::GivenUp(tried.join("; "))
    }

    /// Tries a key that nobody has to be asked for. Why it does not open is said, for the next way may.
    pub(super) fn try_key(&self, way: &OnTheWay<'_>, key: &Key, what: &str) -> Asked {
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
        // A derived key opens its own keyslot, whatever the others take; so does a token.
        let tried = |slot: &&Keyslot| key.is_tried_on(way.header, slot.number);
        let needed = memory_of(way.header.keyslots.iter().filter(tried));
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
        match way.target {
            Target::Volume { volume, device } => {
                way.progress.working(match key {
                    Key::Token { .. } => BY_TOKEN.to_owned(),
                    _ => "deriving the key".to_owned(),
                });
                way.progress
                    .during(Phase::Key, || self.host.volumes.open(volume, device, key, way.cancel))
            }
            Target::Master { master, key: opened } => {
                way.progress.working(match key {
                    Key::Token { .. } => format!("master {}: {BY_TOKEN}", master.name),
                    _ => format!("deriving the key of master {}", master.name),
                });
                let cancel = match key {
                    // It may wait for a person, and nobody is asked to touch a stick for what is open.
                    Key::Token { .. } => way.asking,
                    _ => way.cancel,
                };
                let secret = way
                    .progress
                    .during(Phase::Key, || self.host.volumes.open_master(master, key, cancel))?;
                // Only what opens nothing is tried again, so it is empty.
                let _ = opened.set(secret);
                Ok(())
            }
            Target::Secret { images, value, .. } => {
                way.progress.working("looking whether its passphrase is right");
                way.progress
                    .during(Phase::Key, || self.try_value(images, value, key, way.cancel))
            }
        }
    }

    /// What a way that cannot be tried again came to.
    pub(super) fn ending(&self, way: &OnTheWay<'_>, result: Result<(), OpenError>, done: &str) -> Ending {
        let error = match result {
            Ok(()) => return Outcome::Done(done.to_owned()).into(),
            Err(OpenError::Cancelled) => return Outcome::Cancelled.into(),
            Err(error) => error,
        };
        let Target::Volume { volume, device } = way.target else {
            return Outcome::Failed(error.to_string()).into();
        };
        match &error {
            // Somebody was faster, with `cryptsetup open` by hand.
            OpenError::Exists(_) | OpenError::Busy(_) if self.is_open_now(volume) => {
                Outcome::Already("open already".to_owned()).into()
            }
            OpenError::Exists(_) => Outcome::Failed(error.to_string()).of(Kind::ForeignMapping),
            OpenError::Busy(_) => Outcome::Failed(format!(
                "{error}; `lsblk {}` shows by what (is it open under another name?)",
                device.display()
            ))
            .into(),
            OpenError::Memory(_) => Outcome::Failed(format!(
                "{error}; free some, then `virt-unlock up {}` (no try was used up)",
                volume.name
            ))
            .of(Kind::NoMemory),
            OpenError::Header(_) => no_header(volume, device, &error),
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
    let (since, grace) = (Instant::now(), standing.unlocker.pace.device_grace);
    let left = |limit: Duration| limit.saturating_sub(since.elapsed());
    let mut found = look(Duration::ZERO);
    if found == Err(Ended::TimedOut) {
        // It keeps its place for a moment: the devices of one volume group come one by one, in any order.
        let limit = text::duration(volume.device_timeout);
        let waiting = format!("its device {} is not there; waiting up to {limit} for it", volume.device);
        progress.waiting(waiting.clone());
        if standing
            .unlocker
            .open_master_ahead(volume, standing.rank, watch, progress, cancel)
        {
            progress.waiting(waiting);
        }
        found = progress.during(Phase::Device, || look(left(volume.device_timeout.min(grace))));
    }
    if found == Err(Ended::TimedOut) && volume.device_timeout > grace {
        standing.not_now();
        standing.device_is_missing();
        found = progress.during(Phase::Device, || look(left(volume.device_timeout)));
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
