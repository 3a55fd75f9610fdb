//! The `MESSAGE_ID=` of each kind of entry in the journal (`sd_journal_print(3)`). `units/virt-unlock.catalog` explains each of them;
//! programs look for them, so none is ever changed or used for anything else.

use crate::event::Kind;

/// [`Kind::VolumeOpen`]
pub const VOLUME_OPEN: &str = "dec855c801d041ec9fa2590112afaccb";
/// [`Kind::VolumeGivenUp`]
pub const VOLUME_GIVEN_UP: &str = "e119a39c4cd646aa8ee7d09d109d9ec0";
/// [`Kind::VolumeNotOpened`]
pub const VOLUME_NOT_OPENED: &str = "a98956626c424c14834e696f350e2890";
/// [`Kind::DeviceMissing`]
pub const DEVICE_MISSING: &str = "e62b817382a04c2d84c7dc95b8deaebe";
/// [`Kind::ForeignMapping`]
pub const FOREIGN_MAPPING: &str = "7e47d58d0dde4b05bd44b6da2d24a420";
/// [`Kind::NoHeader`]
pub const NO_HEADER: &str = "935415aa7f0941a2b96d0b9032d7c47a";
/// [`Kind::NoMemory`]
pub const NO_MEMORY: &str = "90f3c894227e47809b1e48ccb8262bae";
/// [`Kind::QuestionOpen`]
pub const QUESTION_OPEN: &str = "25f7c5d96c2a44f891b34788d53ceabc";
/// [`Kind::VolumeClosed`]
pub const VOLUME_CLOSED: &str = "e0f3724d719e4287bd04187eaa23379c";
/// [`Kind::VolumeStaysOpen`]
pub const VOLUME_STAYS_OPEN: &str = "6ff02a1e775544c39676ecf23b3ea17f";
/// [`Kind::Mounted`]
pub const MOUNTED: &str = "e9c5179ef25e406fa8e73b8ffb49eee0";
/// [`Kind::NotMounted`]
pub const NOT_MOUNTED: &str = "a2c17bf181fc424f81879031e8539e91";
/// [`Kind::GuestStarted`]
pub const GUEST_STARTED: &str = "85028e6b5ac045d78c4014e2220e6847";
/// [`Kind::GuestNotStarted`]
pub const GUEST_NOT_STARTED: &str = "d48f1bdcafea41ae8a48b36378d05141";
/// [`Kind::GuestNotReady`]
pub const GUEST_NOT_READY: &str = "ac1bf32120054511bb5840bacabfef5e";
/// [`Kind::GuestShutDown`]
pub const GUEST_SHUT_DOWN: &str = "d8477361f488409ebea9b07222d1919b";
/// [`Kind::GuestSaved`]
pub const GUEST_SAVED: &str = "f258ffbce5ba4b78a109a5f0c3360d98";
/// [`Kind::GuestCutShort`]
pub const GUEST_CUT_SHORT: &str = "21bc99f0e9964ba99da3dbdd35e0c55a";
/// [`Kind::GuestDestroyed`]
pub const GUEST_DESTROYED: &str = "a8c7fde5c3d74de48959ec161ed31d61";
/// [`Kind::GuestStillRuns`]
pub const GUEST_STILL_RUNS: &str = "15b33ae49dd24c8da1784502a32a3220";
/// [`Kind::WayDown`]
pub const WAY_DOWN: &str = "0782c0f14ae94763ba99129ee148f889";
/// [`Kind::AllDown`]
pub const ALL_DOWN: &str = "1e533199441e4d0cb86f19c7cbeccfdf";
/// [`Kind::NotAllDown`]
pub const NOT_ALL_DOWN: &str = "45f814c1bcad40febcd3a77f8bfa8d32";
/// [`Kind::LibvirtSilent`]
pub const LIBVIRT_SILENT: &str = "f0678e0002fb465180b196aa428e02e4";
/// [`Kind::ConfigWrong`]
pub const CONFIG_WRONG: &str = "d0b6faa1be344c99a2149034ceaba38e";

/// The id of a kind.
pub fn of(kind: Kind) -> &'static str {
    match kind {
        Kind::VolumeOpen => VOLUME_OPEN,
        Kind::VolumeGivenUp => VOLUME_GIVEN_UP,
        Kind::VolumeNotOpened => VOLUME_NOT_OPENED,
        Kind::DeviceMissing => DEVICE_MISSING,
        Kind::ForeignMapping => FOREIGN_MAPPING,
        Kind::NoHeader => NO_HEADER,
        Kind::NoMemory => NO_MEMORY,
        Kind::QuestionOpen => QUESTION_OPEN,
        Kind::VolumeClosed => VOLUME_CLOSED,
        Kind::VolumeStaysOpen => VOLUME_STAYS_OPEN,
        Kind::Mounted => MOUNTED,
        Kind::NotMounted => NOT_MOUNTED,
        Kind::GuestStarted => GUEST_STARTED,
        Kind::GuestNotStarted => GUEST_NOT_STARTED,
        Kind::GuestNotReady => GUEST_NOT_READY,
        Kind::GuestShutDown => GUEST_SHUT_DOWN,
        Kind::GuestSaved => GUEST_SAVED,
        Kind::GuestCutShort => GUEST_CUT_SHORT,
        Kind::GuestDestroyed => GUEST_DESTROYED,
        Kind::GuestStillRuns => GUEST_STILL_RUNS,
        Kind::WayDown => WAY_DOWN,
        Kind::AllDown => ALL_DOWN,
        Kind::NotAllDown => NOT_ALL_DOWN,
        Kind::LibvirtSilent => LIBVIRT_SILENT,
        Kind::ConfigWrong => CONFIG_WRONG,
    }
}
