//! How long things are waited for and how often they are looked at, where no key of the configuration says so. One value that is
//! handed to those who wait, so that a test walks the same ways in no time.

use std::time::Duration;

/// Limits and pauses. [`Default`] has the real ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often that which makes no event is looked at: a domain's state while it shuts down, a volume
    /// that was busy a moment ago. A guest that gets ready is asked at a quarter of that.
    pub look_again: Duration,
    /// A shutdown request that a booting guest does not hear is lost: how long until it is sent again.
    pub ask_again: Duration,
    /// How often at most the users of a busy volume are looked for: all processes are read for that.
    pub busy_look: Duration,
    /// How long something that is not a guest may keep a volume busy. Open files may go by themselves, so a little.
    pub busy_limit: Duration,
    /// However near the end of the whole way is: how long a domain that was asked to shut down has for it. One that hears needs some
    /// seconds.
    pub least_to_stop: Duration,
    /// How long a destroyed domain may take to be gone: libvirt waits 10 s between SIGTERM and SIGKILL, and cleans up after it.
    pub destroy_limit: Duration,
    /// How long a start is tried while libvirt does not answer, or says no for a reason that may pass: a daemon that restarts is back
    /// by then.
    pub libvirt_limit: Duration,
    /// The pause before the second of these tries. It doubles each time, up to 16 times as much.
    pub libvirt_pause: Duration,
    /// How long a domain waits for a volume that only its image's backing chain named, once everything else is there.
    pub late_volume_limit: Duration,
    /// A device that is not there this long after its turn came does not hold logins any more: it may be gone for good. As long as
    /// systemd waits for one (`DefaultDeviceTimeoutSec=`, systemd-system.conf(5)): once logins are there, a question is not shown at the
    /// console any more.
    pub device_grace: Duration,
    /// How long a question waits for the one before it in the order whose header is still being read.
    pub order_patience: Duration,
    /// Nobody types a passphrase this fast: an answer that comes sooner is a machine's, and a wrong one costs a person no try.
    pub machine: Duration,
    /// The pause after a machine's wrong answer, which would answer the next question at once. It doubles each time …
    pub machine_pause: Duration,
    /// … up to this.
    pub machine_pause_longest: Duration,
    /// How long a passphrase of a group is kept at most: as long as systemd keeps one in the kernel keyring
    /// (`KEYRING_TIMEOUT_USEC`, systemd src/shared/ask-password-api.c).
    pub keep_passphrase: Duration,
    /// Memory that others free makes no event: how often to look.
    pub memory_look: Duration,
    /// How long to wait for memory before saying that there is not enough.
    pub memory_limit: Duration,
}

impl Pace {
    /// The limits of an emergency: seconds.
    pub fn at_once() -> Self {
        Self {
            busy_look: Duration::from_millis(250),
            busy_limit: Duration::from_secs(2),
            destroy_limit: Duration::from_secs(8),
            libvirt_limit: Duration::from_secs(4),
            ..Self::default()
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look_again: Duration::from_millis(250),
            ask_again: Duration::from_secs(10),
            busy_look: Duration::from_secs(1),
            busy_limit: Duration::from_secs(10),
            least_to_stop: Duration::from_secs(10),
            destroy_limit: Duration::from_secs(30),
            libvirt_limit: Duration::from_secs(120),
            libvirt_pause: Duration::from_secs(2),
            late_volume_limit: Duration::from_secs(300),
            device_grace: Duration::from_secs(90),
            order_patience: Duration::from_secs(2),
            machine: Duration::from_millis(300),
            machine_pause: Duration::from_secs(2),
            machine_pause_longest: Duration::from_secs(30),
            keep_passphrase: Duration::from_secs(150),
            memory_look: Duration::from_millis(500),
            memory_limit: Duration::from_secs(30),
        }
    }
}
