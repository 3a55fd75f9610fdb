//! Masters, and the volumes that name them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::ways::{of_key_files, of_tokens};
use super::{Finding, of_memory};
use crate::cancel::Cancel;
use crate::config::{Config, Master, Unlock, Volume};
use crate::host::{Header, OpenError, Volumes};
use crate::unlock::enrolled::{NotEnrolled, keyslot_for};
use crate::verbs::surroundings::key_file_fault;

/// The volumes' headers, as far as they can be read.
pub(super) type Headers<'a> = BTreeMap<&'a str, &'a Header>;

/// What this host has of a master.
pub(super) struct Found<'a> {
    master: &'a Master,
    header: Result<Header, OpenError>,
    /// Where the file really lies; `None`: there is none.
    at: Option<PathBuf>,
    /// Who else can get at it.
    fault: Option<String>,
}

/// Reads what this host has of each master.
pub(super) fn read<'a>(config: &'a Config, volumes: &dyn Volumes, cancel: &Cancel) -> Vec<Found<'a>> {
    let read = |master: &'a Master| {
        let at = fs::canonicalize(&master.header).ok();
        Found {
            master,
            header: volumes.probe_master(master, cancel),
            fault: at.as_deref().and_then(key_file_fault).map(|fault| fault.to_string()),
            at,
        }
    };
    config.masters.iter().map(read).collect()
}

pub(super) fn of_masters(config: &Config, masters: &[Found<'_>], headers: &Headers<'_>, free: u64) -> Vec<Finding> {
    let mut found: Vec<Finding> = masters.iter().flat_map(|master| of_master(config, master, free)).collect();
    for volume in &config.volumes {
        if let Some(header) = headers.get(volume.name.as_str()) {
            found.extend(of_enrolment(config, volume, header, masters, headers));
        }
        found.extend(without_second_way(volume));
    }
    found
}

fn of_master(config: &Config, found: &Found<'_>, free: u64) -> Vec<Finding> {
    let (master, path) = (found.master, found.master.header.display());
    let about = format!("master {}", master.name);
    let mut findings = Vec::new();
    match &found.header {
        Ok(header) if header.keyslots.is_empty() => findings.push(Finding::error(
            &about,
            format!("its header {path} has no keyslot in use: nothing can open it"),
            "restore it from its backup",
        )),
        Ok(header) => {
            findings.extend(of_memory(&about, header, free));
            findings.extend(of_tokens(&about, &master.unlock, header, &path.to_string()));
        }
        Err(error) => findings.push(Finding::error(
            &about,
            error.to_string(),
            if found.at.is_some() {
                format!("restore {path} from its backup; `cryptsetup luksDump {path}` shows more")
            } else {
                format!(
                    "is `header` right? `virt-unlock master create {}` makes a new one, and one that was in use comes from its backup",
                    master.name
                )
            },
        )),
    }
    if let Some(fault) = &found.fault {
        findings.push(Finding::warning(
            &about,
            format!("its header {path}: {fault}"),
            format!("chown root: {path}; chmod 0600 {path}"),
        ));
    }
    findings.extend(of_key_files(&about, &master.unlock));
    let volumes: Vec<&Volume> = config
        .volumes
        .iter()
        .filter(|volume| volume.is_opened_by(&master.name))
        .collect();
    if volumes.is_empty() {
        findings.push(Finding::warning(
            &about,
            "no volume is opened by it",
            format!(
                "add {{ master = \"{}\" }} to `unlock` of a volume, or take the table out",
                master.name
            ),
        ));
    }
    // By the letters of its path it does not, or the configuration would be wrong.
    let lies_on = |volume: &&&Volume| {
        let mount = volume.mount.as_ref().map(|mount| mount.at.as_path());
        mount
            .zip(found.at.as_deref())
            .is_some_and(|(mount, at)| at.starts_with(mount))
    };
    if let Some(volume) = volumes.iter().find(lies_on) {
        findings.push(Finding::error(
            &about,
            format!("its header {path} lies on volume {}, which it opens", volume.name),
            "move it to a filesystem that is there before",
        ));
    }
    findings
}

/// What a volume's tokens say, compared with the masters that it names.
fn of_enrolment(config: &Config, volume: &Volume, header: &Header, masters: &[Found<'_>], headers: &Headers<'_>) -> Vec<Finding> {
    let about = format!("volume {}", volume.name);
    let mut findings = Vec::new();
    let readable = || {
        masters
            .iter()
            .filter_map(|found| Some((found.master, found.header.as_ref().ok()?)))
    };
    for (master, its) in readable() {
        let enrolled = keyslot_for(header, &its.uuid);
        let has_token = header.tokens.iter().any(|token| token.master.eq_ignore_ascii_case(&its.uuid));
        match enrolled {
            Err(lacks) if volume.is_opened_by(&master.name) => {
                let others: Vec<&str> = config
                    .volumes
                    .iter()
                    .filter(|other| other.is_opened_by(&master.name))
                    .map(|other| other.name.as_str())
                    .filter(|other| {
                        headers
                            .get(other)
                            .is_some_and(|header| keyslot_for(header, &its.uuid).is_ok())
                    })
                    .collect();
                let others = match others.as_slice() {
                    [] => String::new(),
                    [other] => format!(" (volume {other} is enrolled)"),
                    others => format!(" (volumes {} are enrolled)", others.join(", ")),
                };
                let what = format!("master {} does not open it: {lacks}{others}", master.name);
                let remedy = lacks.remedy(&master.name, &volume.name);
                findings.push(if lacks == NotEnrolled::Luks1 || is_opened_by_masters_alone(volume) {
                    Finding::error(&about, what, remedy)
                } else {
                    Finding::warning(&about, what, remedy)
                });
            }
            _ if has_token && !volume.is_opened_by(&master.name) => findings.push(Finding::warning(
                &about,
                format!("is enrolled with master {0}, and its `unlock` does not name {0}", master.name),
                format!(
                    "add {{ master = \"{0}\" }} to its `unlock`, or `virt-unlock master revoke {0} {1}`",
                    master.name, volume.name
                ),
            )),
            _ => {}
        }
    }
    // Where a master cannot be read, whose token it is is not known.
    if masters.iter().all(|found| found.header.is_ok()) {
        let is_known = |uuid: &str| readable().any(|(_, its)| its.uuid.eq_ignore_ascii_case(uuid));
        for token in header.tokens.iter().filter(|token| !is_known(&token.master)) {
            findings.push(Finding::warning(
                &about,
                format!(
                    "its token {} names the master {}, which is not configured",
                    token.number, token.master
                ),
                "add a [master.NAME] table with the header that has this UUID (`cryptsetup luksUUID FILE` shows it)",
            ));
        }
    }
    for words in &header.strange_tokens {
        findings.push(Finding::warning(
            &about,
            format!("a token for a master is of no use: {words}"),
            "`cryptsetup luksDump` shows it; `cryptsetup token remove --token-id N` takes it out",
        ));
    }
    let of_master = |number: u32| header.tokens.iter().any(|token| token.keyslot == Some(number));
    if !header.keyslots.is_empty() && header.keyslots.iter().all(|slot| of_master(slot.number)) {
        findings.push(Finding::warning(
            &about,
            "every keyslot of it belongs to a master: without that master's header nothing can open it",
            "keep a copy of the master's header elsewhere, and a copy of the volume's header from before, which has a passphrase",
        ));
    }
    findings
}

fn is_opened_by_masters_alone(volume: &Volume) -> bool {
    volume.unlock.iter().all(|way| matches!(way, Unlock::Master { .. }))
}

fn without_second_way(volume: &Volume) -> Option<Finding> {
    is_opened_by_masters_alone(volume).then(|| {
        let ways: Vec<String> = volume.unlock.iter().map(Unlock::to_string).collect();
        Finding::warning(
            format!("volume {}", volume.name),
            format!("only {} opens it: there is no second way in", ways.join(" or ")),
            "add \"passphrase\" at the end of its `unlock`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, Mount};
    use crate::host::{Keyslot, MasterToken};
    use crate::verbs::check::Weight;

    const UUID: &str = "aaaa";

    fn volume(name: &str) -> Volume {
        let mut volume = Volume::new(name, DeviceSpec::Path(format!("/dev/vg0/{name}").into()));
        let by_office = Unlock::Master { name: "office".into() };
        volume.unlock = vec![by_office, Unlock::Passphrase];
        volume
    }

    fn config(volumes: &[Volume]) -> Config {
        Config {
            volumes: volumes.to_vec(),
            masters: vec![Master::new("office", "/m/office.luks".into())],
            ..Config::default()
        }
    }

    fn slots(numbers: &[u32]) -> Vec<Keyslot> {
        let slot = |number: &u32| Keyslot {
            number: *number,
            ..Keyslot::default()
        };
        numbers.iter().map(slot).collect()
    }

    /// A header with a passphrase in keyslot 0, and enrolled at these keyslots.
    fn header(keyslots: &[u32], tokens: &[(&str, Option<u32>)]) -> Header {
        let token = |(number, (master, keyslot)): (u32, &(&str, Option<u32>))| MasterToken {
            number,
            version: 1,
            master: (*master).to_owned(),
            keyslot: *keyslot,
        };
        Header {
            version: 2,
            keyslots: slots(keyslots),
            tokens: (0..).zip(tokens).map(token).collect(),
            ..Header::default()
        }
    }

    fn office(config: &Config) -> Found<'_> {
        Found {
            master: &config.masters[0],
            header: Ok(Header {
                uuid: UUID.to_owned(),
                ..header(&[0], &[])
            }),
            at: Some("/m/office.luks".into()),
            fault: None,
        }
    }

    fn said(findings: &[Finding]) -> Vec<String> {
        let line = |finding: &Finding| {
            let weight = if finding.weight == Weight::Error { "error" } else { "warning" };
            format!("{weight}: {}: {} | {}", finding.about, finding.what, finding.remedy)
        };
        findings.iter().map(line).collect()
    }

    /// What is said where the volumes have these headers.
    fn check(volumes: &[Volume], headers: &[&Header]) -> Vec<String> {
        let config = config(volumes);
        let names = volumes.iter().map(|volume| volume.name.as_str());
        let headers: Headers<'_> = names.zip(headers.iter().copied()).collect();
        said(&of_masters(&config, &[office(&config)], &headers, u64::MAX))
    }

    #[test]
    fn enrolled_volumes_with_a_second_way_are_as_they_should_be() {
        let enrolled = header(&[0, 1], &[(UUID, Some(1))]);
        assert_eq!(check(&[volume("mail"), volume("web")], &[&enrolled, &enrolled]), [""; 0]);
    }

    #[test]
    fn one_that_is_not_enrolled_as_another_is_is_found() {
        let (enrolled, not) = (header(&[0, 1], &[(UUID, Some(1))]), header(&[0], &[]));
        let words = "warning: volume web: master office does not open it: not enrolled (volume mail is enrolled) | \
                     `virt-unlock master enroll office web`";
        assert_eq!(check(&[volume("mail"), volume("web")], &[&enrolled, &not]), [words]);
        let gone = header(&[0], &[(UUID, Some(1))]);
        let words = "warning: volume web: master office does not open it: not enrolled any more, the keyslot of token 0 is gone | \
                     `virt-unlock master enroll office web`";
        assert_eq!(check(&[volume("web")], &[&gone]), [words]);
        let old = Header {
            version: 1,
            ..header(&[0], &[])
        };
        let words = "error: volume web: master office does not open it: the volume is LUKS1, which has no tokens | \
                     `cryptsetup convert --type luks2` makes it LUKS2, then `virt-unlock master enroll office web`";
        assert_eq!(check(&[volume("web")], &[&old]), [words]);
    }

    #[test]
    fn a_volume_without_a_second_way_is_found() {
        let mut mail = volume("mail");
        let mut enrolled = header(&[1], &[(UUID, Some(1))]);
        let keyslots = "warning: volume mail: every keyslot of it belongs to a master: without that master's header nothing can open it | \
                        keep a copy of the master's header elsewhere, and a copy of the volume's header from before, which has a \
                        passphrase";
        assert_eq!(check(std::slice::from_ref(&mail), &[&enrolled]), [keyslots]);
        mail.unlock.truncate(1);
        enrolled.keyslots = slots(&[0, 1]);
        let ways = "warning: volume mail: only master office opens it: there is no second way in | \
                    add \"passphrase\" at the end of its `unlock`";
        assert_eq!(check(std::slice::from_ref(&mail), &[&enrolled]), [ways]);
        let found = check(&[mail], &[&header(&[0], &[])]);
        assert!(
            found[0].starts_with("error: volume mail: master office does not open it"),
            "{found:?}"
        );
    }

    #[test]
    fn tokens_that_lead_nowhere_are_found() {
        let mut mail = volume("mail");
        let mut strange = header(&[0, 1], &[(UUID, Some(1)), ("bbbb", Some(0))]);
        strange.strange_tokens.push("token 7 is damaged".to_owned());
        let found = check(std::slice::from_ref(&mail), &[&strange]);
        assert!(
            found.len() == 2 + 1 && found[0].contains("token 1 names the master bbbb") && found[1].contains("token 7 is damaged"),
            "{found:?}"
        );
        mail.unlock.remove(0);
        let found = check(&[mail], &[&header(&[0, 1], &[(UUID, Some(1))])]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no volume is opened by it"), "{found:?}");
        assert!(
            found[1].contains("is enrolled with master office, and its `unlock` does not name office"),
            "{found:?}"
        );
    }

    #[test]
    fn a_master_that_is_missing_open_to_others_or_on_its_own_volume_is_found() {
        let mut mail = volume("mail");
        mail.mount = Some(Mount {
            at: "/srv".into(),
            fstype: None,
            options: None,
        });
        let config = config(&[mail]);
        let check = |found: Found<'_>| said(&of_masters(&config, &[found], &Headers::new(), 1 << 30));
        let missing = Found {
            header: Err(OpenError::Header("No such file or directory".to_owned())),
            at: None,
            ..office(&config)
        };
        let found = check(missing);
        assert!(
            found.len() == 1 && found[0].starts_with("error: master office: no usable LUKS header: No such file"),
            "{found:?}"
        );
        assert!(found[0].contains("`virt-unlock master create office`"), "{found:?}");
        let readable = Found {
            fault: Some("others than its owner can read it".to_owned()),
            ..office(&config)
        };
        let words = "warning: master office: its header /m/office.luks: others than its owner can read it | \
                     chown root: /m/office.luks; chmod 0600 /m/office.luks";
        assert_eq!(check(readable), [words]);
        // By a symbolic link.
        let inside = Found {
            at: Some("/srv/office.luks".into()),
            ..office(&config)
        };
        let words = "error: master office: its header /m/office.luks lies on volume mail, which it opens | \
                     move it to a filesystem that is there before";
        assert_eq!(check(inside), [words]);
        let mut large = office(&config);
        large.header.as_mut().unwrap().keyslots[0].memory_kib = 2 << 20;
        let found = check(large);
        assert!(
            found.len() == 1 && found[0].contains("a keyslot takes 2048 MiB to open"),
            "{found:?}"
        );
    }
}
