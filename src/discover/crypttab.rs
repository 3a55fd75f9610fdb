//! From a line of crypttab(5) to the keys of a volume.

use std::time::Duration;

use super::candidate::Candidate;
use crate::config::{KeyFile, Unlock, parse_filesystem};
use crate::facts::survey::CrypttabLine;

/// Options that say what is so in any case.
const ALWAYS: [&str; 3] = ["luks", "luks1", "luks2"];
/// Devices that give another key each time.
const RANDOM: [&str; 3] = ["/dev/urandom", "/dev/random", "/dev/hwrng"];
/// Options by which a TPM, a stick or a card opens it.
const TOKENS: [&str; 3] = ["pkcs11-uri", "tpm2-device", "fido2-device"];

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
    let mut key = key_file(line, &mut candidate.lost);
    for option in &line.options {
        apply_option(candidate, option, key.as_mut());
    }
    // systemd-cryptsetup(8) asks for a passphrase where these do not do.
    let by_token = line.options.iter().any(|option| TOKENS.contains(&split(option).0));
    let unlock = &mut candidate.volume.unlock;
    unlock.clear();
    unlock.extend(by_token.then_some(Unlock::Token));
    unlock.extend(key.map(Unlock::KeyFile));
    unlock.push(Unlock::Passphrase);
}

fn key_file(line: &CrypttabLine, lost: &mut Vec<String>) -> Option<KeyFile> {
    let Some(key) = &line.key else {
        return line.key_by_name.as_ref().map(KeyFile::new);
    };
    if !key.starts_with('/') {
        lost.push(format!("the key {key}: is no absolute path"));
        return None;
    }
    // crypttab(5): a path, a colon and the device that it is on.
    let Some((path, device)) = key.split_once(':') else {
        return Some(KeyFile::new(key));
    };
    match parse_filesystem(device) {
        Ok(device) => Some(KeyFile {
            device: Some(device),
            timeout: KeyFile::default_timeout(true),
            ..KeyFile::new(path)
        }),
        Err(words) => {
            lost.push(format!("the key file {path} on the device {device}: this {words}"));
            None
        }
    }
}

fn split(option: &str) -> (&str, &str) {
    option.split_once('=').unwrap_or((option, ""))
}

fn apply_option(candidate: &mut Candidate<'_>, option: &str, key: Option<&mut KeyFile>) {
    let (volume, (name, value)) = (&mut candidate.volume, split(option));
    let no_counterpart = || Some(format!("the option {option}: has no counterpart"));
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
        _ if name.starts_with("keyfile-") => match key {
            Some(key) => of_key(key, name, value).err().and_then(|()| no_counterpart()),
            // Without a key file it says nothing.
            None => None,
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
        _ if TOKENS.contains(&name) => Some(format!(
            "the option {name}: \"token\" goes by what systemd-cryptenroll(1) puts into the header"
        )),
        _ if name.starts_with("tpm2-") || name.starts_with("fido2-") => {
            Some(format!("the option {option}: the token in the header says that itself"))
        }
        _ => no_counterpart(),
    };
    candidate.lost.extend(lost);
}

/// An option of a key file; an error if it has no counterpart.
fn of_key(key: &mut KeyFile, name: &str, value: &str) -> Result<(), ()> {
    match name {
        "keyfile-offset" => key.offset = value.parse().map_err(drop)?,
        "keyfile-size" => {
            let size: usize = value.parse().map_err(drop)?;
            // 0 is the whole file.
            key.size = (size > 0).then_some(size);
        }
        "keyfile-timeout" => key.timeout = seconds(value).ok_or(())?,
        // `keyfile-erase` too: a key file is left where it is.
        _ => return Err(()),
    }
    Ok(())
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
