//! What is said to systemd (org.freedesktop.systemd1(5)).

use std::fmt::Debug;
use std::time::{Duration, Instant};

use zbus::connection::Builder;
use zbus::{Connection, DynamicType, Error, Message, OwnedObjectPath, OwnedVariant};

use super::aside::aside;
use super::{ANSWER, LOOK_AGAIN};
use crate::cancel::Cancel;
use crate::monitor::Ended;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
const JOB_INTERFACE: &str = "org.freedesktop.systemd1.Job";
const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
const MOUNT_INTERFACE: &str = "org.freedesktop.systemd1.Mount";

/// Why systemd did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It is not there, or does not answer: may pass.
    #[error("systemd does not answer: {0}")]
    Gone(String),
    /// It said no.
    #[error("systemd says: {words}")]
    Refused {
        /// The error's name (`org.freedesktop.systemd1.NoSuchUnit`).
        name: String,
        /// Its words.
        words: String,
    },
}

impl BusError {
    /// Whether it is the error of this name, without `org.freedesktop.systemd1.`.
    pub(super) fn is(&self, what: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name.strip_prefix(SYSTEMD).is_some_and(|rest| rest.strip_prefix('.') == Some(what)))
    }

    fn of(error: Error) -> Self {
        match error {
            Error::MethodError(name, words, _) => Self::Refused {
                words: words.unwrap_or_else(|| name.to_string()),
                name: name.to_string(),
            },
            // The errors of the bus itself: a name that nobody has, an answer that did not come, a policy.
            error => Self::Gone(error.to_string()),
        }
    }
}

/// A unit's property.
pub(super) type Property = (&'static str, OwnedVariant);

/// A connection.
pub(super) struct Bus(Connection);

impl Bus {
    /// Connects to the system's message bus. Early in the boot that may not be up yet: it is tried for as long as `patience`.
    pub(super) fn connect(patience: Duration, cancel: &Cancel) -> Result<Self, BusError> {
        let since = Instant::now();
        loop {
            let connect = || zbus::block_on(Builder::system().method_timeout(ANSWER).build()).map_err(BusError::of);
            match bounded(cancel, connect) {
                Err(BusError::Gone(_)) if since.elapsed() < patience => {}
                result => return result.map(Self),
            }
            if cancel.wait(LOOK_AGAIN) {
                return Err(BusError::Cancelled);
            }
        }
    }

    /// The version of systemd, with its distribution's own words behind the number.
    pub(super) fn version(&self, cancel: &Cancel) -> Result<String, BusError> {
        self.property(MANAGER, MANAGER_INTERFACE, "Version", cancel)
    }

    /// Orders a job for a unit.
    pub(super) fn order(&self, what: &'static str, unit: &str, mode: &'static str, cancel: &Cancel) -> Result<(), BusError> {
        self.manager(what, (unit.to_owned(), mode), cancel).map(drop)
    }

    /// Makes a unit of these properties and orders its start.
    pub(super) fn start_transient(&self, unit: &str, properties: Vec<Property>, cancel: &Cancel) -> Result<(), BusError> {
        let auxiliary: Vec<(String, Vec<Property>)> = Vec::new();
        let body = (unit.to_owned(), "fail", properties, auxiliary);
        self.manager("StartTransientUnit", body, cancel).map(drop)
    }

    /// Forgets that a unit failed. One that does not exist has not.
    pub(super) fn reset_failed(&self, unit: &str, cancel: &Cancel) -> Result<(), BusError> {
        match self.manager("ResetFailedUnit", (unit.to_owned(),), cancel) {
            Err(error) if error.is("NoSuchUnit") => Ok(()),
            result => result.map(drop),
        }
    }

    /// A unit as systemd has it, loaded if it was not.
    pub(super) fn unit(&self, name: &str, cancel: &Cancel) -> Result<Unit, BusError> {
        let reply = self.manager("LoadUnit", (name.to_owned(),), cancel)?;
        let path: OwnedObjectPath = reply.body().deserialize().map_err(BusError::of)?;
        let path = path.to_string();
        let job: (u32, OwnedObjectPath) = self.property(&path, UNIT_INTERFACE, "Job", cancel)?;
        Ok(Unit {
            load: self.property(&path, UNIT_INTERFACE, "LoadState", cancel)?,
            active: self.property(&path, UNIT_INTERFACE, "ActiveState", cancel)?,
            fragment: self.property(&path, UNIT_INTERFACE, "FragmentPath", cancel)?,
            source: self.property(&path, UNIT_INTERFACE, "SourcePath", cancel)?,
            transient: self.property(&path, UNIT_INTERFACE, "Transient", cancel)?,
            has_job: job.0 != 0,
            path,
        })
    }

    /// Whether a unit is being restarted, and its stop is not through yet.
    pub(super) fn is_restarting(&self, name: &str, cancel: &Cancel) -> Result<bool, BusError> {
        let reply = self.manager("LoadUnit", (name.to_owned(),), cancel)?;
        let path: OwnedObjectPath = reply.body().deserialize().map_err(BusError::of)?;
        let (number, job): (u32, OwnedObjectPath) = self.property(&path.to_string(), UNIT_INTERFACE, "Job", cancel)?;
        if number == 0 {
            return Ok(false);
        }
        let kind: String = self.property(&job.to_string(), JOB_INTERFACE, "JobType", cancel)?;
        Ok(kind == "restart")
    }

    /// The names of the units that systemd has loaded, in one of these states, and that match a pattern.
    pub(super) fn list(&self, pattern: &str, states: &[&'static str], cancel: &Cancel) -> Result<Vec<String>, BusError> {
        let body = (states.to_vec(), vec![pattern.to_owned()]);
        let reply = self.manager("ListUnitsByPatterns", body, cancel)?;
        let found: Vec<Listed> = reply.body().deserialize().map_err(BusError::of)?;
        Ok(found.into_iter().map(|unit| unit.0).collect())
    }

    /// How the last run of a mount unit ended: `success`, `exit-code`, `timeout`, …
    pub(super) fn mount_result(&self, unit: &Unit, cancel: &Cancel) -> Result<String, BusError> {
        self.property(&unit.path, MOUNT_INTERFACE, "Result", cancel)
    }

    /// The names of the credentials that a service loads from files when it starts (`LoadCredential=` and `LoadCredentialEncrypted=` of
    /// systemd.exec(5)).
    pub(super) fn credentials(&self, unit: &Unit, cancel: &Cancel) -> Result<Vec<String>, BusError> {
        let mut names = Vec::new();
        for property in ["LoadCredential", "LoadCredentialEncrypted"] {
            let found: Vec<(String, String)> = self.property(&unit.path, SERVICE_INTERFACE, property, cancel)?;
            names.extend(found.into_iter().map(|(name, _)| name));
        }
        Ok(names)
    }

    /// The number of the last run of a unit, as the journal has it.
    pub(super) fn invocation(&self, unit: &Unit, cancel: &Cancel) -> Result<Vec<u8>, BusError> {
        self.property(&unit.path, UNIT_INTERFACE, "InvocationID", cancel)
    }

    fn property<T>(&self, path: &str, interface: &'static str, name: &'static str, cancel: &Cancel) -> Result<T, BusError>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Debug,
    {
        let path = path.to_owned();
        let reply = self.call(path, "org.freedesktop.DBus.Properties", "Get", (interface, name), cancel)?;
        let value: OwnedVariant = reply.body().deserialize().map_err(BusError::of)?;
        T::try_from(value)
            .map_err(|error| BusError::Gone(format!("its property {name} is of another kind than known: {error:?}")))
    }

    fn manager<B>(&self, method: &'static str, body: B, cancel: &Cancel) -> Result<Message, BusError>
    where
        B: serde::Serialize + DynamicType + Send + 'static,
    {
        self.call(MANAGER.to_owned(), MANAGER_INTERFACE, method, body, cancel)
    }

    fn call<B>(
        &self,
        path: String,
        interface: &'static str,
        method: &'static str,
        body: B,
        cancel: &Cancel,
    ) -> Result<Message, BusError>
    where
        B: serde::Serialize + DynamicType + Send + 'static,
    {
        let connection = self.0.clone();
        bounded(cancel, move || {
            let call = connection.call_method(Some(SYSTEMD), path, Some(interface), method, &body);
            zbus::block_on(call).map_err(BusError::of)
        })
    }
}

/// What is listed of a unit: its name, and nine more things.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// A unit as systemd has it.
pub(super) struct Unit {
    path: String,
    /// `loaded`, `not-found`, `masked`, …
    pub(super) load: String,
    /// `active`, `inactive`, `failed`, `activating`, …
    pub(super) active: String,
    /// The unit's file; empty: none.
    pub(super) fragment: String,
    /// What that was made from: `/etc/fstab`.
    pub(super) source: String,
    /// Whether it was made at run time, as ours are.
    pub(super) transient: bool,
    /// Whether something is being done with it or waits to be.
    pub(super) has_job: bool,
}

impl Unit {
    pub(super) fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }
}

/// Never longer than [`ANSWER`], and no longer than `cancel` allows. A call has its own limit of the same length, so that the thread
/// that is left behind ends too.
fn bounded<T: Send + 'static>(
    cancel: &Cancel,
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    match aside(Some(ANSWER), cancel, work) {
        Ok(result) => result,
        Err(Ended::Cancelled) => Err(BusError::Cancelled),
        Err(Ended::TimedOut) => Err(BusError::Gone(format!("nothing came within {} s", ANSWER.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_names() {
        let error = |name: &str| BusError::Refused {
            name: name.to_owned(),
            words: String::new(),
        };
        assert!(error("org.freedesktop.systemd1.UnitExists").is("UnitExists"));
        assert!(!error("org.freedesktop.systemd1.NoSuchUnit").is("UnitExists"));
        assert!(!BusError::Cancelled.is("UnitExists"));
    }
}
