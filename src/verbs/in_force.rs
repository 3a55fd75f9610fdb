//! What the way down goes by: the configuration as it is now, and what somebody took out of it or changed while it was in use. A
//! volume that was opened by the configuration of the way up is closed, and its guests are asked to stop first, though its table is
//! gone, has another name, or says something else by now.

use crate::config::{Config, Mount, SecretConfig, Volume};
use crate::facts::{Facts, Mapping, MountState, VolumeFacts};
use crate::graph;

/// `now` with those volumes of `kept`, the configuration of the way up, that are open and that `now` does not lead to; and their
/// names. `look` reads the facts of a volume as one of the two describes it.
pub(super) fn in_force(now: Config, kept: &Config, look: impl Fn(&Volume) -> VolumeFacts) -> (Config, Vec<String>) {
    let forgotten: Vec<Volume> = kept
        .volumes
        .iter()
        .filter(|volume| is_forgotten(volume, &now, &look))
        .map(|volume| as_it_is(volume, &look(volume)))
        .collect();
    let names: Vec<String> = forgotten.iter().map(|volume| volume.name.clone()).collect();
    let mut all = now;
    all.volumes.retain(|volume| !names.contains(&volume.name));
    for mount in all.volumes.iter_mut().map(|volume| &mut volume.mount) {
        // What is mounted there is the forgotten one's.
        if mount
            .as_ref()
            .is_some_and(|mount| forgotten.iter().any(|other| is_at(other, mount)))
        {
            *mount = None;
        }
    }
    // Last, so that a place which both describe is that of the volume which is open.
    all.volumes.extend(forgotten);
    for table in &kept.domains {
        let uses = |volumes: &Vec<String>| volumes.iter().any(|volume| names.contains(volume));
        if all.domain(&table.name).is_none() && table.volumes.as_ref().is_some_and(uses) {
            all.domains.push(table.clone());
        }
    }
    let gone = |secret: &&SecretConfig| all.secret_of(&secret.id).is_none();
    let secrets: Vec<SecretConfig> = kept.secrets.iter().filter(gone).cloned().collect();
    all.secrets.extend(secrets);
    // The two may contradict each other; what is after what is worth less than that everything is taken down.
    if graph::of(&all, &Facts::default()).is_err() {
        for volume in all.volumes.iter_mut().filter(|volume| names.contains(&volume.name)) {
            volume.after.clear();
        }
    }
    (all, names)
}

/// Whether a volume of the way up is in use and `now` does not lead to it.
fn is_forgotten(volume: &Volume, now: &Config, look: &impl Fn(&Volume) -> VolumeFacts) -> bool {
    match now.volume(&volume.name) {
        Some(same) if is_same_place(same, volume) => false,
        Some(other) => is_in_use(volume, &look(volume)) && !is_in_use(other, &look(other)),
        None => matches!(look(volume).mapping, Mapping::Open(_)),
    }
}

fn is_same_place(one: &Volume, other: &Volume) -> bool {
    let place = |volume: &Volume| volume.mount.as_ref().map(|mount| mount.at.clone());
    one.device == other.device && one.header == other.header && one.pools == other.pools && place(one) == place(other)
}

/// Open, and mounted where its table says so.
fn is_in_use(volume: &Volume, facts: &VolumeFacts) -> bool {
    matches!(facts.mapping, Mapping::Open(_)) && (volume.mount.is_none() || facts.mount == MountState::Ours)
}

/// Without a mount that is not there: its place may be another volume's by now.
fn as_it_is(volume: &Volume, facts: &VolumeFacts) -> Volume {
    let mut volume = volume.clone();
    volume.mount.take_if(|_| facts.mount != MountState::Ours);
    volume
}

fn is_at(volume: &Volume, mount: &Mount) -> bool {
    volume.mount.as_ref().is_some_and(|own| own.at == mount.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, DomainConfig};
    use crate::facts::DevNum;

    fn volume(name: &str, device: &str, at: Option<&str>) -> Volume {
        let mut volume = Volume::new(name, DeviceSpec::Path(device.into()));
        volume.mount = at.map(|at| Mount {
            at: at.into(),
            fstype: None,
            options: None,
        });
        volume
    }

    fn config(volumes: &[Volume]) -> Config {
        Config {
            volumes: volumes.into(),
            ..Config::default()
        }
    }

    /// Only the volume of this name and device is open, mounted at this place.
    fn open(open: &Volume) -> impl Fn(&Volume) -> VolumeFacts {
        move |volume| {
            let mut facts = VolumeFacts::default();
            if volume.name == open.name {
                facts.mapping = if volume.device == open.device {
                    Mapping::Open(DevNum { major: 253, minor: 0 })
                } else {
                    Mapping::Foreign("another device".to_owned())
                };
            }
            if let (Some(mount), Some(place)) = (&volume.mount, &open.mount)
                && mount.at == place.at
            {
                facts.mount = match facts.mapping {
                    Mapping::Open(_) => MountState::Ours,
                    _ => MountState::Foreign("another filesystem".to_owned()),
                };
            }
            facts
        }
    }

    #[track_caller]
    fn assert_goes_by(now: &[Volume], kept: &Volume, wanted: &[Volume]) {
        let (all, names) = in_force(config(now), &config(std::slice::from_ref(kept)), open(kept));
        assert_eq!(all.volumes, wanted);
        assert_eq!(names, [kept.name.as_str()]);
        assert!(graph::of(&all, &Facts::default()).is_ok());
    }

    #[test]
    fn a_volume_whose_table_was_removed_is_taken_down() {
        let kept = volume("mail", "/dev/a", Some("/srv/mail"));
        let other = volume("vm", "/dev/b", None);
        assert_goes_by(&[], &kept, std::slice::from_ref(&kept));
        assert_goes_by(std::slice::from_ref(&other), &kept, &[other.clone(), kept.clone()]);
    }

    #[test]
    fn a_volume_that_was_renamed_keeps_its_mount_point() {
        let kept = volume("mail", "/dev/a", Some("/srv/mail"));
        let renamed = volume("post", "/dev/a", Some("/srv/mail"));
        let without_mount = volume("post", "/dev/a", None);
        assert_goes_by(&[renamed], &kept, &[without_mount, kept.clone()]);
    }

    #[test]
    fn a_volume_that_was_given_another_device_or_place_is_taken_down_where_it_is() {
        let kept = volume("mail", "/dev/a", Some("/srv/mail"));
        let device = volume("mail", "/dev/b", Some("/srv/mail"));
        let place = volume("mail", "/dev/a", Some("/srv/post"));
        for changed in [device, place] {
            assert_goes_by(&[changed], &kept, std::slice::from_ref(&kept));
        }
    }

    #[test]
    fn what_is_closed_or_described_already_is_not_added() {
        let kept = volume("mail", "/dev/a", Some("/srv/mail"));
        let mut same = kept.clone();
        same.tries = 7;
        let changed = volume("mail", "/dev/b", None);
        let closed = |_: &Volume| VolumeFacts::default();
        let unchanged = [
            in_force(
                config(std::slice::from_ref(&same)),
                &config(std::slice::from_ref(&kept)),
                open(&kept),
            ),
            in_force(
                config(std::slice::from_ref(&same)),
                &config(std::slice::from_ref(&kept)),
                closed,
            ),
        ];
        for (all, names) in unchanged {
            assert_eq!((all.volumes, names), (vec![same.clone()], Vec::new()));
        }
        for now in [Vec::new(), vec![changed]] {
            let (all, names) = in_force(config(&now), &config(std::slice::from_ref(&kept)), closed);
            assert_eq!((all.volumes, names), (now, Vec::new()));
        }
    }

    #[test]
    fn a_guest_whose_xml_cannot_tell_comes_with_its_volume() {
        let mut kept = config(&[volume("mail", "/dev/a", None)]);
        let mut table = DomainConfig::new("server");
        table.volumes = Some(vec!["mail".to_owned()]);
        kept.domains = vec![table.clone(), DomainConfig::new("unrelated")];
        let (all, _) = in_force(config(&[]), &kept, open(&kept.volumes[0]));
        assert_eq!(all.domains, [table]);
    }

    #[test]
    fn configurations_that_contradict_each_other_still_take_everything_down() {
        let mut first = volume("first", "/dev/a", None);
        first.after = vec!["second".to_owned()];
        let mut kept = volume("second", "/dev/b", None);
        kept.after = vec!["first".to_owned()];
        let changed = volume("second", "/dev/c", None);
        let (all, _) = in_force(config(&[first, changed]), &config(std::slice::from_ref(&kept)), open(&kept));
        assert!(graph::of(&all, &Facts::default()).is_ok());
        assert_eq!(all.volume("second").map(|volume| &volume.device), Some(&kept.device));
    }
}
