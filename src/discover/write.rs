//! The text: tables with what is known of them, what stays as it is, and what would move from crypttab(5) and fstab(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::candidate::{Candidate, Fate};
use super::page::Page;
use super::{Found, guests, judge, mount};
use crate::config::{self, Config, SecretConfig, Unlock};
use crate::facts::{DomainFacts, SecretId, Source};
use crate::graph::Placement;

/// The tables that stand before all volumes.
pub(super) fn head(found: &Found<'_>) -> String {
    let uri = found.libvirt_uri;
    uri.map_or_else(String::new, |uri| format!("[host]\nlibvirt-uri = {}\n", config::string(uri)))
}

pub(super) fn all(found: &Found<'_>, candidates: &[Candidate<'_>], placed: &[Vec<&DomainFacts>]) -> String {
    let mut page = Page::default();
    let written = candidates.iter().filter(|candidate| candidate.is_written()).count();
    let suggested = candidates
        .iter()
        .any(|candidate| matches!(candidate.fate, Fate::Suggested(_)));
    introduce(&mut page, found, candidates, written, suggested);
    let head = head(found);
    if !head.is_empty() {
        page.gap();
        page.table(&head);
    }
    for (candidate, guests) in candidates.iter().zip(placed).filter(|(candidate, _)| candidate.is_written()) {
        page.gap();
        volume(&mut page, candidate, guests);
    }
    secrets(&mut page, found);
    if suggested {
        page.gap();
        page.comment("Volumes that need a decision. Take the # away from the lines of a table to use it.");
        for (candidate, guests) in candidates.iter().zip(placed) {
            if matches!(candidate.fate, Fate::Suggested(_)) {
                page.gap();
                volume(&mut page, candidate, guests);
            }
        }
    }
    let lost = not_found(&mut page, found, candidates);
    left(&mut page, candidates);
    moves(&mut page, candidates, found);
    elsewhere(&mut page, found, candidates, &lost);
    page.into_text()
}

fn introduce(page: &mut Page, found: &Found<'_>, candidates: &[Candidate<'_>], written: usize, suggested: bool) {
    page.comment("A configuration for this host, written by `virt-unlock discover`. Nothing was asked and nothing was changed.");
    if written == 0 && !suggested {
        page.comment("");
        page.comment(
            "Nothing was found that could be a volume of guests: no LUKS header on any block device that is not the host's own.",
        );
        page.comment(
            "Attach or activate what is missing (`lsblk -f` shows what is there) and run it again, or write a table by hand \
             for each volume; config.example.toml explains every key:",
        );
        page.comment("");
        page.disabled("[volume.mail]\ndevice = \"/dev/vg0/mail\"\n");
    } else {
        page.comment("Read the lines with \"doubt\", correct what is wrong, and then:");
        page.comment("");
        page.example("virt-unlock check               compares it with this host");
        page.example("virt-unlock plan                shows what would be done");
        page.example("systemctl enable virt-unlock    does it at every boot and shutdown");
    }
    if let Err(why) = found.libvirt {
        page.comment("");
        page.doubt(&format!(
            "libvirt's guests and pools are missing here: {why}. When it answers, run it again"
        ));
    }
    if let Some(error) = found.libvirt.ok().and_then(|libvirt| libvirt.pools_error.as_ref()) {
        page.comment("");
        page.doubt(&format!(
            "libvirt's pools are missing here: {error}. When they answer, run it again"
        ));
    }
    for remark in found.remarks {
        page.comment("");
        page.doubt(remark);
    }
    let is_asked = |ways: &[Unlock]| matches!(ways, [Unlock::Passphrase] | [Unlock::Token, Unlock::Passphrase]);
    let asked = candidates
        .iter()
        .filter(|candidate| candidate.is_written() && is_asked(&candidate.volume.unlock));
    if asked.count() > 1 {
        page.comment("");
        page.comment("Volumes with one and the same passphrase cannot be told from outside. Give them all the same");
        page.comment("passphrase-group = \"guests\", and it is asked for once.");
    }
}

/// The secrets that guests' disks need, and that libvirt does not keep by itself.
fn secrets(page: &mut Page, found: &Found<'_>) {
    let Ok(libvirt) = found.libvirt else { return };
    let mut needed: BTreeMap<&SecretId, Vec<&DomainFacts>> = BTreeMap::new();
    for domain in &libvirt.domains {
        // A usage that nobody could write as the name of a table is left out.
        let can_be_named = |id: &&SecretId| {
            let name = id.to_string();
            SecretId::of(&name) == **id && !name.contains(char::is_control)
        };
        for used in domain.secrets.iter().map(|used| &used.id).filter(can_be_named) {
            let users = needed.entry(used).or_default();
            if !users.iter().any(|user| user.name == domain.name) {
                users.push(domain);
            }
        }
    }
    for (id, guests) in needed {
        let table = config::secret_table(&SecretConfig::new(&id.to_string())).unwrap_or_default();
        let names: Vec<String> = guests.iter().map(|domain| guest(domain)).collect();
        page.gap();
        page.comment(&format!(
            "The passphrase of disks that QEMU decrypts itself. Guests: {}.",
            names.join(", ")
        ));
        if libvirt.secret(id).is_some_and(|found| !found.ephemeral) {
            page.doubt(
                "libvirt keeps it on this host's disk, so nobody is asked. `virsh secret-undefine` it to be asked by this table",
            );
        }
        page.table(&table);
    }
}

/// A table with what is known of it.
fn volume(page: &mut Page, candidate: &Candidate<'_>, guests: &[&DomainFacts]) {
    page.comment(&summary(candidate));
    if !guests.is_empty() {
        let names: Vec<String> = guests.iter().map(|domain| guest(domain)).collect();
        page.comment(&format!("Guests: {}.", names.join(", ")));
    }
    if let Fate::Suggested(why) = &candidate.fate {
        page.doubt(why);
    }
    for doubt in &candidate.doubts {
        page.doubt(doubt);
    }
    match (config::volume_table(&candidate.volume), candidate.is_written()) {
        (Some(table), true) => page.table(&table),
        (Some(table), false) => page.disabled(&table),
        (None, _) => {}
    }
}

/// What the device is.
fn summary(candidate: &Candidate<'_>) -> String {
    let version = candidate.luks.and_then(|luks| luks.version.as_deref()).unwrap_or_default();
    let uuid = candidate.luks.and_then(|luks| luks.uuid.as_ref());
    let uuid = uuid.map_or_else(String::new, |uuid| format!(", UUID {uuid}"));
    let label = candidate.label().map_or_else(String::new, |label| format!(", label {label}"));
    let state = match (candidate.mapping, candidate.luks, &candidate.volume.header) {
        (Some(mapping), ..) => format!("open as /dev/mapper/{}", mapping.name),
        (None, None, Some(_)) => "with its header apart".to_owned(),
        (None, ..) => "closed".to_owned(),
    };
    format!("LUKS{version} on {}{uuid}{label}, {state}.", candidate.shown())
}

fn guest(domain: &DomainFacts) -> String {
    let start = if domain.autostart { "autostart" } else { "no autostart" };
    format!("{} ({start})", domain.name)
}

/// What guests expect of volumes, and what no device tells that it has it. Returns these guests.
fn not_found(page: &mut Page, found: &Found<'_>, candidates: &[Candidate<'_>]) -> BTreeSet<String> {
    // Where no volume could be meant it is no doubt of this file: the list of other guests has it.
    let is_open_question = |candidate: &Candidate<'_>| !candidate.is_left() && candidate.mapping.is_none();
    let (Ok(libvirt), true) = (found.libvirt, candidates.iter().any(is_open_question)) else {
        return BTreeSet::new();
    };
    let mut lost = BTreeSet::new();
    for (name, guests) in guests::expected_names(found.survey, &libvirt.domains) {
        if candidates
            .iter()
            .any(|candidate| candidate.is_written() && candidate.volume.name == name)
        {
            continue;
        }
        page.gap();
        page.doubt(&format!(
            "the disk of {} is /dev/mapper/{name}, which is not there; if that is one of the volumes above, its table must be \
             [volume.{name}], which cannot be told from outside",
            guests.join(", ")
        ));
        lost.extend(guests);
    }
    for (folder, missing) in guests::missing_folders(found.survey, libvirt) {
        if candidates
            .iter()
            .any(|candidate| mount::mount_point(candidate) == Some(folder.as_path()))
        {
            continue;
        }
        page.gap();
        page.doubt(&format!(
            "the disks of {} should be in {}, and are not there; if they are on one of the volumes above, that one needs a mount",
            missing.guests.join(", "),
            folder.display()
        ));
        lost.extend(missing.guests);
    }
    lost
}

/// What has no table, and why. What has a line in crypttab(5) is named with that line.
fn left(page: &mut Page, candidates: &[Candidate<'_>]) {
    let mut is_first = true;
    for candidate in candidates.iter().filter(|candidate| candidate.line.is_none()) {
        let Fate::Left(why) = &candidate.fate else { continue };
        if is_first {
            page.gap();
            page.comment("Left out, and to stay as it is:");
            is_first = false;
        }
        let open = candidate
            .mapping
            .map(|mapping| format!(", open as {}", mapping.name))
            .unwrap_or_default();
        page.item(&format!("{}{open}: {why}", candidate.shown()));
    }
}

/// Line by line what would move.
fn moves(page: &mut Page, candidates: &[Candidate<'_>], found: &Found<'_>) {
    let has_lines = candidates
        .iter()
        .any(|candidate| candidate.line.is_some() || (candidate.fstab.is_some() && !candidate.is_left()));
    if !has_lines {
        return;
    }
    page.gap();
    page.comment("What moves here from /etc/crypttab and /etc/fstab, line by line. Remove the lines that move, then: systemctl daemon-reload");
    let mut by_line: Vec<&Candidate<'_>> = candidates.iter().filter(|candidate| candidate.line.is_some()).collect();
    by_line.sort_by_key(|candidate| candidate.line.map(|line| line.line));
    for candidate in by_line {
        let Some(line) = candidate.line else { continue };
        page.item(&format!(
            "/etc/crypttab line {}, {} on {}: {}",
            line.line,
            line.name,
            line.device,
            destination(candidate, "")
        ));
        for lost in &candidate.lost {
            page.part(lost);
        }
    }
    for line in &found.survey.fstab {
        let of_line = candidates
            .iter()
            .find(|candidate| candidate.fstab.is_some_and(|of_it| of_it.line == line.line));
        let Some(candidate) = of_line.filter(|candidate| !candidate.is_left()) else {
            continue;
        };
        let (at, words) = (line.at.display(), destination(candidate, "mount in "));
        page.item(&format!("/etc/fstab line {}, {at}: {words}", line.line));
        for lost in &candidate.lost_of_mount {
            page.part(lost);
        }
    }
    if candidates
        .iter()
        .any(|candidate| candidate.is_written() && candidate.volume.initramfs)
    {
        page.comment("A volume moves that the initramfs may open now: make that anew too (dracut -f, or update-initramfs -u).");
    }
}

/// Where a line goes.
fn destination(candidate: &Candidate<'_>, key: &str) -> String {
    let name = &candidate.volume.name;
    match &candidate.fate {
        Fate::Written => format!("moves to {key}[volume.{name}]; remove the line"),
        Fate::Suggested(_) => format!("stays, unless you use the table [volume.{name}] above; then remove the line"),
        Fate::Left(why) => format!("stays: {why}"),
    }
}

/// Guests, or disks of guests, that lie on no volume of this file. `lost`: those that were named already.
fn elsewhere(page: &mut Page, found: &Found<'_>, candidates: &[Candidate<'_>], lost: &BTreeSet<String>) {
    let Ok(libvirt) = found.libvirt else { return };
    let written = candidates.iter().filter(|candidate| candidate.is_written());
    let volumes = written
        .clone()
        .map(|candidate| (candidate.volume.name.clone(), judge::facts(candidate)));
    let (volumes, config) = (
        volumes.collect(),
        Config {
            volumes: written.map(|candidate| candidate.volume.clone()).collect(),
            ..Config::default()
        },
    );
    let placement = Placement::new(&config, &volumes);
    let (mut apart, mut partly) = (Vec::new(), Vec::new());
    for domain in &libvirt.domains {
        let is_here = |source: &&Source| placement.volumes_at(source).next().is_none() && is_data(source);
        let places: Vec<String> = domain
            .sources
            .iter()
            .filter(is_here)
            .map(|source| place(source, found, candidates))
            .collect();
        if placement.volumes_of(domain).is_empty() {
            if !lost.contains(&domain.name) {
                apart.push((domain, places));
            }
        } else if !places.is_empty() {
            partly.push((domain, places));
        }
    }
    if !apart.is_empty() {
        page.gap();
        page.comment("Guests that are not on an encrypted volume of this file; they are libvirt's own affair:");
        for (domain, places) in apart {
            let places = if places.is_empty() {
                "no disk".to_owned()
            } else {
                places.join(", ")
            };
            page.item(&format!("{}: {places}", guest(domain)));
        }
    }
    if !partly.is_empty() {
        page.gap();
        page.comment("Disks and files that are not on an encrypted volume of this file, though others of the same guest are:");
        for (domain, places) in partly {
            page.item(&format!("{}: {}", domain.name, places.join(", ")));
        }
    }
}

/// Not the firmware, which is no secret and lies on every host.
fn is_data(source: &Source) -> bool {
    let path = &source.path;
    !path.starts_with("/usr") && !path.starts_with("/var/lib/libvirt/qemu/nvram") && !path.as_os_str().is_empty()
}

/// A place of a guest, with what is amiss there.
fn place(source: &Source, found: &Found<'_>, candidates: &[Candidate<'_>]) -> String {
    let shown = source.path.display();
    let mount = found.survey.places.get(&source.path).and_then(|place| place.mount.as_deref());
    let of_host = candidates.iter().find(|candidate| {
        let mapping = candidate.mapping.filter(|_| candidate.is_left());
        mapping.is_some_and(|mapping| {
            let is_mounted = |at: &Path| {
                found
                    .survey
                    .mounts
                    .iter()
                    .any(|mounted| mounted.number == mapping.number && mounted.at == at)
            };
            source.number == Some(mapping.number) || mount.is_some_and(is_mounted)
        })
    });
    if let Some(mapping) = of_host.and_then(|candidate| candidate.mapping) {
        return format!("{shown} (on the host's own encrypted volume {})", mapping.name);
    }
    let is_there =
        |name: &str| found.survey.other_names.contains(name) || found.survey.mappings.iter().any(|mapping| mapping.name == name);
    if guests::mapper_name(&source.path).is_some_and(|name| !is_there(name)) {
        return format!("{shown} (not there)");
    }
    match found.survey.places.get(&source.path) {
        Some(place) if !place.exists => format!("{shown} (not there)"),
        _ => shown.to_string(),
    }
}
