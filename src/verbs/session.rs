//! What the verbs share: configuration, host, orders from outside, locks, facts.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{App, Failure};
use crate::cancel::Cancel;
use crate::config::{self, Config};
use crate::event::{Events, Happened, Kind};
use crate::facts::{Facts, LibvirtFacts};
use crate::graph::{self, Graph};
use crate::host::devices::Kernel;
use crate::host::lock::{self, Demand, FOLDER, Lock, LockError, Part};
use crate::host::questions::AskPassword;
use crate::host::units::Systemd;
use crate::host::volumes::Cryptsetup;
use crate::host::watch::{self, Watch};
use crate::host::{Host, Hypervisor, HypervisorError, Tcp};
use crate::text;

/// How long pools that do not answer are waited for where libvirt itself is waited for without limit.
const POOLS_PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two tries to reach libvirt.
const LIBVIRT_PAUSE: Duration = Duration::from_secs(2);

/// The configuration with the machine that it is for.
pub(super) struct Session {
    pub config: Config,
    /// The configuration's files with their own words.
    pub files: Vec<(PathBuf, String)>,
    pub host: Host,
    pub systemd: Arc<Systemd>,
}

impl Session {
    /// Reads the configuration. `terminal`: questions are also put on this process's own terminal.
    pub fn begin(app: &App, terminal: bool) -> Result<Self, Failure> {
        Self::with_config(app, app.config.as_deref(), terminal)
    }

    pub fn with_config(app: &App, at: Option<&Path>, terminal: bool) -> Result<Self, Failure> {
        let loaded = config::load(at).map_err(|problems| not_allowed(at).unwrap_or_else(|| problems.into()))?;
        let systemd = Arc::new(Systemd);
        let host = Host {
            devices: Arc::new(Kernel::new()),
            volumes: Arc::new(Cryptsetup::default()),
            questions: Arc::new(AskPassword { terminal }),
            mounts: Arc::clone(&systemd) as Arc<_>,
            network: Arc::new(Tcp),
            hypervisor: app.connect.map(|connect| connect(&loaded.config.host.libvirt_uri)),
        };
        Ok(Self {
            files: loaded.files,
            config: loaded.config,
            host,
            systemd,
        })
    }

    /// Only the administrator may change anything.
    pub fn need_root(verb: &str) -> Result<(), Failure> {
        if nix::unistd::geteuid().is_root() {
            Ok(())
        } else {
            Err(Failure::Unable(format!(
                "`virt-unlock {verb}` needs root: try `sudo virt-unlock {verb}`"
            )))
        }
    }

    /// Takes the lock of one part, saying for whom it waits.
    pub fn lock(part: Part, what: &str, demand: Demand, events: &Events, cancel: &Cancel) -> Result<Lock, Failure> {
        let say = |holder: &lock::Holder| {
            let words = match demand {
                Demand::Patience => format!("waiting for {holder}"),
                Demand::Yield | Demand::YieldToName | Demand::YieldOrEnd => format!("waiting for {holder} to let go"),
                Demand::End => format!("waiting for {holder} to end"),
            };
            events.say(None, Happened::Waiting(words));
        };
        lock::acquire(Path::new(FOLDER), part, what, demand, say, cancel).map_err(|error| match error {
            LockError::Cancelled => Failure::Cancelled,
            error @ LockError::Io { .. } => Failure::Unable(format!(
                "{error}; without it two runs could work on one volume, so nothing was done"
            )),
        })
    }

    /// Whether the configuration names anything at all.
    pub fn is_empty(&self) -> bool {
        self.config.volumes.is_empty() && self.config.secrets.is_empty() && self.config.domains.is_empty()
    }

    /// What the machine says now. libvirt is asked again for as long as `patience` while it does not answer (`None`: for ever); where
    /// nothing is configured it is not asked, for nothing there can concern us.
    ///
    /// # Errors
    /// When cancelled.
    pub fn facts(&self, patience: Option<Duration>, events: &Events, cancel: &Cancel) -> Result<Facts, Failure> {
        let mut facts = Facts::default();
        if let (Some(hypervisor), false) = (&self.host.hypervisor, self.is_empty()) {
            match ask_libvirt(hypervisor.as_ref(), patience, events, cancel) {
                Ok(found) => facts.libvirt = Some(found),
                Err(HypervisorError::Cancelled) => return Err(Failure::Cancelled),
                Err(error) => facts.libvirt_error = Some(error.to_string()),
            }
        }
        // Last, so that it is the newest.
        facts.volumes = watch::read(&self.config, self.host.devices.as_ref());
        Ok(facts)
    }

    /// The graph of what these facts show.
    pub fn graph(&self, facts: &Facts) -> Result<Graph, Failure> {
        graph::of(&self.config, facts).map_err(|cycle| Failure::Usage(format!("nothing can come first: {cycle}")))
    }

    /// Begins to watch devices and mounts.
    pub fn watch(&self) -> Result<Watch, Failure> {
        Ok(Watch::begin(&self.config, Arc::clone(&self.host.devices))?)
    }
}

/// A configuration that only the administrator may read is not a wrong one.
fn not_allowed(at: Option<&Path>) -> Option<Failure> {
    let main = at.unwrap_or(Path::new(config::DEFAULT_PATH));
    let denied = File::open(main).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    (denied && !nix::unistd::geteuid().is_root())
        .then(|| Failure::Unable(format!("{} can be read by root alone: try it with sudo", main.display())))
}

/// Asks libvirt again for as long as `patience` while it does not answer (`None`: for ever).
pub(super) fn ask_libvirt(
    hypervisor: &dyn Hypervisor,
    patience: Option<Duration>,
    events: &Events,
    cancel: &Cancel,
) -> Result<LibvirtFacts, HypervisorError> {
    let since = Instant::now();
    let mut said = false;
    loop {
        let result = hypervisor.facts(cancel);
        // Without its pools there is still something to be done, so that is not waited for as long as it may take.
        let (words, limit) = match &result {
            Err(error @ HypervisorError::Unavailable(_)) => (error.to_string(), patience),
            Ok(LibvirtFacts {
                pools_error: Some(error),
                ..
            }) => (
                format!("libvirt's storage pools do not answer: {error}"),
                Some(patience.unwrap_or(POOLS_PATIENCE)),
            ),
            _ => return result,
        };
        if limit.is_some_and(|limit| since.elapsed() >= limit) {
            if result.is_ok() {
                events.say(None, Happened::Warning(format!("{words}; going on without them")));
            }
            return result;
        }
        if !said {
            let limit = limit.map_or_else(String::new, |limit| format!(" for {}", text::duration(limit)));
            let kind = result.is_err().then_some(Kind::LibvirtSilent);
            events.tell(None, kind, Happened::Waiting(format!("{words}; trying again{limit}")));
            said = true;
        }
        if cancel.wait(LIBVIRT_PAUSE) {
            return Err(HypervisorError::Cancelled);
        }
    }
}
