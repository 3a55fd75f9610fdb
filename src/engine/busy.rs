//! Who keeps a volume busy, in words, and what a person can do about it.

use std::collections::BTreeSet;

use crate::host::User;

/// How many users are named before the rest is counted.
const NAMED: usize = 6;

/// The running guests among them, by their machine's name where the scope tells it.
pub(super) fn guests(users: &[User]) -> BTreeSet<String> {
    users
        .iter()
        .filter_map(|user| match user {
            User::Process {
                machine: Some(scope), ..
            } => Some(machine_name(scope)),
            _ => None,
        })
        .collect()
}

/// Whether a device lies on top: that does not go away by itself.
pub(super) fn is_held_from_above(users: &[User]) -> bool {
    users.iter().any(|user| matches!(user, User::Holder { .. }))
}

/// "waiting for guest mailserver to end".
pub(super) fn waiting_for_guests(guests: &BTreeSet<String>) -> String {
    let names = guests.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("waiting for guest {names} to end")
}

/// Everybody who uses it, and the command that closes it once they are gone.
pub(super) fn explain(users: &[User], by_hand: &str) -> String {
    if users.is_empty() {
        return format!("the kernel says busy, but no user of it can be found; `{by_hand}` tries again");
    }
    // Who sits in the mount is why it cannot be unmounted; the mount itself is no news.
    let is_cause = |user: &&User| !matches!(user, User::Mounted { namespace_of: None, .. });
    let causes: Vec<&User> = users.iter().filter(is_cause).collect();
    let named = if causes.is_empty() { users.iter().collect() } else { causes };
    let mut words: Vec<String> = named.iter().take(NAMED).map(|user| one(user)).collect();
    if named.len() > NAMED {
        words.push(format!("and {} more", named.len() - NAMED));
    }
    format!("{}; then `virt-unlock down` or `{by_hand}` tries again", words.join("; "))
}

fn one(user: &User) -> String {
    match user {
        User::Holder { name, mapping, uuid } => holder(name, mapping.as_deref(), uuid.as_deref()),
        User::Mounted { at, namespace_of: None } => format!("mounted at {} (umount {0})", at.display()),
        User::Mounted {
            at,
            namespace_of: Some(pid),
        } => {
            format!(
                "mounted at {} in the mount namespace of process {pid} (end it, or: nsenter -t {pid} -m umount {0})",
                at.display()
            )
        }
        User::Process {
            pid, comm, path, how, ..
        } => {
            let comm = comm.replace(|c: char| c.is_control(), "?");
            format!("{comm} (process {pid}) has {} as its {how} (end it)", path.display())
        }
    }
}

fn holder(name: &str, mapping: Option<&str>, uuid: Option<&str>) -> String {
    let shown = mapping.unwrap_or(name);
    match (uuid, mapping) {
        (Some(uuid), Some(mapping)) if uuid.starts_with("LVM-") => {
            let group = volume_group(mapping);
            format!("logical volume {mapping} of volume group {group} is active on this host (vgchange -an {group})")
        }
        (Some(uuid), Some(mapping)) if uuid.starts_with("part") => {
            format!("partition {mapping} is mapped (kpartx -d, or: dmsetup remove {mapping})")
        }
        _ => format!("device {shown} ({name}) lies on it (dmsetup remove, mdadm --stop, … as fits)"),
    }
}

/// The volume group's part of `group-volume`, where a dash of a name is written twice (lvm(8)).
fn volume_group(mapping: &str) -> String {
    let mut group = String::new();
    let mut letters = mapping.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '-' && letters.next_if_eq(&'-').is_none() {
            break;
        }
        group.push(letter);
    }
    group
}

/// `machine-qemu\x2d3\x2dmailserver.scope` is guest `mailserver` (virSystemdMakeScopeName; systemd.unit(5) on escapes).
fn machine_name(scope: &str) -> String {
    let inner = scope
        .strip_prefix("machine-")
        .and_then(|s| s.strip_suffix(".scope"))
        .unwrap_or(scope);
    let plain = inner.replace("\\x2d", "-");
    let mut parts = plain.splitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(number), Some(name)) if number.chars().all(|c| c.is_ascii_digit()) => name.to_owned(),
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_tell_their_guest() {
        assert_eq!(machine_name("machine-qemu\\x2d3\\x2dmail\\x2dserver.scope"), "mail-server");
        assert_eq!(machine_name("machine-other.scope"), "other");
    }

    #[test]
    fn a_guest_s_volume_group_on_the_host_is_named_with_its_remedy() {
        let holder = User::Holder {
            name: "dm-7".into(),
            mapping: Some("guest--vg-root".into()),
            uuid: Some("LVM-abc".into()),
        };
        assert!(is_held_from_above(std::slice::from_ref(&holder)));
        assert!(explain(&[holder], "cryptsetup close mail").contains("vgchange -an guest-vg)"));
    }

    #[test]
    fn a_shell_in_the_mount_is_named() {
        let shell = User::Process {
            pid: 42,
            comm: "bash".into(),
            path: "/srv/vm".into(),
            how: "working directory",
            machine: None,
        };
        let mounted = User::Mounted {
            at: "/srv/vm".into(),
            namespace_of: None,
        };
        let words = explain(&[shell, mounted], "umount /srv/vm");
        assert!(!words.contains("mounted at"), "{words}");
        assert!(
            words.contains("bash (process 42) has /srv/vm as its working directory"),
            "{words}"
        );
    }
}
