//! Masters: one of a master's volumes opens it for all, and each then opens its own keyslot by a key that is derived from the
//! master's. Nobody asks twice, and nothing is derived twice from a passphrase.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Unlocker;
use super::ask::Asked;
use super::derived::derive;
use super::enrolled::keyslot_for;
use super::kept::Kept;
use super::volume::{OnTheWay, Target};
use crate::cancel::Cancel;
use crate::config::{Master, Volume};
use crate::event::Outcome;
use crate::host::{Header, Key, OpenError};
use crate::monitor::{Ended, Monitor};
use crate::secret::Secret;

/// One master, as its volumes share it while they are opened.
pub(super) struct Shared {
    pub master: Master,
    pub(super) state: Arc<Monitor<State>>,
    keep: Duration,
}

#[derive(Default)]
pub(super) struct State {
    /// Volumes that may still need it, in the order of the configuration.
    pending: Vec<String>,
    /// The ranks of those that wait for it now.
    pub(super) waiting: BTreeSet<usize>,
    /// What its header says, once somebody has read it.
    pub(super) header: Option<Result<Arc<Header>, OpenError>>,
    /// Whether somebody reads its header, or opens it.
    somebody_is_at_it: bool,
    key: Option<Kept>,
    /// Why it cannot be opened.
    given_up: Option<String>,
}

/// What a volume of the master is to do next.
pub(super) enum Next<'a> {
    /// Derive its key from this one.
    Key(Secret),
    /// Go on without.
    GivenUp(String),
    /// Open the master; nobody else does meanwhile.
    Open(Lead<'a>),
}

/// The right to be at the master, until it is dropped.
pub(super) struct Lead<'a>(&'a Shared);

impl Shared {
    /// A master by which the volumes `pending` are to be opened, and whose key is kept for `keep` at most.
    pub fn new(master: &Master, pending: Vec<String>, keep: Duration) -> Self {
        let state = State {
            pending,
            ..State::default()
        };
        Self {
            master: master.clone(),
            state: Arc::new(Monitor::new(state)),
            keep,
        }
    }

    /// Keeps the key that comes from now on for another time.
    pub fn keep_for(&mut self, keep: Duration) {
        self.keep = keep;
    }

    /// The volumes that may still need it.
    pub fn pending(&self) -> Vec<String> {
        self.state.look(|state| state.pending.clone())
    }

    /// This volume does not need it any more. After the last one nothing is kept.
    pub fn leave(&self, volume: &str) {
        self.state.update(|state| {
            state.pending.retain(|pending| pending != volume);
            if state.pending.is_empty() {
                state.key = None;
            }
        });
    }

    /// What its header says; `read` is called if nobody has done that yet.
    pub(super) fn header(
        &self,
        cancel: &Cancel,
        read: impl FnOnce() -> Result<Header, OpenError>,
    ) -> Result<Arc<Header>, OpenError> {
        let known = self.state.wait(None, cancel, |state| {
            if let Some(header) = &state.header {
                return Some(Ok(header.clone()));
            }
            (!state.somebody_is_at_it).then(|| {
                state.somebody_is_at_it = true;
                Err(Lead(self))
            })
        });
        let lead = match known {
            Ok(Ok(header)) => return header,
            Ok(Err(lead)) => lead,
            Err(_) => return Err(OpenError::Cancelled),
        };
        let header = read().map(Arc::new);
        if header != Err(OpenError::Cancelled) {
            self.state.update(|state| state.header = Some(header.clone()));
        }
        drop(lead);
        header
    }

    /// Waits until there is something to do; `limit` is how long (`None`: for ever).
    pub(super) fn next(&self, limit: Option<Duration>, cancel: &Cancel) -> Result<Next<'_>, Ended> {
        self.state.wait(limit, cancel, |state| {
            state.forget_old();
            if let Some(key) = &state.key {
                return Some(Next::Key(key.secret().clone()));
            }
            if let Some(words) = &state.given_up {
                return Some(Next::GivenUp(words.clone()));
            }
            (!state.somebody_is_at_it).then(|| {
                state.somebody_is_at_it = true;
                Next::Open(Lead(self))
            })
        })
    }

    /// It is open: this is its key.
    fn opened(&self, key: &Secret) {
        // What nobody would forget in time is not kept: the others open the master themselves.
        let kept = Kept::begin(key.clone(), self.keep, &self.state, State::forget_old);
        self.state.update(|state| {
            if !state.pending.is_empty() {
                state.key = kept;
            }
        });
    }

    /// It cannot be opened. `announce` hears the rank of each that waits for it, before they know.
    fn give_up(&self, words: &str, announce: impl Fn(usize)) {
        self.state.update(|state| {
            state.waiting.iter().copied().for_each(announce);
            state.given_up = Some(words.to_owned());
        });
    }
}

impl State {
    fn forget_old(&mut self) {
        self.key.take_if(|key| key.is_over());
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.state.update(|state| state.somebody_is_at_it = false);
    }
}

/// A volume's stay at a master, until it is dropped.
pub(super) struct Stay<'a> {
    shared: &'a Shared,
    volume: &'a Volume,
    rank: usize,
}

impl<'a> Stay<'a> {
    pub(super) fn begin(shared: &'a Shared, volume: &'a Volume, rank: usize) -> Self {
        shared.state.update(|state| state.waiting.insert(rank));
        Self { shared, volume, rank }
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.shared.state.update(|state| state.waiting.remove(&self.rank));
        self.shared.leave(&self.volume.name);
    }
}

impl Unlocker {
    /// Opens a volume by its master, which somebody may have to open first. `asks_later`: another of its ways asks somebody.
    pub(super) fn open_by_master(&self, way: &OnTheWay<'_>, volume: &Volume, name: &str, asks_later: bool) -> Asked {
        let asked = match self.masters.get(name) {
            Some(shared) => self.try_master(way, volume, shared, asks_later),
            None => Asked::GivenUp("it is not configured".to_owned()),
        };
        match asked {
            Asked::GivenUp(words) => {
                let words = format!("master {name}: {words}");
                way.progress.warning(words.clone());
                Asked::GivenUp(words)
            }
            through @ Asked::Through(_) => through,
        }
    }

    fn try_master(&self, way: &OnTheWay<'_>, volume: &Volume, shared: &Shared, asks_later: bool) -> Asked {
        let stay = Stay::begin(shared, volume, way.rank);
        let master = &shared.master;
        let read = || self.host.volumes.probe_master(master, way.cancel);
        let header = match shared.header(way.asking, read) {
            Ok(header) => header,
            Err(OpenError::Cancelled) => return Asked::Through(Outcome::Cancelled.into()),
            Err(error) => return Asked::GivenUp(error.to_string()),
        };
        let keyslot = match keyslot_for(way.header, &header.uuid) {
            Ok(keyslot) => keyslot,
            Err(lacks) => return Asked::GivenUp(format!("{lacks}: {}", lacks.remedy(&master.name, &volume.name))),
        };
        // Who is asked for the master stands where the first of its volumes does.
        if self.asks(&master.unlock) && self.turn.in_order(way.rank, self.pace.order_patience, way.asking).is_err() {
            return Asked::Through(Outcome::Cancelled.into());
        }
        let key = match self.key_of(way, &stay, &header) {
            Ok(key) => key,
            Err(asked) => {
                if asks_later {
                    self.turn.announce(way.rank);
                }
                return asked;
            }
        };
        self.settle(&volume.name);
        let key = Key::Derived {
            key: derive(&key, &way.header.uuid),
            keyslot,
        };
        match self.open(way, &key) {
            Err(OpenError::WrongKey) => {
                if asks_later {
                    self.unsettle(&volume.name);
                    self.turn.announce(way.rank);
                }
                Asked::GivenUp(format!(
                    "its key does not open keyslot {keyslot}, which the volume's token names: `virt-unlock master enroll {} {}`",
                    master.name, volume.name
                ))
            }
            result => Asked::Through(self.ending(way, result, &format!("opened by master {}", master.name))),
        }
    }

    /// The key of the master, which this volume opens if nobody else does.
    fn key_of(&self, way: &OnTheWay<'_>, stay: &Stay<'_>, header: &Header) -> Result<Secret, Asked> {
        let shared = stay.shared;
        let cancelled = || Asked::Through(Outcome::Cancelled.into());
        let next = match shared.next(Some(Duration::ZERO), way.asking) {
            Err(Ended::TimedOut) => {
                // Those after it are not to wait while it waits.
                way.progress.waiting(format!("waiting for master {}", shared.master.name));
                self.turn.not_now(way.rank);
                shared.next(None, way.asking)
            }
            next => next,
        };
        match next {
            Ok(Next::Key(key)) => Ok(key),
            Ok(Next::GivenUp(words)) => Err(Asked::GivenUp(words)),
            Ok(Next::Open(lead)) => self.open_master(way, stay.volume, header, &lead),
            Err(_) => Err(cancelled()),
        }
    }

    /// Opens the master for all of its volumes.
    pub(super) fn open_master(
        &self,
        way: &OnTheWay<'_>,
        volume: &Volume,
        header: &Header,
        lead: &Lead<'_>,
    ) -> Result<Secret, Asked> {
        let shared = lead.0;
        let (master, key) = (&shared.master, OnceCell::new());
        let of_master = OnTheWay {
            target: Target::Master { master, key: &key },
            header,
            ..*way
        };
        let words = match self.try_ways(&of_master) {
            Asked::Through(ending) => match ending.outcome {
                Outcome::Done(how) => {
                    if let Some(key) = key.into_inner() {
                        way.progress.note(format!("master {}: {how}", master.name));
                        shared.opened(&key);
                        return Ok(key);
                    }
                    how
                }
                Outcome::Cancelled => {
                    // Before the next one asks, and says for whom.
                    shared.leave(&volume.name);
                    return Err(Asked::Through(Outcome::Cancelled.into()));
                }
                outcome => outcome.to_string(),
            },
            Asked::GivenUp(words) => words,
        };
        // This one comes before those that wait for it.
        self.turn.announce(way.rank);
        shared.give_up(&words, |rank| self.turn.announce(rank));
        Err(Asked::GivenUp(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const KEEP: Duration = Duration::from_secs(3600);

    fn shared(pending: &[&str], keep: Duration) -> Shared {
        let master = Master::new("office", "/office.luks".into());
        Shared::new(&master, pending.iter().map(|name| (*name).to_owned()).collect(), keep)
    }

    fn key(text: &[u8]) -> Secret {
        Secret::copy_of(text)
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let shared = shared(&["mail", "web"], KEEP);
        shared.opened(&key(b"key"));
        shared.leave("mail");
        assert!(shared.state.look(|state| state.key.is_some()));
        shared.leave("web");
        assert!(shared.state.look(|state| state.key.is_none()));
        shared.opened(&key(b"key"));
        assert!(shared.state.look(|state| state.key.is_none()), "nobody is left to need it");
    }

    #[test]
    fn a_key_is_forgotten_in_time_though_nobody_looks_and_does_not_outlive_its_master() {
        let (soon, cancel) = (shared(&["mail"], Duration::from_millis(5)), Cancel::new().unwrap());
        soon.opened(&key(b"key"));
        let forgotten = soon.state.wait(Some(Duration::from_secs(60)), &cancel, |state| {
            state.key.is_none().then_some(())
        });
        assert_eq!(forgotten, Ok(()));
        let gone = shared(&["mail"], KEEP);
        gone.opened(&key(b"key"));
        let state = Arc::downgrade(&gone.state);
        drop(gone);
        assert!(state.upgrade().is_none());
    }

    #[test]
    fn those_that_wait_are_announced_before_they_know_that_it_is_given_up() {
        let (shared, volume) = (
            shared(&["mail"], KEEP),
            Volume::new("mail", crate::config::DeviceSpec::Path("/dev/mail".into())),
        );
        let (_one, gone) = (Stay::begin(&shared, &volume, 3), Stay::begin(&shared, &volume, 5));
        let _other = Stay::begin(&shared, &volume, 7);
        drop(gone);
        let announced = Mutex::new(Vec::new());
        shared.give_up("damaged", |rank| announced.lock().unwrap().push(rank));
        assert_eq!(*announced.lock().unwrap(), [3, 7]);
        let next = shared.next(None, &Cancel::new().unwrap());
        assert!(matches!(next, Ok(Next::GivenUp(words)) if words == "damaged"));
    }

    #[test]
    fn its_header_is_read_once_unless_the_reading_was_cancelled() {
        let (shared, cancel) = (shared(&["mail"], KEEP), Cancel::new().unwrap());
        let cancelled = shared.header(&cancel, || Err(OpenError::Cancelled));
        assert_eq!(cancelled, Err(OpenError::Cancelled));
        assert!(shared.header(&cancel, || Ok(Header::default())).is_ok());
        assert!(shared.header(&cancel, || panic!("it was read already")).is_ok());
    }
}
