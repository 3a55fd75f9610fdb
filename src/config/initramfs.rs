//! The configuration that the initramfs gets: what is needed there to open its volumes, and nothing else.

use std::path::{Path, PathBuf};

use super::types::{Config, DeviceSpec, Master, Unlock, Volume};
use super::write::{master_table, volume_table};

/// The text of a configuration with the volumes that are opened in the initramfs alone, and with their masters; nothing is mounted
/// or started by it. `None`: there are no such volumes.
pub fn for_initramfs(config: &Config) -> Option<String> {
    let tables: Vec<String> = volumes(config).filter_map(table).collect();
    if tables.is_empty() {
        return None;
    }
    let masters = masters(config).filter_map(master_table);
    let tables: Vec<String> = tables.into_iter().chain(masters).collect();
    let hold_login = config.host.hold_login.as_millis();
    Some(format!("[host]\nhold-login = \"{hold_login}ms\"\n\n{}", tables.join("\n")))
}

fn table(volume: &Volume) -> Option<String> {
    // Without the mount, whether it is private is written out: its default comes from the mount.
    let alone = Volume {
        mount: None,
        pools: Vec::new(),
        ..volume.clone()
    };
    volume_table(&alone)
}

/// The files that these volumes and their masters need there: headers and key files.
pub fn files_for_initramfs(config: &Config) -> Vec<PathBuf> {
    let of_volumes = volumes(config).flat_map(|volume| volume.header.as_deref().into_iter().chain(key_files(&volume.unlock)));
    let of_masters = masters(config).flat_map(|master| key_files(&master.unlock).chain([master.header.as_path()]));
    let mut files: Vec<PathBuf> = of_volumes.chain(of_masters).map(Path::to_owned).collect();
    files.sort();
    files.dedup();
    files
}

fn key_files(ways: &[Unlock]) -> impl Iterator<Item = &Path> {
    ways.iter().filter_map(|way| match way {
        // One on a stick stays there.
        Unlock::KeyFile(file) if file.device.is_none() => Some(file.path.as_path()),
        _ => None,
    })
}

/// The devices that their key files lie on.
pub fn key_devices_for_initramfs(config: &Config) -> Vec<DeviceSpec> {
    let of_masters = masters(config).flat_map(|master| &master.unlock);
    let ways = volumes(config).flat_map(|volume| &volume.unlock).chain(of_masters);
    let mut devices: Vec<DeviceSpec> = Vec::new();
    for way in ways {
        if let Unlock::KeyFile(file) = way
            && let Some(device) = &file.device
            && !devices.contains(device)
        {
            devices.push(device.clone());
        }
    }
    devices
}

/// The volumes that are opened in the initramfs.
fn volumes(config: &Config) -> impl Iterator<Item = &Volume> {
    config.volumes.iter().filter(|volume| volume.initramfs)
}

/// The masters that these volumes name.
fn masters(config: &Config) -> impl Iterator<Item = &Master> {
    config
        .masters
        .iter()
        .filter(|master| volumes(config).any(|volume| volume.is_opened_by(&master.name)))
}
