//! The way by passphrase: what is known already, then questions until one opens the volume or its tries are used up.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::Unlocker;
use super::group::{Group, Lead, Next};
use super::master::Shared;
use super::volume::{OnTheWay, Target};
use super::words;
use crate::config::Volume;
use crate::event::{Ending, Outcome, Phase};
use crate::host::{Key, OpenError, Question, QuestionError};
use crate::monitor::Ended;
use crate::pace::Pace;
use crate::secret::Secret;

/// Why it is asked again.
const WRONG: &str = "the last one was wrong";
/// Why it is not asked yet.
const ANOTHER: &str = "another question is open: this one comes after its answer";

/// What asking came to.
pub(super) enum Asked {
    /// The volume is through, or the master open.
    Through(Ending),
    /// This way is used up; the words say why.
    GivenUp(String),
}

/// What a person is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Passphrase,
    /// That of a token.
    Pin,
}

impl Wanted {
    /// As a question begins.
    fn title(self) -> &'static str {
        match self {
            Self::Passphrase => "Passphrase",
            Self::Pin => "Token PIN",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Pin => "PIN",
        }
    }

    /// What the question's id begins with: agents that know passphrases, such as clevis', are to leave a PIN alone.
    fn scheme(self) -> &'static str {
        match self {
            Self::Passphrase => "cryptsetup",
            Self::Pin => "virt-unlock:pin",
        }
    }
}

/// What is remembered between the questions for one volume or master.
pub(super) struct Tries {
    wanted: Wanted,
    used: u32,
    last: Option<String>,
    pause: Duration,
    /// Answers that opened nothing, as keyed hashes: enough to know one again, useless to everybody else.
    wrong: Vec<u64>,
    hasher: RandomState,
}

impl Unlocker {
    pub(super) fn ask_and_open(&self, way: &OnTheWay<'_>) -> Asked {
        let mut tries = Tries::new(Wanted::Passphrase, &self.pace);
        let mut cached = self.host.questions.cached();
        if let Target::Secret { wanted, images, .. } = way.target {
            tries.used = wanted.refused;
            tries.last = (wanted.refused > 0).then(|| WRONG.to_owned());
            if images.is_empty() {
                // What nothing can be compared with would be taken for right.
                cached.clear();
            }
        }
        for secret in cached {
            tries.remember(&secret);
            if let Some(asked) = self.offer(way, secret, "opened by the passphrase of the root disk", None) {
                return asked;
            }
        }
        let group = match way.target {
            Target::Volume { volume, .. } => self.group_of(volume),
            Target::Secret { wanted, .. } => self.group_named(wanted.secret.passphrase_group.as_ref()),
            Target::Master { .. } => None,
        };
        let mut seen = 0;
        if self.turn.in_order(way.rank, self.pace.order_patience, way.asking).is_err() {
            return Asked::Through(Outcome::Cancelled.into());
        }
        loop {
            let _lead: Option<Lead<'_>> = match group.map(|group| self.next_of(group, &mut seen, way)) {
                None => None,
                Some(Err(_)) => return Asked::Through(Outcome::Cancelled.into()),
                Some(Ok(Next::Ask(lead))) => Some(lead),
                Some(Ok(Next::Try(secret))) => {
                    tries.remember(&secret);
                    match self.offer(way, secret, "opened by the passphrase of its group", None) {
                        Some(asked) => return asked,
                        None => continue,
                    }
                }
            };
            loop {
                let (answer, took) = match self.ask(way, &tries, group) {
                    Ok(answered) => answered,
                    Err(asked) => return asked,
                };
                let known = tries.remember(&answer);
                let proof = group.map(|group| (group, &mut seen));
                let through = if known {
                    None
                } else {
                    self.offer(way, answer, "opened", proof)
                };
                if let Some(asked) = through {
                    return asked;
                }
                if let Some(asked) = tries.count(way, known, took, &self.pace) {
                    return asked;
                }
            }
        }
    }

    /// What this member is to do next. Those after it are not to wait while it waits for its group.
    fn next_of<'g>(&self, group: &'g Group, seen: &mut usize, way: &OnTheWay<'_>) -> Result<Next<'g>, Ended> {
        match group.next(seen, Some(Duration::ZERO), way.asking) {
            Err(Ended::TimedOut) => {
                self.turn.not_now(way.rank);
                group.next(seen, None, way.asking)
            }
            next => next,
        }
    }

    /// Waits for the turn and puts one question; the answer, and how fast it came.
    pub(super) fn ask(&self, way: &OnTheWay<'_>, tries: &Tries, group: Option<&Group>) -> Result<(Secret, Duration), Asked> {
        way.progress.waiting("waiting until its question can be asked");
        let Ok(_turn) = self.turn.take(way.rank, way.asking) else {
            return Err(Asked::Through(Outcome::Cancelled.into()));
        };
        let busy = || way.progress.waiting(ANOTHER);
        let Ok(_alone) = self.host.questions.alone(&busy, way.asking) else {
            return Err(Asked::Through(Outcome::Cancelled.into()));
        };
        let group_waits = group.map_or(0, Group::others);
        let what = match way.target {
            Target::Volume { volume, .. } => words::of_volume(volume, self.guests_of(&volume.name), group_waits),
            Target::Master { master, .. } => {
                let volumes = self.masters.get(&master.name).map(Shared::pending).unwrap_or_default();
                let guests: Vec<String> = volumes.iter().flat_map(|volume| self.guests_of(volume).to_vec()).collect();
                words::of_master(&master.name, &volumes, &guests)
            }
            Target::Secret { wanted, .. } => words::of_secret(&wanted.secret.name, wanted.guests, group_waits),
        };
        let words = words::question(
            tries.wanted.title(),
            &what,
            tries.used + 1,
            way.target.tries(),
            tries.last.as_deref(),
        );
        way.progress.asking(words.clone());
        let question = Question {
            words,
            id: way.target.id(tries.wanted.scheme()),
        };
        let since = Instant::now();
        match way
            .progress
            .during(Phase::Question, || self.host.questions.ask(&question, way.asking))
        {
            Ok(answer) => Ok((answer, since.elapsed())),
            Err(QuestionError::Cancelled) => Err(Asked::Through(Outcome::Cancelled.into())),
            Err(error) => Err(Asked::GivenUp(error.to_string())),
        }
    }

    /// The guests that wait for a volume.
    fn guests_of(&self, volume: &str) -> &[String] {
        self.waiting_guests.get(volume).map(Vec::as_slice).unwrap_or_default()
    }

    /// Tries one passphrase. `None`: it opens nothing here.
    fn offer(&self, way: &OnTheWay<'_>, secret: Secret, done: &str, proof: Option<(&Group, &mut usize)>) -> Option<Asked> {
        let key = Key::Passphrase(secret);
        let result = self.open(way, &key);
        if result == Err(OpenError::WrongKey) {
            return None;
        }
        let is_proven = !matches!(way.target, Target::Secret { images: [], .. });
        if let (Ok(()), Some((group, seen)), Key::Passphrase(secret), true) = (&result, proof, key, is_proven) {
            group.proven(secret, seen);
        }
        Some(Asked::Through(self.ending(way, result, done)))
    }

    pub(super) fn group_of(&self, volume: &Volume) -> Option<&Group> {
        self.group_named(volume.passphrase_group.as_ref())
    }

    pub(super) fn group_named(&self, name: Option<&String>) -> Option<&Group> {
        self.groups.get(name?)
    }
}

impl Tries {
    pub fn new(wanted: Wanted, pace: &Pace) -> Self {
        Self {
            wanted,
            used: 0,
            last: None,
            pause: pace.machine_pause,
            wrong: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// Whether this one was wrong before.
    pub fn remember(&mut self, secret: &Secret) -> bool {
        let hash = self.hasher.hash_one(secret.expose());
        let known = self.wrong.contains(&hash);
        if !known {
            self.wrong.push(hash);
        }
        known
    }

    /// Counts a wrong answer, and says so when it was the last that is allowed.
    pub fn count(&mut self, way: &OnTheWay<'_>, known: bool, took: Duration, pace: &Pace) -> Option<Asked> {
        let word = self.wanted.word();
        // A token counts itself, whoever types, and locks.
        let is_by_program = took < pace.machine && self.wanted == Wanted::Passphrase;
        if known || is_by_program {
            let why = if known {
                format!("the same {word} as before")
            } else {
                format!("a wrong {word} at once, by a program")
            };
            way.progress.note(format!(
                "{why}; it does not count, the question comes back in {} s",
                self.pause.as_secs()
            ));
            self.last = Some(
                if known {
                    "that one was tried before"
                } else {
                    "a program's answer was wrong"
                }
                .to_owned(),
            );
            if way.asking.wait(self.pause) {
                return Some(Asked::Through(Outcome::Cancelled.into()));
            }
            self.pause = (self.pause * 2).min(pace.machine_pause_longest);
            return None;
        }
        self.used += 1;
        self.last = Some(WRONG.to_owned());
        let limit = way.target.tries();
        way.progress.note(format!(
            "wrong {word}{}, try {}{}",
            match way.target {
                Target::Volume { .. } | Target::Secret { .. } => String::new(),
                Target::Master { master, .. } => format!(" for master {}", master.name),
            },
            self.used,
            if limit > 0 { format!(" of {limit}") } else { String::new() }
        ));
        (limit > 0 && self.used >= limit).then(|| Asked::GivenUp(format!("given up after {limit} wrong {word}s")))
    }
}
