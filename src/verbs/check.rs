//! `virt-unlock check`: the configuration against this host. Every problem at once, each with its remedy. Changes nothing.

mod initramfs;
mod masters;
mod mounts;
mod secrets;
mod ways;

use std::collections::BTreeMap;
use std::time::Duration;

use mounts::{mount_state, of_hidden_files, of_mount};

use super::session::Session;
use super::surroundings::{Surroundings, writable_by_others};
use super::{App, Failure, Verdict, answer};
use crate::cancel::Cancel;
use crate::config::{Config, DomainConfig, Ready, Stop, Volume};
use crate::engine::clear_disk;
use crate::event::Events;
use crate::facts::{DomainFacts, Facts, LibvirtFacts, Mapping, MountState};
use crate::graph::Placement;
use crate::host::{Header, OpenError};
use crate::report::{Colour, Style, Verbosity, plain};
use crate::text;

/// A person waits for the answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(5);
/// `RestartMode=direct` in systemd.service(5): what waits for our unit goes on waiting when it is restarted.
const RESTART_MODE_SINCE: u32 = 254;

pub(super) fn check(app: &App) -> Result<Verdict, Failure> {
    Session::need_root("check")?;
    let session = Session::begin(app, false)?;
    let cancel = Cancel::new()?;
    let facts = session.facts(Some(LIBVIRT_PATIENCE), &Events::new(|_| ()), &cancel)?;
    session.graph(&facts)?;
    let around = Surroundings::read();
    let mut findings = of_units(&around);
    findings.extend(of_systemd(session.systemd.version(&cancel).ok()));
    findings.extend(of_configuration(&session));
    findings.extend(initramfs::of_initramfs(&session.config, &around));
    let free = session.host.devices.memory_available();
    let mut headers = BTreeMap::new();
    for volume in &session.config.volumes {
        let device = facts.volumes.get(&volume.name).and_then(|found| found.device.clone());
        let header = device.map(|device| session.host.volumes.probe(volume, &device.path, &cancel));
        findings.extend(of_volume(volume, &facts, header.as_ref(), &around));
        let credentials = |unit: &str| session.systemd.credentials(unit, &cancel).ok();
        findings.extend(ways::of_ways(volume, credentials));
        if let Some(Ok(header)) = header {
            let about = format!("volume {}", volume.name);
            let device = facts.volumes.get(&volume.name).and_then(|found| found.device.as_ref());
            let place = volume.header.as_deref().or(device.map(|device| device.path.as_path()));
            let place = place.map(|place| place.display().to_string()).unwrap_or_default();
            findings.extend(ways::of_tokens(&about, &volume.unlock, &header, &place));
            findings.extend(of_memory(&about, &header, free));
            headers.insert(volume.name.as_str(), header);
        }
        if let (Some(mount), MountState::None) = (&volume.mount, mount_state(&facts, volume)) {
            let count = session.host.devices.entries_below(&mount.at);
            findings.extend(of_hidden_files(volume, count));
        }
    }
    let masters = masters::read(&session.config, session.host.volumes.as_ref(), &cancel);
    let headers = headers.iter().map(|(name, header)| (*name, header)).collect();
    findings.extend(masters::of_masters(&session.config, &masters, &headers, free));
    if !session.is_empty() {
        let clear = clear_disk(&session.config, &session.host);
        findings.extend(of_domains(&session.config, &facts, clear.as_deref()));
        let credentials = |unit: &str| session.systemd.credentials(unit, &cancel).ok();
        findings.extend(secrets::of_secrets(&session.config, facts.libvirt.as_ref(), credentials));
    }

    let colour = Colour::on_stdout();
    let mut out: String = findings
        .iter()
        .filter(|finding| app.verbosity >= finding.weight.needs())
        .map(|finding| finding.line(colour) + "\n")
        .collect();
    let is_good = findings.iter().all(|finding| finding.weight == Weight::Note);
    let errors = findings.iter().filter(|finding| finding.weight == Weight::Error).count();
    if is_good && app.verbosity > Verbosity::Quiet {
        let (volumes, tables) = (session.config.volumes.len(), session.config.domains.len());
        out.push_str(&format!(
            "{}: {}, {}\n",
            colour.paint(Style::Good, "no problem found"),
            counted(volumes, "volume"),
            counted(tables, "domain table")
        ));
    }
    answer(&out)?;
    Ok((errors == 0).into())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// It will not work, or not as it should.
    Error,
    /// It may surprise, and something can be done.
    Warning,
    /// What this host does in another way than others, for whoever wants more words.
    Note,
}

impl Weight {
    fn needs(self) -> Verbosity {
        match self {
            Self::Error => Verbosity::Quiet,
            Self::Warning => Verbosity::Normal,
            Self::Note => Verbosity::Verbose,
        }
    }
}

/// Something that is not as it should be, or may surprise.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    weight: Weight,
    about: String,
    what: String,
    remedy: String,
}

impl Finding {
    fn error(about: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            weight: Weight::Error,
            about: about.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    fn warning(about: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            weight: Weight::Warning,
            ..Self::error(about, what, remedy)
        }
    }

    fn note(about: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            weight: Weight::Note,
            ..Self::error(about, what, remedy)
        }
    }

    fn line(&self, colour: Colour) -> String {
        let word = match self.weight {
            Weight::Error => colour.paint(Style::Bad, "error:"),
            Weight::Warning => colour.paint(Style::Warning, "warning:"),
            Weight::Note => colour.paint(Style::Dim, "note:"),
        };
        format!(
            "{word} {}: {}\n    remedy: {}",
            plain(&self.about),
            plain(&self.what),
            plain(&self.remedy)
        )
    }
}

fn of_units(around: &Surroundings) -> Vec<Finding> {
    let mut found = Vec::new();
    if !around.is_enabled {
        found.push(Finding::warning(
            "virt-unlock.service",
            "is not enabled: nothing is asked for at boot",
            "systemctl enable virt-unlock",
        ));
    }
    if around.libvirt_guests_suspends {
        found.push(Finding::error(
            "libvirt-guests.service",
            "is enabled and saves the memory of guests to the unencrypted disk at shutdown (ON_SHUTDOWN=suspend)",
            format!(
                "systemctl disable --now libvirt-guests, or set ON_SHUTDOWN=shutdown in {}",
                around.libvirt_guests_file.display()
            ),
        ));
    }
    found
}

/// What an older systemd does in another way.
fn of_systemd(version: Option<u32>) -> Option<Finding> {
    let version = version.filter(|version| *version < RESTART_MODE_SINCE)?;
    Some(Finding::note(
        "virt-unlock.service",
        format!(
            "systemd {version} lets logins begin at once if the program crashes while it asks; it asks again, and not at the console"
        ),
        "none is needed: `virt-unlock up` in a login takes the question over",
    ))
}

fn of_configuration(session: &Session) -> Vec<Finding> {
    let mut found = Vec::new();
    if session.is_empty() {
        found.push(Finding::warning(
            "the configuration",
            "names no volume and no guest: there is nothing to do",
            "add a [volume.NAME] table for each encrypted volume; config.example.toml shows how",
        ));
    }
    for path in writable_by_others(session.files.iter().map(|(path, _)| path.as_path())) {
        found.push(Finding::error(
            "the configuration",
            format!(
                "{} can be written by others than root: whoever changes it decides what root opens and mounts",
                path.display()
            ),
            format!("chown root: {0}; chmod go-w {0}", path.display()),
        ));
    }
    found
}

fn of_volume(volume: &Volume, facts: &Facts, header: Option<&Result<Header, OpenError>>, around: &Surroundings) -> Vec<Finding> {
    let about = format!("volume {}", volume.name);
    let name = &volume.name;
    let mut found = Vec::new();
    match header {
        None => found.push(Finding {
            // What another host of the cluster uses now need not be here.
            weight: if volume.noauto { Weight::Warning } else { Weight::Error },
            ..Finding::error(
                &about,
                format!("its device {} is not there", volume.device),
                "attach or activate it; `lsblk -f` shows what is there",
            )
        }),
        Some(Err(error)) => found.push(Finding::error(
            &about,
            error.to_string(),
            "is `device` (and `header`) right? `cryptsetup luksDump` shows a header",
        )),
        Some(Ok(header)) if header.keyslots.is_empty() => found.push(Finding::error(
            &about,
            "its header has no keyslot in use: nothing can open it",
            "restore the header from a backup (cryptsetup luksHeaderRestore)",
        )),
        Some(Ok(_)) => {}
    }
    if let Some(Mapping::Foreign(words)) = facts.volumes.get(name).map(|facts| &facts.mapping) {
        found.push(Finding::error(
            &about,
            words,
            "close that one, or give this volume another name",
        ));
    }
    if around.crypttab_names.contains(name) {
        found.push(Finding::error(
            &about,
            "is in /etc/crypttab too: the boot asks for it there, and its LVM wakes up on this host",
            format!("remove the line of {name} from /etc/crypttab, then: systemctl daemon-reload"),
        ));
    }
    found.extend(of_mount(volume, facts, around));
    found
}

fn of_memory(about: &str, header: &Header, free: u64) -> Option<Finding> {
    let needed = header.keyslots.iter().map(|slot| slot.memory_kib * 1024).max()?;
    (needed > free).then(|| {
        Finding::error(
            about,
            format!(
                "a keyslot takes {} to open, and {} are free now",
                text::bytes(needed),
                text::bytes(free)
            ),
            "add a keyslot that takes less (cryptsetup luksConvertKey --pbkdf-memory …)",
        )
    })
}

fn of_domains(config: &Config, facts: &Facts, clear: Option<&str>) -> Vec<Finding> {
    let Some(libvirt) = &facts.libvirt else {
        let words = facts
            .libvirt_error
            .clone()
            .unwrap_or_else(|| "libvirt was not asked: this program is built without it".to_owned());
        return vec![Finding::error(
            "guests",
            words,
            format!(
                "is it installed and running? `virsh -c {} list --all`; is libvirt-uri in [host] right?",
                config.host.libvirt_uri
            ),
        )];
    };
    let mut found = Vec::new();
    for table in &config.domains {
        for name in std::iter::once(&table.name).chain(&table.after) {
            if !libvirt.domains.iter().any(|domain| domain.name == *name) {
                found.push(Finding::error(
                    format!("[domain.{}]", table.name),
                    format!("libvirt has no guest named {name}"),
                    "`virsh list --all` shows the names",
                ));
            }
        }
    }
    for volume in &config.volumes {
        for pool in volume.pools.iter().filter(|pool| !libvirt.pools.contains_key(*pool)) {
            found.push(Finding::error(
                format!("volume {}", volume.name),
                format!("libvirt has no pool named {pool}"),
                "`virsh pool-list --all` shows the names",
            ));
        }
    }
    let placement = Placement::new(config, &facts.volumes);
    for domain in &libvirt.domains {
        found.extend(of_domain(domain, &placement));
        found.extend(of_ready(config.domain(&domain.name), domain));
        found.extend(of_save(config.domain(&domain.name), clear));
        found.extend(of_autostart(config.domain(&domain.name), domain));
    }
    found.extend(of_idle_volumes(config, libvirt, &placement));
    found
}

fn of_domain(domain: &DomainFacts, placement: &Placement<'_>) -> Vec<Finding> {
    let about = format!("guest {}", domain.name);
    let mut found = Vec::new();
    let is_ours = !placement.volumes_of(domain).is_empty();
    if is_ours && domain.restarts_on_poweroff {
        found.push(Finding::error(
            &about,
            "its XML has <on_poweroff>restart</on_poweroff>: asked to shut down it starts again, until its plug is pulled",
            format!("virsh edit {}: <on_poweroff>destroy</on_poweroff>", domain.name),
        ));
    }
    for source in &domain.sources {
        let is_unknown =
            source.path.starts_with("/dev/mapper") && source.number.is_none() && placement.volumes_at(source).next().is_none();
        if is_unknown {
            found.push(Finding::warning(
                &about,
                format!(
                    "its disk {} is not there, and no volume of that name is configured",
                    source.path.display()
                ),
                "if that is an encrypted volume, add a [volume.…] table for it",
            ));
        }
    }
    found
}

/// An agent is waited for, and there is no way to it.
fn of_ready(table: Option<&DomainConfig>, domain: &DomainFacts) -> Option<Finding> {
    let waits = table.is_some_and(|table| table.ready == Ready::Agent);
    (waits && !domain.has_agent).then(|| {
        Finding::error(
            format!("[domain.{}]", domain.name),
            "ready = \"agent\", but the guest's XML has no channel for a guest agent",
            format!(
                "virsh edit {}: <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
                domain.name
            ),
        )
    })
}

/// Memory that would be saved in the clear.
fn of_save(table: Option<&DomainConfig>, clear: Option<&str>) -> Option<Finding> {
    let table = table.filter(|table| table.stop == Stop::Save)?;
    Some(Finding::error(
        format!("[domain.{}]", table.name),
        format!("stop = \"save\", but {}: it will be shut down instead", clear?),
        "put that folder on an encrypted volume (a volume's `mount` may lie there), or take out `stop`",
    ))
}

/// libvirt starts its guests one after the other when its daemon starts, in no order that we give.
fn of_autostart(table: Option<&DomainConfig>, domain: &DomainFacts) -> Option<Finding> {
    let table = table.filter(|table| !table.after.is_empty() && domain.autostart)?;
    Some(Finding::note(
        format!("[domain.{}]", table.name),
        "libvirt's own autostart knows nothing of `after`: where the volume opens without a person while libvirt's daemon is still \
         starting, libvirt may start the guest first",
        format!("start = true in this table, and virsh autostart --disable {}", table.name),
    ))
}

/// A private volume that no guest uses may be a slip of the pen in the guest's XML.
fn of_idle_volumes(config: &Config, libvirt: &LibvirtFacts, placement: &Placement<'_>) -> Vec<Finding> {
    let used: Vec<&str> = libvirt
        .domains
        .iter()
        .flat_map(|domain| placement.volumes_of(domain))
        .collect();
    config
        .volumes
        .iter()
        .filter(|volume| volume.mount.is_none() && !used.contains(&volume.name.as_str()))
        .filter(|volume| !config.volumes.iter().any(|other| other.after.contains(&volume.name)))
        .map(|volume| {
            Finding::warning(
                format!("volume {}", volume.name),
                "no guest lies on it",
                format!(
                    "does the guest's XML name /dev/mapper/{0}? Otherwise [domain.NAME] volumes = [\"{0}\"] says it",
                    volume.name
                ),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests;
