//! The configuration that the initramfs gets: what is needed there to open its volumes, and nothing else.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::types::{Config, Unlock, Volume};

/// The text of a configuration with the volumes that are opened in the initramfs alone; nothing is mounted or started by it.
/// `None`: there are no such volumes.
pub fn for_initramfs(config: &Config) -> Option<String> {
    let volumes: Table = volumes(config)
        .map(|volume| (volume.name.clone(), Value::Table(table(volume))))
        .collect();
    if volumes.is_empty() {
        return None;
    }
    let milliseconds = config.host.hold_login.as_millis();
    let host = Table::from_iter([("hold-login".to_owned(), Value::from(format!("{milliseconds}ms")))]);
    let all = Table::from_iter([
        ("host".to_owned(), Value::Table(host)),
        ("volume".to_owned(), Value::Table(volumes)),
    ]);
    Some(all.to_string())
}

/// The files that these volumes need there: headers and key files.
pub fn files_for_initramfs(config: &Config) -> Vec<PathBuf> {
    let of = |volume: &Volume| {
        let keys = volume.unlock.iter().filter_map(|way| match way {
            Unlock::KeyFile { path, .. } => Some(path.clone()),
            Unlock::Passphrase => None,
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

fn table(volume: &Volume) -> Table {
    let path = |path: &Path| Value::from(path.to_string_lossy().into_owned());
    let mut table = Table::new();
    let mut set = |key: &str, value: Value| table.insert(key.to_owned(), value);
    set("device", Value::from(volume.device.to_string()));
    if let Some(header) = &volume.header {
        set("header", path(header));
    }
    set("unlock", Value::Array(volume.unlock.iter().map(way).collect()));
    if let Some(group) = &volume.passphrase_group {
        set("passphrase-group", Value::from(group.as_str()));
    }
    set("tries", Value::from(volume.tries));
    set(
        "after",
        Value::Array(volume.after.iter().map(|name| Value::from(name.as_str())).collect()),
    );
    set(
        "device-timeout",
        Value::from(format!("{}ms", volume.device_timeout.as_millis())),
    );
    let flags = volume.flags;
    for (key, flag) in [
        ("read-only", flags.read_only),
        ("discard", flags.discard),
        ("same-cpu-crypt", flags.same_cpu_crypt),
        ("submit-from-crypt-cpus", flags.submit_from_crypt_cpus),
        ("no-read-workqueue", flags.no_read_workqueue),
        ("no-write-workqueue", flags.no_write_workqueue),
        // Its default comes from `mount`, which is left out here.
        ("private", flags.private),
        ("initramfs", true),
    ] {
        set(key, Value::from(flag));
    }
    table
}

fn way(way: &Unlock) -> Value {
    match way {
        Unlock::Passphrase => Value::from("passphrase"),
        Unlock::KeyFile { path, offset, size } => {
            let mut table = Table::new();
            table.insert("key-file".to_owned(), Value::from(path.to_string_lossy().into_owned()));
            // Both were integers of TOML when they were read.
            if let Ok(offset) = i64::try_from(*offset) {
                table.insert("key-file-offset".to_owned(), Value::from(offset));
            }
            if let Some(size) = size.and_then(|size| i64::try_from(size).ok()) {
                table.insert("key-file-size".to_owned(), Value::from(size));
            }
            Value::Table(table)
        }
    }
}
