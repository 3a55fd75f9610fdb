//! From a line of crypttab(5) to the keys of a volume.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::candidate::Candidate;
use crate::config::Unlock;
use crate::facts::survey::CrypttabLine;

/// Options that say what is so in any case.
const ALWAYS: [&str; 3] = ["luks", "luks1", "luks2"];
/// Devices that give another key each time.
const RANDOM: [&str; 3] = ["/dev/urandom", "/dev/random", "/dev/hwrng"];

/// Why this line cannot become a volume; `None`: it can.
pub(super) fn unfit(line: &CrypttabLine) -> Option<String> {
    if line.key.as_deref().is_some_and(|key| RANDOM.contains(&key)) {
        return Some("has a new random key at each boot (swap or temporary files)".to_owned());
    }
    line.options.iter().find_map(|option| {
        let (key, _) = split(option);
        let what = match key {
            "keyscript" => "its key comes from a keyscript, and scripts are not supported",
            "swap" => "is swap of this host",
            "tmp" => "is for temporary files of this host",
            "plain" => "is plain dm-crypt without a LUKS header",
            "bitlk" => "is a BitLocker volume",
            key if key.starts_with("tcrypt") => "is a TrueCrypt or VeraCrypt volume",
            _ => return None,
        };
        Some(what.to_owned())
    })
}

/// Puts what a candidate's line says into its table, and notes what has no counterpart.
pub(super) fn apply(candidate: &mut Candidate<'_>) {
    let Some(line) = candidate.line else { return };
    let mut key = Key {
        path: key_file(line, &mut candidate.lost),
        offset: 0,
        size: None,
        token: false,
    };
    for option in &line.options {
        apply_option(candidate, option, &mut key);
    }
    if let Some(path) = key.path {
        // systemd-cryptsetup(8) asks for a passphrase where a key file does not do.
        let (offset, size) = (key.offset, key.size);
        candidate.volume.unlock = vec![Unlock::KeyFile { path, offset, size }, Unlock::Passphrase];
    }
    if key.token {
        candidate.volume.unlock.insert(0, Unlock::Token);
    }
}

struct Key {
    path: Option<PathBuf>,
    offset: u64,
    size: Option<usize>,
    /// A TPM, a stick or a card may open it.
    token: bool,
}

fn key_file(line: &CrypttabLine, lost: &mut Vec<String>) -> Option<PathBuf> {
    let Some(key) = &line.key else {
        return line.key_by_name.clone();
    };
    if !key.starts_with('/') {
        lost.push(format!("the key {key}: is no absolute path"));
        return None;
    }
    // crypttab(5): a path, a colon and the device that it is on.
    if let Some((path, device)) = key.split_once(':') {
        lost.push(format!(
            "the key file {path} on the device {device}: not supported; mount that device and name the whole path"
        ));
        return None;
    }
    Some(Path::new(key).to_owned())
}

fn split(option: &str) -> (&str, &str) {
    option.split_once('=').unwrap_or((option, ""))
}

fn apply_option(candidate: &mut Candidate<'_>, option: &str, key: &mut Key) {
    let (volume, (name, value)) = (&mut candidate.volume, split(option));
    let no_counterpart = || Some(format!("the option {option}: has no counterpart"));
    let number = value.parse::<u64>();
    let lost = match name {
        _ if ALWAYS.contains(&name) => None,
        "discard" => set(&mut volume.flags.discard),
        "read-only" | "readonly" => set(&mut volume.flags.read_only),
        "same-cpu-crypt" => set(&mut volume.flags.same_cpu_crypt),
        "submit-from-crypt-cpus" => set(&mut volume.flags.submit_from_crypt_cpus),
        "no-read-workqueue" => set(&mut volume.flags.no_read_workqueue),
        "no-write-workqueue" => set(&mut volume.flags.no_write_workqueue),
        "header" if value.starts_with('/') && !value.contains(':') => {
            volume.header = Some(value.into());
            None
        }
        "keyfile-offset" => match number {
            Ok(offset) => {
                key.offset = offset;
                None
            }
            Err(_) => no_counterpart(),
        },
        "keyfile-size" => match number.ok().and_then(|size| usize::try_from(size).ok()) {
            // 0 is the whole file.
            Some(size) => {
                key.size = (size > 0).then_some(size);
                None
            }
            None => no_counterpart(),
        },
        "tries" => match value.parse() {
            Ok(tries) => {
                volume.tries = tries;
                None
            }
            Err(_) => no_counterpart(),
        },
        "x-systemd.device-timeout" => match seconds(value) {
            Some(timeout) => {
                volume.device_timeout = timeout;
                None
            }
            None => no_counterpart(),
        },
        // systemd and Debian's cryptsetup-initramfs(7) have a word each.
        "x-initrd.attach" => set(&mut volume.initramfs),
        "initramfs" => {
            volume.initramfs = true;
            Some(
                "the option initramfs: is kept where dracut makes the initramfs; elsewhere it is asked for a little later"
                    .to_owned(),
            )
        }
        "noauto" => set(&mut volume.noauto),
        "nofail" => Some("the option nofail: is always so, a volume that is not opened never fails the boot".to_owned()),
        "timeout" => Some(format!(
            "the option {option}: a question stays open until it is answered; `hold-login` says how long logins wait"
        )),
        // The PIN may stand in it, so its value is not shown.
        "pkcs11-uri" | "tpm2-device" | "fido2-device" => {
            key.token = true;
            Some(format!(
                "the option {name}: \"token\" goes by what systemd-cryptenroll(1) puts into the header"
            ))
        }
        _ if name.starts_with("tpm2-") || name.starts_with("fido2-") => {
            Some(format!("the option {option}: the token in the header says that itself"))
        }
        _ => no_counterpart(),
    };
    candidate.lost.extend(lost);
}

fn set(flag: &mut bool) -> Option<String> {
    *flag = true;
    None
}

/// Keys that are written behind a `#`.
/// `90`, `90s` or `2min`; the rest of systemd.time(7) is rare here.
fn seconds(text: &str) -> Option<Duration> {
    let (digits, factor) = match text.strip_suffix("min") {
        Some(digits) => (digits, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    // A limit of a year and more is none.
    let count = digits.parse::<u32>().ok()?;
    (count < 1_000_000).then(|| Duration::from_secs(u64::from(count) * factor))
}
