//! `virt-unlock master enroll` and `revoke`: the volumes of a master.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys::Locked;
use super::{Work, find, not_done, volumes};
use crate::config::{Master, Volume};
use crate::event::{Happened, Outcome};
use crate::graph::Layer;
use crate::host::{OpenError, Volumes};
use crate::secret::Secret;
use crate::unlock::enrolment::{Enrolled, Enrolment, Revoked};
use crate::verbs::{Failure, Verdict};

pub(super) fn enroll(work: &Work, name: &str, names: &[String]) -> Result<Verdict, Failure> {
    let (master, volumes) = named(work, name, names)?;
    let _lock = work.lock()?;
    let uuid = uuid(work, master)?;
    let opened = work.unlock(&Locked::master(master), &[], &mut |key| {
        work.events
            .say(None, Happened::Working(format!("master {name}: deriving its key")));
        work.headers.open_master(master, key, &work.cancel)
    });
    let (key, _) = opened.map_err(|error| not_done(name, &error))?;
    let mut known: BTreeMap<String, Vec<Secret>> = BTreeMap::new();
    Ok(each(work, &uuid, &volumes, |enrolment| {
        let volume = enrolment.volume;
        let group = volume.passphrase_group.as_deref();
        let of_group = group.and_then(|group| known.get(group)).cloned().unwrap_or_default();
        let mut typed = None;
        let locked = Locked::volume(volume, enrolment.device);
        let enrolled = enrolment.enroll(&key, &mut |offer| {
            let (keyslot, secret) = work.unlock(&locked, &of_group, offer)?;
            typed = secret;
            Ok(keyslot)
        })?;
        if let (Some(group), Some(secret)) = (group, typed) {
            known.entry(group.to_owned()).or_default().push(secret);
        }
        let words = match enrolled {
            Enrolled::Already(keyslot) => format!("master {name} opens it already, by keyslot {keyslot}"),
            Enrolled::Completed(keyslot) => format!("enrolled with master {name}: keyslot {keyslot} was there already, unmarked"),
            Enrolled::New(keyslot) => format!("enrolled with master {name}, by keyslot {keyslot}"),
        };
        if !volume.is_opened_by(name) {
            work.warn(format!(
                "volume {}: its `unlock` does not name the master: unlock = [{{ master = \"{name}\" }}, …] makes it the first way",
                volume.name
            ));
        }
        Ok(words)
    }))
}

pub(super) fn revoke(work: &Work, name: &str, names: &[String]) -> Result<Verdict, Failure> {
    let (master, volumes) = named(work, name, names)?;
    let _lock = work.lock()?;
    let uuid = uuid(work, master)?;
    Ok(each(work, &uuid, &volumes, |enrolment| {
        let Revoked {
            keyslots,
            tokens,
            unmarked,
        } = enrolment.revoke()?;
        for keyslot in unmarked {
            let place = enrolment.volume.header.as_deref().unwrap_or(enrolment.device).display();
            work.warn(format!(
                "volume {}: keyslot {keyslot} has no token and is as cheap as that of a master. If an enrolment was interrupted, it may \
                 still open the volume: `virt-unlock master enroll {name} {0}` finds out, or `cryptsetup luksKillSlot {place} {keyslot}` \
                 removes it",
                enrolment.volume.name
            ));
        }
        Ok(match (keyslots.as_slice(), tokens) {
            ([], 0) => format!("is not enrolled with master {name}; nothing was changed"),
            ([], _) => format!("revoked from master {name}: its keyslot was gone already"),
            (keyslots, _) => {
                let numbers: Vec<String> = keyslots.iter().map(u32::to_string).collect();
                format!("revoked from master {name}: keyslot {} is wiped", numbers.join(", "))
            }
        })
    }))
}

fn named<'a>(work: &'a Work, name: &str, names: &[String]) -> Result<(&'a Master, Vec<&'a Volume>), Failure> {
    let config = &work.session.config;
    Ok((find(config, name)?, volumes(config, names)?))
}

fn uuid(work: &Work, master: &Master) -> Result<String, Failure> {
    match work.headers.probe_master(master, &work.cancel) {
        Ok(header) => Ok(header.uuid),
        Err(OpenError::Header(why)) => Err(Failure::NotDone(format!(
            "master {0}: {why}; `virt-unlock master create {0}` makes a new one, a copy of its file brings back the old one",
            master.name
        ))),
        Err(error) => Err(not_done(&master.name, &error)),
    }
}

/// Does it to one volume after the other; what fails at one is no hindrance to the next.
fn each(
    work: &Work,
    uuid: &str,
    volumes: &[&Volume],
    mut what: impl FnMut(&Enrolment<'_>) -> Result<String, OpenError>,
) -> Verdict {
    let mut is_good = true;
    for &volume in volumes {
        let done = device(work, volume).and_then(|device| {
            what(&Enrolment {
                headers: &work.headers,
                volume,
                device: &device,
                master: uuid,
                cancel: &work.cancel,
            })
        });
        let outcome = match done {
            Ok(words) => Outcome::Done(words),
            Err(OpenError::Cancelled) => Outcome::Cancelled,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let is_cancelled = outcome == Outcome::Cancelled;
        is_good &= outcome.is_good();
        let layer = Layer::Volume(volume.name.as_str().into());
        work.events.say(Some(&layer), Happened::Ended(outcome));
        if is_cancelled {
            break;
        }
    }
    is_good.into()
}

fn device(work: &Work, volume: &Volume) -> Result<PathBuf, OpenError> {
    let found = work.session.host.devices.find(&volume.device);
    found.map(|device| device.path).ok_or_else(|| {
        OpenError::Other(format!(
            "its device {} is not there; attach or activate it first",
            volume.device
        ))
    })
}
