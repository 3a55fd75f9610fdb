//! What tables say of each other: names that must be there, things that two cannot have, and orders that go in a circle.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::master::MasterTable;
use super::order::Order;
use super::problem::{Complaints, Place, header, quoted, short};
use super::secret::SecretTable;
use super::tables::Tables;
use super::value::{Located, normal};
use super::volume::VolumeTable;
use super::{device, near};
use crate::facts::SecretId;

const MOUNT_POINT: &str = "mount point";

/// Checks all tables against each other.
pub(super) fn check(tables: &Tables, complaints: &mut Complaints) {
    check_names(tables, complaints);
    check_masters(&tables.masters, complaints);
    check_devices(&tables.volumes, complaints);
    check_mounts(&tables.volumes, complaints);
    check_pools(&tables.volumes, complaints);
    check_noauto(&tables.volumes, complaints);

    let (mounts, masters) = (Mounts::of(&tables.volumes), by_name(&tables.masters));
    check_secrets(tables, &mounts, complaints);
    let volumes = Order::of_volumes(&tables.volumes, &mounts);
    volumes.check_circles("volume", complaints);
    if !tables.is_incomplete() {
        check_below(tables, &mounts, &masters, &volumes, complaints);
    }
    Order::of_domains(tables).check_circles("domain", complaints);
    check_initramfs(tables, &mounts, &masters, complaints);
}

/// In the initramfs nothing is mounted, and no other volume is open but those that are opened there too.
fn check_initramfs(tables: &Tables, mounts: &Mounts<'_>, masters: &Masters<'_>, complaints: &mut Complaints) {
    let volumes = &tables.volumes;
    let later = volumes.iter().filter(|read| !read.volume.initramfs);
    let later: HashSet<&str> = later.map(|read| read.volume.name.as_str()).collect();
    for read in volumes {
        let Some(place) = &read.initramfs else { continue };
        if read.volume.noauto {
            let message = "`initramfs = true` cannot be together with `noauto = true`, which opens a volume by its name alone";
            complaints.at(place, message);
        }
        let also = vec![(place.clone(), "this one is opened in the initramfs".to_owned())];
        for named in &read.after {
            if later.contains(named.value.as_str()) {
                let message = format!(
                    "volume {} is opened later than the initramfs: give it `initramfs = true` too, or take it out of this one",
                    quoted(&named.value)
                );
                complaints.at_with(&named.place, message, also.clone());
            }
        }
        for file in needed(masters, read) {
            if let Some((_, outer, _)) = mounts.outside_of(&file.path).first() {
                let (this, what) = (file.this(), file.what);
                let message = format!(
                    "{this} lies on volume {}, which is not mounted in the initramfs: move the {what}, or take out `initramfs`",
                    quoted(&outer.volume.name)
                );
                complaints.at_with(file.place, message, also.clone());
            }
        }
    }
}

/// Volumes and masters that are named must be there. A domain needs no table, so any name of a domain may be right.
fn check_names(tables: &Tables, complaints: &mut Complaints) {
    let known: HashSet<&str> = tables.volumes.iter().map(|read| read.volume.name.as_str()).collect();
    let mut check = |named: &Located<String>, title: &str| {
        if !known.contains(named.value.as_str()) && !tables.may_have(&named.value) {
            let all = tables.volumes.iter().map(|read| read.volume.name.as_str());
            let hint = near::hint(&named.value, all, "volumes");
            complaints.at(
                &named.place,
                format!("unknown volume {} in {title}; {hint}", quoted(&named.value)),
            );
        }
    };
    for read in &tables.volumes {
        let title = format!("`after` of {}", header("volume", &read.volume.name));
        read.after.iter().for_each(|named| check(named, &title));
    }
    for read in &tables.domains {
        let title = format!("`volumes` of {}", header("domain", &read.domain.name));
        read.volumes.iter().for_each(|named| check(named, &title));
    }
    let masters = || tables.masters.iter().map(|read| read.master.name.as_str());
    let known: HashSet<&str> = masters().collect();
    for read in &tables.volumes {
        for named in &read.masters {
            if !known.contains(named.value.as_str()) && !tables.may_have(&named.value) {
                let (shown, title) = (quoted(&named.value), header("volume", &read.volume.name));
                let hint = near::hint(&named.value, masters(), "masters");
                complaints.at(&named.place, format!("unknown master {shown} in `unlock` of {title}; {hint}"));
            }
        }
    }
}

fn check_devices(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let mut known: HashMap<String, (&VolumeTable, &Place)> = HashMap::new();
    for read in volumes {
        let Some(place) = &read.device else { continue };
        match known.entry(device::identity(&read.volume.device)) {
            Entry::Occupied(first) => {
                let (first, also) = first.get();
                let (this, other) = (quoted(&read.volume.name), quoted(&first.volume.name));
                let message = format!("the volumes {other} and {this} have the same device; a device can be only one volume");
                complaints.at_with(place, message, vec![((*also).clone(), format!("the device of {other}"))]);
            }
            Entry::Vacant(free) => {
                free.insert((read, place));
            }
        }
    }
}

fn check_masters(masters: &[MasterTable], complaints: &mut Complaints) {
    let mut known: HashMap<PathBuf, (&MasterTable, &Place)> = HashMap::new();
    for read in masters {
        let header = read.files.iter().find(|(what, _)| *what == "header");
        let Some((_, Located { value, place })) = header else {
            continue;
        };
        match known.entry(normal(value)) {
            Entry::Occupied(first) => {
                let (first, also) = first.get();
                let (this, other) = (quoted(&read.master.name), quoted(&first.master.name));
                let message = format!("the masters {other} and {this} have the same header; a header can be only one master");
                complaints.at_with(place, message, vec![((*also).clone(), format!("the header of {other}"))]);
            }
            Entry::Vacant(free) => {
                free.insert((read, place));
            }
        }
    }
}

/// One secret by two spellings of its UUID; a key file that lies on a volume, for nothing says that the secret comes after that one.
fn check_secrets(tables: &Tables, mounts: &Mounts<'_>, complaints: &mut Complaints) {
    let mut known: HashMap<&SecretId, &SecretTable> = HashMap::new();
    for read in &tables.secrets {
        match known.entry(&read.secret.id) {
            Entry::Occupied(first) => {
                let (this, other) = (quoted(&read.secret.name), quoted(&first.get().secret.name));
                let message =
                    format!("the secrets {other} and {this} are the same one, by the same UUID; a secret has one table");
                let also = vec![(first.get().name.clone(), "the first time".to_owned())];
                complaints.at_with(&read.name, message, also);
            }
            Entry::Vacant(free) => {
                free.insert(read);
            }
        }
        for (what, file) in &read.files {
            if let Some((_, outer, at)) = mounts.outside_of(&normal(&file.value)).first() {
                let name = quoted(&outer.volume.name);
                let message = format!("this {what} lies on volume {name}, and a secret waits for no volume: move the {what}");
                complaints.at_with(&file.place, message, vec![((*at).clone(), format!("the mount of {name}"))]);
            }
        }
    }
}

fn check_mounts(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let mut known: HashMap<&Path, (&VolumeTable, &Place)> = HashMap::new();
    for (read, place, at) in mounts(volumes) {
        match known.entry(at) {
            Entry::Occupied(first) => {
                let (first, also) = first.get();
                let (this, other) = (quoted(&read.volume.name), quoted(&first.volume.name));
                let message = format!("the volumes {other} and {this} have the same mount point; each needs its own");
                let also = vec![((*also).clone(), format!("the mount point of {other}"))];
                complaints.at_with(place, message, also);
            }
            Entry::Vacant(free) => {
                free.insert((read, place));
            }
        }
    }
}

fn check_pools(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let mut known: HashMap<&str, (&VolumeTable, &Place)> = HashMap::new();
    for read in volumes {
        for pool in &read.pools {
            match known.entry(&pool.value) {
                Entry::Occupied(first) => {
                    let (first, also) = first.get();
                    let other = quoted(&first.volume.name);
                    let message = format!(
                        "the pool {} is named by volume {other} too; a pool lies on one volume",
                        quoted(&pool.value)
                    );
                    let also = vec![((*also).clone(), format!("the pool of {other}"))];
                    complaints.at_with(&pool.place, message, also);
                }
                Entry::Vacant(free) => {
                    free.insert((read, &pool.place));
                }
            }
        }
    }
}

/// What waits for a volume that nobody opens by itself would never be opened at boot.
fn check_noauto(volumes: &[VolumeTable], complaints: &mut Complaints) {
    let by_name: HashMap<&str, &VolumeTable> = volumes.iter().map(|read| (read.volume.name.as_str(), read)).collect();
    for read in volumes.iter().filter(|read| !read.volume.noauto && !read.noauto_unread) {
        for after in &read.after {
            let Some(other) = by_name.get(after.value.as_str()) else {
                continue;
            };
            if other.volume.noauto {
                let (this, other) = (header("volume", &read.volume.name), header("volume", &other.volume.name));
                let message = format!(
                    "{other} has `noauto = true`, so {this}, which waits for it, would never be opened at boot: write \
                     `noauto = true` there too, or take one of the two out"
                );
                complaints.at(&after.place, message);
            }
        }
    }
}

/// Something that must be there before a volume can be opened, or mounted.
struct Needed<'a> {
    what: &'static str,
    /// The master whose it is; `None`: the volume's own.
    master: Option<&'a str>,
    path: PathBuf,
    /// Where the volume's table asks for it.
    place: &'a Place,
}

impl Needed<'_> {
    fn this(&self) -> String {
        match self.master {
            None => format!("this {}", self.what),
            Some(master) => format!("the {} of master {}", self.what, quoted(master)),
        }
    }
}

/// The files that a volume needs before it can be opened: its own, and those of its masters.
fn needed<'a>(masters: &Masters<'a>, read: &'a VolumeTable) -> Vec<Needed<'a>> {
    let own = read.files.iter().map(|(what, file)| Needed {
        what,
        master: None,
        path: normal(&file.value),
        place: &file.place,
    });
    let of_master = |named: &'a Located<String>| {
        let table = masters.get(named.value.as_str());
        let files = table.map_or(&[][..], |table| &table.files);
        files.iter().map(|(what, file)| Needed {
            what,
            master: Some(named.value.as_str()),
            path: normal(&file.value),
            place: &named.place,
        })
    };
    own.chain(read.masters.iter().flat_map(of_master)).collect()
}

/// A mount below another's needs that other to be open first, and so does a key file or a header that lies there.
fn check_below(tables: &Tables, mounts: &Mounts<'_>, masters: &Masters<'_>, order: &Order<'_>, complaints: &mut Complaints) {
    let volumes = &tables.volumes;
    let must_be_after = |this: usize, file: &Needed<'_>, complaints: &mut Complaints| {
        let (what, is_mount) = (file.what, file.what == MOUNT_POINT);
        for (other, outer, at) in mounts.outside_of(&file.path) {
            let name = quoted(&outer.volume.name);
            // The other way round it is a circle, and complained of as one.
            if (other == this && is_mount) || (other != this && order.reaches(this, other)) {
                continue;
            }
            let message = match (other == this, order.reaches(other, this)) {
                (true, _) if file.master.is_some() => {
                    format!("{} lies on volume {name}, which it opens: move the {what}", file.this())
                }
                (true, _) => format!("the {what} of volume {name} lies on that volume itself: it could never be opened"),
                (false, true) if is_mount => continue,
                (false, true) => format!(
                    "the {what} lies on volume {name}, which is opened after this one: take the `after` out there, or move the {what}"
                ),
                (false, false) => {
                    let written = format!("after = [\"{}\"]", short(&outer.volume.name));
                    format!(
                        "{} lies on the mount of volume {name}: {} needs `{written}`",
                        file.this(),
                        header("volume", &volumes[this].volume.name)
                    )
                }
            };
            let also = vec![(at.clone(), format!("the mount of {name}"))];
            complaints.at_with(file.place, message, also);
        }
    };
    for (this, read) in volumes.iter().enumerate() {
        if let (Some(mount), Some(place)) = (&read.volume.mount, &read.mount) {
            let mount = Needed {
                what: MOUNT_POINT,
                master: None,
                path: mount.at.clone(),
                place,
            };
            must_be_after(this, &mount, complaints);
        }
        for file in needed(masters, read) {
            must_be_after(this, &file, complaints);
        }
    }
}

/// The masters' tables by their names.
type Masters<'a> = HashMap<&'a str, &'a MasterTable>;

fn by_name(masters: &[MasterTable]) -> Masters<'_> {
    // The first of a name counts.
    masters.iter().rev().map(|read| (read.master.name.as_str(), read)).collect()
}

/// The mount points, by which it is found at once what lies on a mount.
pub(super) struct Mounts<'a>(HashMap<&'a Path, Vec<(usize, &'a VolumeTable, &'a Place)>>);

impl<'a> Mounts<'a> {
    fn of(volumes: &'a [VolumeTable]) -> Self {
        let mut found: HashMap<&Path, Vec<_>> = HashMap::new();
        for (this, read) in volumes.iter().enumerate() {
            if let (Some(mount), Some(place)) = (&read.volume.mount, &read.mount) {
                found.entry(&mount.at).or_default().push((this, read, place));
            }
        }
        Self(found)
    }

    /// The volumes on whose mounts `path` lies, in the order of the files; a mount point at the very same place is another matter.
    pub(super) fn outside_of(&self, path: &Path) -> Vec<(usize, &'a VolumeTable, &'a Place)> {
        let above = path.ancestors().skip(1).filter_map(|above| self.0.get(above));
        let mut found: Vec<_> = above.flatten().copied().collect();
        found.sort_unstable_by_key(|(this, ..)| *this);
        found
    }
}

fn mounts(volumes: &[VolumeTable]) -> impl Iterator<Item = (&VolumeTable, &Place, &Path)> {
    volumes.iter().filter_map(|read| {
        let at = &read.volume.mount.as_ref()?.at;
        Some((read, read.mount.as_ref()?, at.as_path()))
    })
}
