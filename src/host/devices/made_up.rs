//! A made-up machine for tests: folders and files below a temporary root that look like sysfs, procfs, udev's and `/dev`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Kernel;

/// The LUKS UUID of [`Machine::luks`].
pub(super) const UUID: &str = "6f1d3c2e-90a4-4b7e-8a55-0d3b1c9e7f42";

pub(super) struct Machine(TempDir);

impl Machine {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn kernel(&self) -> Kernel {
        Kernel::below(self.0.path())
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    pub(super) fn folder(&self, path: &str) {
        fs::create_dir_all(self.at(path)).unwrap();
    }

    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: impl AsRef<Path>) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(target, at).unwrap();
    }

    /// A block device.
    pub(super) fn disk(&self, kernel_name: &str, number: &str) {
        self.write(&format!("/sys/class/block/{kernel_name}/dev"), format!("{number}\n"));
        self.link(
            &format!("/sys/dev/block/{number}"),
            format!("../../class/block/{kernel_name}"),
        );
        self.write(&format!("/dev/{kernel_name}"), "");
    }

    /// A device-mapper device on others, with its link below `/dev/mapper`.
    pub(super) fn dm(&self, kernel_name: &str, number: &str, name: &str, uuid: &str, slaves: &[&str]) {
        self.disk(kernel_name, number);
        let folder = format!("/sys/class/block/{kernel_name}");
        self.write(&format!("{folder}/dm/name"), format!("{name}\n"));
        self.write(&format!("{folder}/dm/uuid"), format!("{uuid}\n"));
        self.write(&format!("{folder}/dm/suspended"), "0\n");
        for slave in slaves {
            self.link(&format!("{folder}/slaves/{slave}"), format!("../../{slave}"));
            self.link(
                &format!("/sys/class/block/{slave}/holders/{kernel_name}"),
                format!("../../{kernel_name}"),
            );
        }
        self.link(&format!("/dev/mapper/{name}"), format!("../{kernel_name}"));
    }

    /// An open LUKS2 volume with [`UUID`].
    pub(super) fn luks(&self, kernel_name: &str, number: &str, name: &str, slave: &str) {
        let uuid = format!("CRYPT-LUKS2-{}-{name}", UUID.replace('-', ""));
        self.dm(kernel_name, number, name, &uuid, &[slave]);
    }

    /// udev's record of a block device.
    pub(super) fn udev(&self, number: &str, lines: &str) {
        self.write(
            &format!("/run/udev/data/b{number}"),
            format!("S:disk/by-id/x\nI:1\n{lines}\nG:systemd\n"),
        );
    }
}
