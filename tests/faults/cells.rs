//! The steps of both ways, what can befall each, and how the host in memory is made to have it.

#![allow(clippy::match_same_arms, reason = "each arm is a cell or a row of them")]

use virt_unlock::host::{CloseError, HypervisorError, MountError, OpenError, QuestionError};

use crate::fake_host::{Fault, World};

/// Which way is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
    /// The way down of the half that knows no libvirt.
    DownOfVolumes,
}

/// What befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    Error,
    Hang,
    Terminated,
    Killed,
    LibvirtGone,
    DeviceGone,
    DiskFull,
    BusGone,
    NoMemory,
}

impl Mishap {
    pub const ALL: [Self; 9] = [
        Self::Error,
        Self::Hang,
        Self::Terminated,
        Self::Killed,
        Self::LibvirtGone,
        Self::DeviceGone,
        Self::DiskFull,
        Self::BusGone,
        Self::NoMemory,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Hang => "hang",
            Self::Terminated => "SIGTERM",
            Self::Killed => "SIGKILL",
            Self::LibvirtGone => "libvirt gone",
            Self::DeviceGone => "device gone",
            Self::DiskFull => "disk full",
            Self::BusGone => "D-Bus gone",
            Self::NoMemory => "no memory",
        }
    }

    /// Whether the run ends by it.
    pub fn ends_the_run(self) -> bool {
        matches!(self, Self::Hang | Self::Terminated | Self::Killed)
    }
}

/// A step, and the call of the host's ports that is its middle.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub way: Way,
    pub name: &'static str,
    pub call: &'static str,
}

pub const STEPS: [Step; 22] = [
    step(Way::Up, "header", "probe files"),
    step(Way::Up, "question", "ask files"),
    step(Way::Up, "open", "open files"),
    step(Way::Up, "mount", "mount files"),
    step(Way::Up, "pool", "start pool images"),
    step(Way::Up, "image", "probe /images/disk.qcow2"),
    step(Way::Up, "ask secret", "ask secret disk"),
    step(Way::Up, "check", "check /images/disk.qcow2"),
    step(Way::Up, "secret", "set secret disk"),
    step(Way::Up, "definition", "domain web"),
    step(Way::Up, "networks", "networks web"),
    step(Way::Up, "start", "start web"),
    step(Way::Up, "ready", "ping web"),
    step(Way::Down, "state", "state web"),
    step(Way::Down, "request", "button web"),
    step(Way::Down, "destroy", "destroy web"),
    step(Way::Down, "secret", "forget secret disk"),
    step(Way::Down, "pool", "stop pool images"),
    step(Way::Down, "unmount", "unmount /srv/files"),
    step(Way::Down, "close", "close files"),
    step(Way::DownOfVolumes, "unmount", "unmount /srv/files"),
    step(Way::DownOfVolumes, "close", "close files"),
];

impl Step {
    /// Whether it is one of the secret's.
    pub fn is_of_secret(self) -> bool {
        self.call.contains("disk")
    }
}

const fn step(way: Way, name: &'static str, call: &'static str) -> Step {
    Step { way, name, call }
}

/// What a cell does to the host; `Err`: why it cannot be.
pub fn happening(step: Step, mishap: Mishap) -> Result<Vec<Fault>, &'static str> {
    let kind = step.call.split(' ').next().unwrap_or_default();
    let is_of_libvirt = !matches!(kind, "probe" | "check" | "ask" | "open" | "mount" | "unmount" | "close");
    let faults = match (mishap, kind) {
        (Mishap::Error, "probe" | "check" | "open") => vec![Fault::Open(OpenError::Other("Input/output error".to_owned()))],
        (Mishap::Error, "ask") => vec![Fault::Question(QuestionError::Declined)],
        (Mishap::Error, "mount") => vec![Fault::Mount(MountError::Other("wrong fs type".to_owned()))],
        (Mishap::Error, "unmount") => vec![Fault::Mount(MountError::Other("Input/output error".to_owned()))],
        (Mishap::Error, "close") => vec![Fault::Close(CloseError::Other("Input/output error".to_owned()))],
        (Mishap::Error, "ping") => vec![Fault::Libvirt(HypervisorError::NoAgent("not connected".to_owned()))],
        (Mishap::Error, _) => vec![Fault::Libvirt(HypervisorError::Refused("internal error".to_owned()))],
        (Mishap::Hang, _) => vec![Fault::Hang],
        (Mishap::Terminated | Mishap::Killed, _) => Vec::new(),
        (Mishap::LibvirtGone, _) if step.way == Way::DownOfVolumes => return Err("asks libvirt for nothing"),
        (Mishap::LibvirtGone, _) => Vec::new(),
        (Mishap::DeviceGone, "probe" | "check") if step.call.contains('/') => {
            vec![Fault::Open(OpenError::Other("Input/output error".to_owned()))]
        }
        (Mishap::DeviceGone, "probe" | "open") => Vec::new(),
        (Mishap::DeviceGone, "mount") => vec![Fault::Mount(MountError::Other("can't read superblock".to_owned()))],
        (Mishap::DeviceGone, "start") if step.name == "start" => {
            vec![Fault::Libvirt(HypervisorError::Refused("Input/output error".to_owned()))]
        }
        (Mishap::DeviceGone, _) => Vec::new(),
        (Mishap::DiskFull, "ask") => vec![Fault::Question(QuestionError::Failed("No space left on device".to_owned()))],
        (Mishap::DiskFull, "mount") => vec![Fault::Mount(MountError::Other("No space left on device".to_owned()))],
        (Mishap::DiskFull, "start") if step.name == "start" => {
            vec![Fault::Libvirt(HypervisorError::Refused("No space left on device".to_owned()))]
        }
        (Mishap::DiskFull, _) => return Err("writes no file"),
        (Mishap::BusGone, "mount") => vec![Fault::Mount(MountError::Other("systemd does not answer".to_owned()))],
        (Mishap::BusGone, _) => return Err("does not ask D-Bus"),
        (Mishap::NoMemory, "probe" | "check" | "open") => {
            vec![Fault::Open(OpenError::Memory("the worker was killed".to_owned()))]
        }
        (Mishap::NoMemory, "ask") => vec![Fault::Question(QuestionError::Failed("Cannot allocate memory".to_owned()))],
        (Mishap::NoMemory, "mount") => vec![Fault::Mount(MountError::Other("fsck was killed".to_owned()))],
        (Mishap::NoMemory, "unmount") => vec![Fault::Mount(MountError::Other("Cannot allocate memory".to_owned()))],
        (Mishap::NoMemory, "close") => vec![Fault::Close(CloseError::Other("the worker was killed".to_owned()))],
        (Mishap::NoMemory, _) if is_of_libvirt => {
            let short = || Fault::Libvirt(HypervisorError::Passing("Cannot allocate memory".to_owned()));
            // It passes: the third try has it.
            vec![short(), short()]
        }
        (Mishap::NoMemory, _) => return Err("takes none"),
    };
    Ok(faults)
}

/// What is different on the host from the moment of that step on, besides the faults of its call.
pub fn strike(world: &mut World, step: Step, mishap: Mishap) {
    match mishap {
        Mishap::LibvirtGone => world.libvirt_away = usize::MAX,
        Mishap::DeviceGone => {
            world.volumes.get_mut("files").unwrap().there = false;
            // What comes after it on the way meets the dead disk.
            if step.way == Way::Up && step.name != "start" {
                let dead = || HypervisorError::Refused("Input/output error".to_owned());
                world.fault("start web", Fault::Libvirt(dead()));
                world.fault("start pool images", Fault::Libvirt(dead()));
                if step.name != "mount" {
                    world.fault(
                        "mount files",
                        Fault::Mount(MountError::Other("can't read superblock".to_owned())),
                    );
                }
            }
        }
        _ => {}
    }
}

/// The booted host's test that has seen a cell, as a kernel, systemd and libvirt prove it; `None`: it was not seen there.
pub fn seen(step: Step, mishap: Mishap) -> Option<&'static str> {
    const INTERRUPTED: &str = "interrupted::an_interrupted_way_is_completed_by_the_next_one";
    const STUBBORN: &str = "stubborn::what_is_in_the_way_is_named_and_the_rest_goes_on";
    const FAULTS: &str = "faults::after_each_fault_the_next_ways_complete";
    Some(match (step.way, step.name, mishap) {
        (Way::Up, "question", Mishap::Terminated | Mishap::Killed) => INTERRUPTED,
        (Way::Down, "state" | "request", Mishap::LibvirtGone) => INTERRUPTED,
        (Way::Up, "definition" | "networks" | "start", Mishap::LibvirtGone) => STUBBORN,
        (Way::Up, "open", Mishap::NoMemory) => "faults::a_derivation_that_the_kernel_ends_for_want_of_memory_ends_nothing_else",
        (Way::Down, "unmount" | "close", Mishap::DeviceGone) => FAULTS,
        (Way::Down, "pool", Mishap::Hang) => "distributions::a_storage_daemon_that_hangs_keeps_no_guest_running",
        _ => return None,
    })
}
