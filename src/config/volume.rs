//! `[volume.NAME]`

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, header, quoted};
use super::types::{DeviceSpec, Mount, Unlock, Volume};
use super::value::{Entry, Located, Reader, Value};
use super::{device, names, unlock};

pub(super) const KEYS: [&str; 18] = [
    "device",
    "header",
    "unlock",
    "passphrase-group",
    "tries",
    "after",
    "noauto",
    "device-timeout",
    "read-only",
    "discard",
    "same-cpu-crypt",
    "submit-from-crypt-cpus",
    "no-read-workqueue",
    "no-write-workqueue",
    "private",
    "mount",
    "pools",
    "initramfs",
];
const MOUNT_KEYS: [&str; 3] = ["where", "type", "options"];

/// A volume's table with the places that the checks between tables need.
#[derive(Debug)]
pub(super) struct VolumeTable {
    pub(super) volume: Volume,
    /// Where `device` stands; `None`: nowhere, or it could not be read.
    pub(super) device: Option<Place>,
    /// Its `after`, entry by entry.
    pub(super) after: Vec<Located<String>>,
    /// Whether `noauto` is there and could not be read: it may be `true` as well.
    pub(super) noauto_unread: bool,
    /// Where its mount point stands.
    pub(super) mount: Option<Place>,
    /// Its `pools`, entry by entry.
    pub(super) pools: Vec<Located<String>>,
    /// Where `initramfs = true` stands, if it does.
    pub(super) initramfs: Option<Place>,
    /// The masters among its ways, entry by entry.
    pub(super) masters: Vec<Located<String>>,
    /// Files that must be there before it can be opened: what each is ("header"), and where it lies.
    pub(super) files: Vec<(&'static str, Located<PathBuf>)>,
}

/// Reads the table. `whole`: all of it could be read, so what is not there is missing.
pub(super) fn read(reader: &mut Reader<'_>, entry: &Entry<'_>, table: &DeTable<'_>, whole: bool) -> VolumeTable {
    if let Err(words) = names::check_volume(entry.key) {
        reader.complaints.at(&entry.key_place, words);
    }
    let title = header("volume", entry.key);
    let mut read = VolumeTable {
        // The placeholder never leaves this module: without a device there is a complaint, and then no configuration.
        volume: Volume::new(entry.key, DeviceSpec::Path(PathBuf::new())),
        device: None,
        after: Vec::new(),
        noauto_unread: false,
        mount: None,
        pools: Vec::new(),
        initramfs: None,
        masters: Vec::new(),
        files: Vec::new(),
    };
    let entries = reader.entries(table);
    for entry in &entries {
        read_key(reader, &mut read, entry, &title);
    }
    let of = |key: &str| entries.iter().find(|entry| entry.key == key);
    if whole && of("device").is_none() {
        let message = format!("{title} needs `device = \"…\"`: the encrypted device, as a path or `UUID=…`");
        reader.complaints.at(&entry.key_place, message);
    }
    let mount = of("mount");
    match (of("private"), mount) {
        (Some(private), Some(mount)) if read.volume.flags.private => {
            let message = "`private = true` cannot be together with `mount`: systemd must see the open volume to mount it; leave `private` out";
            let also = vec![(mount.key_place.clone(), "mounted here".to_owned())];
            reader.complaints.at_with(&private.value.place, message, also);
        }
        (Some(_), _) => {}
        (None, mount) => read.volume.flags.private = mount.is_none(),
    }
    if let Some(pools) = of("pools").filter(|_| whole && mount.is_none() && !read.pools.is_empty()) {
        let message = format!("`pools` in {title} needs `mount = \"…\"`: pools are started once the volume is mounted");
        reader.complaints.at(&pools.key_place, message);
    }
    if let Some(group) = of("passphrase-group").filter(|_| !read.volume.unlock.contains(&Unlock::Passphrase)) {
        let message = format!("`passphrase-group` in {title} has no use: \"passphrase\" is not among its ways to `unlock`");
        reader.complaints.at(&group.key_place, message);
    }
    read
}

fn read_key(reader: &mut Reader<'_>, read: &mut VolumeTable, entry: &Entry<'_>, title: &str) {
    let value = &entry.value;
    let volume = &mut read.volume;
    match entry.key {
        "device" => {
            if let Some(text) = reader.string(value) {
                match device::parse(&text) {
                    Ok(spec) => {
                        volume.device = spec;
                        read.device = Some(value.place.clone());
                    }
                    Err(words) => reader.refuse(value, words),
                }
            }
        }
        "header" => {
            if let Some(path) = reader.path(value) {
                volume.header = Some(path.clone());
                let place = value.place.clone();
                read.files.push(("header", Located { value: path, place }));
            }
        }
        "unlock" => {
            let Some(ways) = unlock::read(reader, value) else { return };
            read.files.extend(unlock::key_files(&ways));
            read.masters = unlock::masters(&ways);
            volume.unlock = ways.into_iter().map(|way| way.value).collect();
        }
        "passphrase-group" => volume.passphrase_group = reader.string(value),
        "tries" => volume.tries = reader.tries(value).unwrap_or(volume.tries),
        "after" => {
            read.after = reader.strings(value);
            volume.after = texts(&read.after);
        }
        "noauto" => match reader.boolean(value) {
            Some(noauto) => volume.noauto = noauto,
            None => read.noauto_unread = true,
        },
        "device-timeout" => volume.device_timeout = reader.duration(value).unwrap_or(volume.device_timeout),
        "read-only" => set(reader, value, &mut volume.flags.read_only),
        "discard" => set(reader, value, &mut volume.flags.discard),
        "same-cpu-crypt" => set(reader, value, &mut volume.flags.same_cpu_crypt),
        "submit-from-crypt-cpus" => set(reader, value, &mut volume.flags.submit_from_crypt_cpus),
        "no-read-workqueue" => set(reader, value, &mut volume.flags.no_read_workqueue),
        "no-write-workqueue" => set(reader, value, &mut volume.flags.no_write_workqueue),
        "private" => set(reader, value, &mut volume.flags.private),
        "mount" => {
            if let Some((mount, place)) = read_mount(reader, value) {
                volume.mount = Some(mount);
                read.mount = Some(place);
            }
        }
        "pools" => {
            read.pools = reader.strings(value);
            volume.pools = texts(&read.pools);
        }
        "initramfs" => {
            set(reader, value, &mut volume.initramfs);
            read.initramfs = volume.initramfs.then(|| value.place.clone());
        }
        _ => reader.unknown_key(entry, title, &KEYS),
    }
}

fn set(reader: &mut Reader<'_>, value: &Value<'_>, flag: &mut bool) {
    *flag = reader.boolean(value).unwrap_or(*flag);
}

fn texts(located: &[Located<String>]) -> Vec<String> {
    located.iter().map(|located| located.value.clone()).collect()
}

/// `mount = "/srv/vm"` or `mount = { where = "…", type = "…", options = "…" }`, with the place of the mount point.
fn read_mount(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<(Mount, Place)> {
    let table = match value.inner {
        DeValue::String(_) => {
            let at = read_where(reader, value)?;
            let mount = Mount {
                at,
                fstype: None,
                options: None,
            };
            return Some((mount, value.place.clone()));
        }
        DeValue::Table(table) => table,
        _ => {
            reader.wrong_type(
                value,
                "a mount point such as \"/srv/vm\", or a table { where = \"/srv/vm\", type = \"…\", options = \"…\" }",
            );
            return None;
        }
    };
    let entries = reader.entries(table);
    let (mut at, mut fstype, mut options) = (None, None, None);
    for entry in &entries {
        match entry.key {
            "where" => at = read_where(reader, &entry.value).map(|at| (at, entry.value.place.clone())),
            "type" => fstype = read_word(reader, &entry.value),
            "options" => options = read_word(reader, &entry.value),
            _ => reader.unknown_key(entry, "`mount`", &MOUNT_KEYS),
        }
    }
    if !entries.iter().any(|entry| entry.key == "where") {
        reader.refuse(value, "needs `where = \"…\"`: the mount point");
    }
    let (at, place) = at?;
    Some((Mount { at, fstype, options }, place))
}

fn read_where(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<PathBuf> {
    let text = reader.string(value)?;
    names::mount_point(&text).map_err(|words| reader.refuse(value, words)).ok()
}

/// A string without spaces, as a field of fstab(5).
fn read_word(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.string(value)?;
    if text.contains(char::is_whitespace) {
        reader.refuse(
            value,
            format_args!("must not have spaces in it, but this is {}", quoted(&text)),
        );
        return None;
    }
    Some(text)
}
