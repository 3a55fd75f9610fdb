//! The host with virt-unlock on it, as `make install` puts it there.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::host::{Builder, Daemons, Host};

/// The passphrase of the volumes mail, vm and stub.
pub const PASSPHRASE: &str = "correct horse";

/// What `make install` installs, below a folder of its own.
pub fn stage() -> &'static Path {
    static STAGE: OnceLock<PathBuf> = OnceLock::new();
    STAGE.get_or_init(|| {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let made = Command::new("make")
            .args(["--silent", "--no-print-directory", "stage"])
            .current_dir(top)
            .stdin(Stdio::null())
            .status();
        assert!(
            made.as_ref().is_ok_and(std::process::ExitStatus::success),
            "`make stage`: {made:?}"
        );
        top.join("target/stage")
    })
}

/// A host with the program, its units and this configuration; the service is not enabled.
pub fn installed(name: &str, config: &str) -> Builder {
    Host::builder(name).tree(stage()).file("/etc/virt-unlock/config.toml", config)
}

/// The same with the service enabled.
pub fn enabled(name: &str, config: &str) -> Builder {
    installed(name, config).enable("virt-unlock.service")
}

/// libvirt's daemon that has the guests, without `.service`.
pub fn daemon(host: &Host) -> &'static str {
    match host.variant().daemons {
        Daemons::Monolithic => "libvirtd",
        Daemons::Modular => "virtqemud",
    }
}

/// How many volumes are open: what the kernel says, not we.
pub const OPEN_VOLUMES: &str = "dmsetup ls --target crypt | grep -vc 'No devices' || true";

/// Succeeds once the guest runs that lies on no volume of ours. libvirt starts it by itself, but on a busy machine its logical volume
/// comes after libvirt: then a person would.
pub const PLAIN_IS_UP: &str = "grep -q 'GUEST plain UP' /var/log/guests/plain.log || { virsh start plain; false; }";
