//! Filesystems by mount units of systemd's, and orders to its units, over the system's message bus. The bus comes up late in a boot
//! and goes early in a shutdown: a mount waits for it, and nothing on the way down needs it.

mod aside;
mod bus;
mod fsck;
mod mount;
mod name;
mod place;
mod unmount;

use std::time::Duration;

use super::ports::{MountError, Mounts};
use crate::cancel::Cancel;
use crate::config::{Mount, Volume};

use bus::Bus;
pub use bus::BusError;
pub use name::instance;

/// How long systemd may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// systemd makes no signal of everything that is waited for here: how often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The running systemd. It is connected to afresh for each task: it may have been re-executed since the last one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemd;

impl Systemd {
    /// Orders the start of a unit and does not wait for it. A stop of it that is under way (a shutdown) is not undone: that is an
    /// error.
    ///
    /// # Errors
    /// When systemd does not answer, or says no.
    pub fn start_unit(&self, name: &str, cancel: &Cancel) -> Result<(), BusError> {
        Bus::connect(Duration::ZERO, cancel)?.order("StartUnit", name, "fail", cancel)
    }

    /// Orders the stop of a unit and does not wait for it. A start of it that is under way is given up; where somebody restarts it,
    /// its stop is ordered already, and another order would take the place of its start.
    ///
    /// # Errors
    /// When systemd does not answer, or says no; so it does when there is no such unit.
    pub fn stop_unit(&self, name: &str, cancel: &Cancel) -> Result<(), BusError> {
        let bus = Bus::connect(Duration::ZERO, cancel)?;
        // A job that ended while it was looked at is none.
        if bus.is_restarting(name, cancel) == Ok(true) {
            return Ok(());
        }
        bus.order("StopUnit", name, "replace", cancel)
    }

    /// Its version, as `systemctl --version` begins: 257.
    ///
    /// # Errors
    /// When systemd does not answer, or answers otherwise.
    pub fn version(&self, cancel: &Cancel) -> Result<u32, BusError> {
        let words = Bus::connect(Duration::ZERO, cancel)?.version(cancel)?;
        number(&words).ok_or_else(|| BusError::Gone(format!("its version is no number: {words}")))
    }

    /// Whether a unit is neither active nor on its way.
    ///
    /// # Errors
    /// When systemd does not answer, or says no.
    pub fn is_down(&self, name: &str, cancel: &Cancel) -> Result<bool, BusError> {
        Ok(Bus::connect(Duration::ZERO, cancel)?.unit(name, cancel)?.is_down())
    }

    /// The names of the credentials that a service loads from files when it starts.
    ///
    /// # Errors
    /// When systemd does not answer, or says no.
    pub fn credentials(&self, name: &str, cancel: &Cancel) -> Result<Vec<String>, BusError> {
        let bus = Bus::connect(Duration::ZERO, cancel)?;
        bus.credentials(&bus.unit(name, cancel)?, cancel)
    }

    /// The units that are active or on their way there and whose names match a pattern (`virt-unlock@*.service`).
    ///
    /// # Errors
    /// When systemd does not answer, or says no.
    pub fn active_units(&self, pattern: &str, cancel: &Cancel) -> Result<Vec<String>, BusError> {
        Bus::connect(Duration::ZERO, cancel)?.list(pattern, &["active", "activating"], cancel)
    }

    /// Starts a unit now whose start is held up by the order of jobs, if it is: systemd lets every stop go before a start, so a
    /// daemon that is restarted while a unit ordered after it is being stopped comes back only after that stop, which may need the
    /// daemon. At a shutdown systemd says no, as it should.
    ///
    /// # Errors
    /// When systemd does not answer, or says no.
    pub fn start_past_order(&self, name: &str, cancel: &Cancel) -> Result<(), BusError> {
        let bus = Bus::connect(Duration::ZERO, cancel)?;
        let unit = bus.unit(name, cancel)?;
        if unit.has_job && unit.is_down() {
            // systemctl(1), --job-mode=
            bus.order("StartUnit", name, "ignore-dependencies", cancel)?;
        }
        Ok(())
    }
}

/// The number that a version begins with: `252.39-1~deb12u2`, `257.13-1~deb13u1`, `v258-rc2`.
fn number(version: &str) -> Option<u32> {
    let rest = version.trim_start_matches(|first: char| !first.is_ascii_digit());
    rest.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
}

impl Mounts for Systemd {
    fn mount(&self, volume: &Volume, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
        mount::mount(volume, mount, cancel)
    }

    fn unmount(&self, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
        unmount::unmount(mount, cancel)
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_version_begins_with_its_number() {
        assert_eq!(number("252.39-1~deb12u2"), Some(252));
        assert_eq!(number("v258-rc2"), Some(258));
        assert_eq!(number("devel"), None);
    }
}
