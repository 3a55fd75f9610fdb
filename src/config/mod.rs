//! The configuration file: read by [`load`], checked whole, every problem in one run with its place; [`types`] is what the rest
//! of the program sees.
//!
//! The way through: [`syntax`] makes a tree of each text, [`tables`] goes through the trees and reads every table by itself,
//! [`relations`] checks what tables say of each other. All of them complain to one [`problem`] list.

mod device;
mod domain;
mod duration;
mod host;
mod initramfs;
mod load;
mod master;
mod names;
mod near;
mod order;
mod problem;
mod relations;
mod secret;
mod syntax;
mod tables;
mod types;
mod unlock;
mod value;
mod volume;
mod write;

use std::path::PathBuf;

pub use device::parse_filesystem;
pub use initramfs::{files_for_initramfs, for_initramfs, key_devices_for_initramfs};
pub use load::{DEFAULT_PATH, Loaded, load};
pub use names::{check_master, check_volume, mount_point};
pub use problem::{Found, Problems};
pub use secret::SecretConfig;
pub use types::{
    ByName, Config, DeviceSpec, DomainConfig, HostConfig, KeyFile, Master, Mount, OnStopTimeout, OpenFlags, Ready, Start, Stop,
    Unlock, Volume,
};
pub use write::{master_table, secret_table, string, volume_table};

use problem::Complaints;

/// Reads and checks the texts of configuration files (path, text), in the order given. Touches nothing on the machine: the paths
/// are only for the messages.
///
/// # Errors
/// All problems of all files, in the order of files and lines.
pub fn parse(files: &[(PathBuf, String)]) -> Result<Config, Problems> {
    let mut complaints = Complaints::default();
    let config = read(files, false, &mut complaints);
    complaints.into_result(files, config)
}

/// One file that says what these say together, for texts that were found to be right: what stands above the first table of one of
/// them does not end up in the last table of the one before.
pub fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut all = toml::Table::new();
    for table in texts.filter_map(|text| text.parse().ok()) {
        add(&mut all, table);
    }
    all.to_string()
}

fn add(all: &mut toml::Table, table: toml::Table) {
    for (key, value) in table {
        match (all.get_mut(&key), value) {
            (Some(toml::Value::Table(found)), toml::Value::Table(more)) => add(found, more),
            (_, value) => drop(all.insert(key, value)),
        }
    }
}

/// Every key of every table, for the test that the example shows them all.
pub fn keys() -> impl Iterator<Item = &'static str> {
    let tables: [&[&str]; 5] = [&host::KEYS, &volume::KEYS, &master::KEYS, &secret::KEYS, &domain::KEYS];
    tables.into_iter().flatten().copied()
}

/// `unread`: there are more files, which could not be read.
fn read(files: &[(PathBuf, String)], unread: bool, complaints: &mut Complaints) -> Config {
    let read = tables::read(files, unread, complaints);
    relations::check(&read, complaints);
    read.into_config()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

    use super::*;

    #[test]
    fn joined_texts_say_what_they_said_apart() {
        let texts = [
            "[volume.a]\ndevice = '/dev/a'\nmount = '/srv/a'\n",
            "host.stop-timeout = '5min'\nvolume.b = { device = '/dev/b', after = ['a'] }\n[domain.web]\nstart = true\n",
        ];
        let files: Vec<(PathBuf, String)> = texts.iter().map(|text| (PathBuf::new(), (*text).to_owned())).collect();
        let one = vec![(PathBuf::new(), joined(texts.into_iter()))];
        assert_eq!(parse(&one).unwrap(), parse(&files).unwrap());
    }
}
