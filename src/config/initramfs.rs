//! The configuration that the initramfs gets: what is needed there to open its volumes, and nothing else.

use std::path::PathBuf;

use super::types::{Config, Unlock, Volume};
use super::write::volume_table;

/// The text of a configuration with the volumes that are opened in the initramfs alone; nothing is mounted or started by it.
/// `None`: there are no such volumes.
pub fn for_initramfs(config: &Config) -> Option<String> {
    let tables: Vec<String> = volumes(config).filter_map(table).collect();
    let hold_login = config.host.hold_login.as_millis();
    (!tables.is_empty()).then(|| format!("[host]\nhold-login = \"{hold_login}ms\"\n\n{}", tables.join("\n")))
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

/// The files that these volumes need there: headers and key files.
pub fn files_for_initramfs(config: &Config) -> Vec<PathBuf> {
    let of = |volume: &Volume| {
        let keys = volume.unlock.iter().filter_map(|way| match way {
            Unlock::KeyFile { path, .. } => Some(path.clone()),
            Unlock::Passphrase | Unlock::Master { .. } => None,
        });
        volume.header.clone().into_iter().chain(keys).collect::<Vec<_>>()
    };
    let mut files: Vec<PathBuf> = volumes(config).flat_map(of).collect();
    files.sort();
    files.dedup();
    files
}

/// The volumes that are opened in the initramfs.
fn volumes(config: &Config) -> impl Iterator<Item = &Volume> {
    config.volumes.iter().filter(|volume| volume.initramfs)
}
