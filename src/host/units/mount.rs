//! Mounting by a transient unit of systemd's.

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use zbus::{OwnedVariant, Variant};

use super::bus::{Bus, BusError, Property, Unit};
use super::{LOOK_AGAIN, fsck, name, place};
use crate::cancel::Cancel;
use crate::config::{Mount, Volume};
use crate::host::MountError;
use crate::host::tool::{last_line, run};

/// How long the message bus may take to come up: a passphrase may be typed before it.
const BUS_COMES: Duration = Duration::from_secs(90);
/// How long a mount may take. systemd's own limit for mount(8) is as long.
const MOUNTED: Duration = Duration::from_secs(90);
/// How long a unit of that name that is on its way out may take.
const LEAVING: Duration = Duration::from_secs(10);
/// How long what is left of a cancelled mount may take to go.
const TAKEN_BACK: Duration = Duration::from_secs(5);
/// How long the journal may take to say why.
const JOURNAL: Duration = Duration::from_secs(5);

/// What the mount is there before, and so is stopped after.
const BEFORE: [&str; 3] = ["umount.target", "virt-guest-shutdown.target", "virt-unlock-guests.service"];

impl From<BusError> for MountError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Cancelled => Self::Cancelled,
            error => Self::Other(error.to_string()),
        }
    }
}

/// Checks the filesystem and mounts it.
pub(super) fn mount(volume: &Volume, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
    let unit = name::of_mount(&mount.at).map_err(MountError::Other)?;
    place::prepare(&mount.at).map_err(MountError::Other)?;
    let bus = Bus::connect(BUS_COMES, cancel)?;
    // Before the check of the filesystem, which may take long: a configuration that cannot be is said at once.
    foreign(&bus.unit(&unit, cancel)?, &unit, mount)?;
    fsck::check(volume, mount, cancel)?;
    let result = start(&bus, &unit, volume, mount, cancel).and_then(|()| await_it(&bus, &unit, mount, cancel));
    if result == Err(MountError::Cancelled) {
        take_back(&bus, &unit);
    }
    result
}

/// A unit of that name that somebody else wrote.
fn foreign(found: &Unit, unit: &str, mount: &Mount) -> Result<(), MountError> {
    if found.load == "masked" {
        return Err(MountError::Other(format!(
            "{unit} is masked, so systemd mounts nothing at {}; `systemctl unmask {unit}`",
            mount.at.display()
        )));
    }
    if found.fragment.is_empty() || found.transient {
        return Ok(());
    }
    let from = if found.source.is_empty() {
        &found.fragment
    } else {
        &found.source
    };
    Err(MountError::Other(format!(
        "{} has a mount unit already, from {from}; remove it there (then `systemctl daemon-reload`), or leave out `mount` here",
        mount.at.display()
    )))
}

/// Orders the mount. A unit of ours that is left from before is waited for, or forgotten if it failed.
fn start(bus: &Bus, unit: &str, volume: &Volume, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
    let deadline = Instant::now() + LEAVING;
    loop {
        let found = bus.unit(unit, cancel)?;
        foreign(&found, unit, mount)?;
        if found.active == "failed" {
            bus.reset_failed(unit, cancel)?;
        }
        match bus.start_transient(unit, properties(volume, mount)?, cancel) {
            Err(error) if error.is("UnitExists") && Instant::now() < deadline => {}
            Err(error) if error.is("UnitExists") => {
                return Err(MountError::Other(format!(
                    "{unit} is still there from before ({}); `systemctl status {unit}` shows why, `systemctl stop {unit}` may help",
                    found.active
                )));
            }
            result => return Ok(result?),
        }
        if cancel.wait(LOOK_AGAIN) {
            return Err(MountError::Cancelled);
        }
    }
}

/// What the unit says. With systemd's default dependencies it would be `Before=local-fs.target`, and a power-off would wait for
/// ever: that target for our stop, our stop for the mount, the mount for that target.
fn properties(volume: &Volume, mount: &Mount) -> Result<Vec<Property>, MountError> {
    let path = |path: &std::path::Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| MountError::Other(format!("{} is not UTF-8, and systemd takes nothing else", path.display())))
    };
    let at = path(&mount.at)?;
    let mut options: Vec<&str> = mount.options.as_deref().into_iter().collect();
    if volume.flags.read_only {
        options.push("ro");
    }
    let mut properties: Vec<(&'static str, Variant<'_>)> = vec![
        ("Description", format!("Volume {} at {at} (virt-unlock)", volume.name).into()),
        ("What", path(&volume.node())?.into()),
        ("Where", at.into()),
        ("DefaultDependencies", false.into()),
        ("Conflicts", vec!["umount.target"].into()),
        // The second is for virt-unlock-guests.service too, which is after it; of the units of single guests it is the only word: they
        // have no common name that could stand here.
        ("Before", BEFORE.to_vec().into()),
    ];
    if let Some(fstype) = &mount.fstype {
        properties.push(("Type", fstype.as_str().into()));
    }
    if !options.is_empty() {
        properties.push(("Options", options.join(",").into()));
    }
    let owned = properties.into_iter().map(|(name, value)| {
        // Fails for file descriptors alone.
        OwnedVariant::try_from(value).map(|value| (name, value))
    });
    let owned: Result<Vec<Property>, zbus::Error> = owned.collect();
    owned.map_err(|error| MountError::Other(error.to_string()))
}

/// Waits until it is mounted. A systemd that does not answer for a moment (`systemctl daemon-reexec`) does not end it.
fn await_it(bus: &Bus, unit: &str, mount: &Mount, cancel: &Cancel) -> Result<(), MountError> {
    let deadline = Instant::now() + MOUNTED;
    let mut again = None;
    loop {
        let bus = again.as_ref().unwrap_or(bus);
        let over = Instant::now() >= deadline;
        match bus.unit(unit, cancel) {
            Ok(found) if found.active == "active" && !found.has_job => return Ok(()),
            Ok(found) if found.is_down() && !found.has_job => return Err(why(bus, unit, &found, mount, cancel)),
            Ok(found) if over => {
                take_back(bus, unit);
                return Err(MountError::Other(format!(
                    "it was not mounted at {} within {} s (its unit is {}); `systemctl status {unit}` shows what it waits for",
                    mount.at.display(),
                    MOUNTED.as_secs(),
                    found.active
                )));
            }
            Ok(_) => {}
            Err(error @ BusError::Gone(_)) if !over => match Bus::connect(Duration::ZERO, cancel) {
                Ok(bus) => again = Some(bus),
                Err(BusError::Cancelled) => return Err(MountError::Cancelled),
                Err(_) => drop(error),
            },
            Err(error) => return Err(error.into()),
        }
        if cancel.wait(LOOK_AGAIN) {
            return Err(MountError::Cancelled);
        }
    }
}

/// Why it was not mounted, with the words of mount(8) where the journal has them.
fn why(bus: &Bus, unit: &str, found: &Unit, mount: &Mount, cancel: &Cancel) -> MountError {
    let result = bus.mount_result(found, cancel).unwrap_or_default();
    let mut words = format!("it could not be mounted at {}", mount.at.display());
    let invocation = bus.invocation(found, cancel).unwrap_or_default();
    let said = journal(&invocation, cancel);
    // Writing to a string does not fail.
    let _ = match (said, result.as_str()) {
        (Some(said), _) => write!(words, ": {said}"),
        (None, "success" | "") => write!(
            words,
            ": systemd gave it up before it began (its device did not become ready, or a shutdown was faster)"
        ),
        (None, result) => write!(words, " ({result})"),
    };
    let _ = write!(words, "; `journalctl -b -u {unit}` shows more");
    MountError::Other(words)
}

/// The last words of mount(8) in this run of the unit.
fn journal(invocation: &[u8], cancel: &Cancel) -> Option<String> {
    if invocation.is_empty() {
        return None;
    }
    let id = invocation.iter().fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    });
    let mut command = Command::new("journalctl");
    command.arg("--sync");
    let _ = run(command, Some(JOURNAL), Duration::ZERO, cancel);
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=cat", "--lines=5"]);
    command.args([format!("_SYSTEMD_INVOCATION_ID={id}"), "_TRANSPORT=stdout".to_owned()]);
    let said = run(command, Some(JOURNAL), Duration::ZERO, cancel).ok()?;
    let first = said.words.lines().map(str::trim).find(|line| line.starts_with("mount:"));
    let line = first.unwrap_or_else(|| last_line(&said.words));
    (said.status.success() && !line.is_empty()).then(|| line.trim_end_matches('.').to_owned())
}

/// Takes a mount back that nobody waits for any more, so that it does not come a moment later when nobody expects it.
/// Bounded, and as well as it can be: the state is read from the kernel afterwards.
fn take_back(bus: &Bus, unit: &str) {
    // The flag that ended the wait is up; this is a short wait of its own.
    let Ok(cancel) = Cancel::new() else { return };
    if bus.order("StopUnit", unit, "replace", &cancel).is_err() {
        return;
    }
    let deadline = Instant::now() + TAKEN_BACK;
    while Instant::now() < deadline && bus.unit(unit, &cancel).is_ok_and(|found| !found.is_down()) {
        cancel.wait(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSpec;

    #[test]
    fn the_unit_waits_for_no_target_of_the_boot() {
        let mut volume = Volume::new("vm", DeviceSpec::Path("/dev/vg0/vm".into()));
        volume.flags.read_only = true;
        let mount = Mount {
            at: "/srv/vm".into(),
            fstype: Some("ext4".to_owned()),
            options: Some("noatime".to_owned()),
        };
        let properties = properties(&volume, &mount).unwrap();
        let value = |name: &str| {
            properties
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| format!("{value:?}"))
        };
        let expected = |value: Variant<'_>| Some(format!("{:?}", OwnedVariant::try_from(value).unwrap()));
        assert_eq!(value("DefaultDependencies"), expected(false.into()));
        assert_eq!(value("Conflicts"), expected(vec!["umount.target"].into()));
        assert_eq!(
            value("Before"),
            expected(vec!["umount.target", "virt-guest-shutdown.target", "virt-unlock-guests.service"].into())
        );
        assert_eq!(value("What"), expected("/dev/mapper/vm".into()));
        assert_eq!(value("Where"), expected("/srv/vm".into()));
        assert_eq!(value("Type"), expected("ext4".into()));
        assert_eq!(value("Options"), expected("noatime,ro".into()));
    }
}
