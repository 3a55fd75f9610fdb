//! `[secret.NAME]`

use std::path::PathBuf;

use toml::de::DeTable;

use super::problem::{Place, header};
use super::types::{Config, Unlock};
use super::value::{Entry, Located, Reader};
use super::{names, unlock};
use crate::facts::SecretId;

/// `[secret.NAME]`: a secret of libvirt's, the passphrase of disks that QEMU decrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretConfig {
    /// Its name, as it is written.
    pub name: String,
    /// What libvirt knows it by.
    pub id: SecretId,
    /// Ways to its value, tried in order; never empty, and none is a master or a token.
    pub unlock: Vec<Unlock>,
    /// Secrets and volumes of one group share a passphrase.
    pub passphrase_group: Option<String>,
    /// Wrong answers before the secret is given up. Zero: for ever.
    pub tries: u32,
}

impl SecretConfig {
    /// A secret with the defaults of the configuration: asked for by passphrase.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: SecretId::of(name),
            unlock: vec![Unlock::Passphrase],
            passphrase_group: None,
            tries: 3,
        }
    }
}

impl Config {
    /// The secret of this name.
    pub fn secret(&self, name: &str) -> Option<&SecretConfig> {
        self.secrets.iter().find(|secret| secret.name == name)
    }

    /// The table of a secret that a domain's XML refers to.
    pub fn secret_of(&self, id: &SecretId) -> Option<&SecretConfig> {
        self.secrets.iter().find(|secret| secret.id == *id)
    }
}

pub(super) const KEYS: [&str; 3] = ["unlock", "passphrase-group", "tries"];

/// A secret's table with the places that the checks between tables need.
#[derive(Debug)]
pub(super) struct SecretTable {
    pub(super) secret: SecretConfig,
    /// Where its name stands.
    pub(super) name: Place,
    /// Its key files.
    pub(super) files: Vec<(&'static str, Located<PathBuf>)>,
}

/// Reads the table.
pub(super) fn read(reader: &mut Reader<'_>, entry: &Entry<'_>, table: &DeTable<'_>) -> SecretTable {
    if let Err(words) = names::check_secret(entry.key) {
        reader.complaints.at(&entry.key_place, words);
    }
    let title = header("secret", entry.key);
    let mut read = SecretTable {
        secret: SecretConfig::new(entry.key),
        name: entry.key_place.clone(),
        files: Vec::new(),
    };
    let entries = reader.entries(table);
    for entry in &entries {
        let value = &entry.value;
        match entry.key {
            "unlock" => {
                let Some(ways) = unlock::read(reader, value) else { continue };
                for way in &ways {
                    let what = match &way.value {
                        Unlock::Master { .. } => "master",
                        Unlock::Token => "token",
                        Unlock::KeyFile(file) if file.device.is_some() => {
                            let message = "a secret cannot come from a stick: who asks for it at boot, virt-unlock-guests.service, may mount \
                                           nothing; leave `key-file-device` out, or use a credential";
                            reader.complaints.at(&way.place, message);
                            continue;
                        }
                        _ => continue,
                    };
                    let message = format!(
                        "a secret cannot come from a {what}: QEMU's disks have LUKS1 headers, without a place for one; use \
                         \"passphrase\", a key file or a credential"
                    );
                    reader.complaints.at(&way.place, message);
                }
                read.files.extend(unlock::key_files(&ways));
                read.secret.unlock = ways.into_iter().map(|way| way.value).collect();
            }
            "passphrase-group" => read.secret.passphrase_group = reader.string(value),
            "tries" => read.secret.tries = reader.tries(value).unwrap_or(read.secret.tries),
            _ => reader.unknown_key(entry, &title, &KEYS),
        }
    }
    let group = entries.iter().find(|entry| entry.key == "passphrase-group");
    if let Some(group) = group.filter(|_| !read.secret.unlock.contains(&Unlock::Passphrase)) {
        let message = format!("`passphrase-group` in {title} has no use: \"passphrase\" is not among its ways to `unlock`");
        reader.complaints.at(&group.key_place, message);
    }
    read
}
