//! A starting configuration, written from what there is on a host, with every doubt as a comment. Pure: facts in, text out, and
//! the text is always a configuration.
//!
//! [`candidate`] puts together what is one volume, [`name`], [`mount`] and [`crypttab`] fill its table, [`judge`] decides whether it
//! has one, [`write`] writes it all.

mod candidate;
mod crypttab;
mod guests;
mod judge;
mod mount;
mod name;
mod page;
mod write;

use crate::facts::LibvirtFacts;
use crate::facts::survey::Survey;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Devices, mappings, mounts, crypttab(5) and fstab(5).
    pub survey: &'a Survey,
    /// What libvirt says, or why it does not.
    pub libvirt: Result<&'a LibvirtFacts, &'a str>,
    /// Where libvirt listens; `None`: where it does by default.
    pub libvirt_uri: Option<&'a str>,
    /// What else should be known before the configuration is used.
    pub remarks: &'a [String],
}

/// The configuration.
pub fn configuration(found: &Found<'_>) -> String {
    let survey = found.survey;
    let libvirt = found.libvirt.ok();
    let domains = libvirt.map_or(&[][..], |libvirt| &libvirt.domains);
    let mut candidates = candidate::all(survey);
    name::give(&mut candidates, survey, domains);
    for candidate in &mut candidates {
        candidate.fstab = mount::fstab_line(candidate, survey);
    }
    judge::leave_to_host(&mut candidates, survey, domains);
    for candidate in candidates.iter_mut().filter(|candidate| !candidate.is_left()) {
        crypttab::apply(candidate);
    }
    mount::give(&mut candidates, survey, libvirt);
    mount::order(&mut candidates);
    let placed = judge::placed(&candidates, domains);
    judge::decide(&mut candidates, &placed, libvirt.is_some());
    let head = write::head(found);
    judge::accept(&mut candidates, &head);
    write::all(found, &candidates, &placed)
}

/// What libvirt's domains name on the host: the places that a survey is asked about.
pub fn places(libvirt: &LibvirtFacts) -> impl Iterator<Item = &std::path::Path> {
    let sources = libvirt.domains.iter().flat_map(|domain| &domain.sources);
    sources.map(|source| source.path.as_path())
}
