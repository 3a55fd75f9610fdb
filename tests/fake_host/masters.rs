//! Masters and the volumes that they open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use virt_unlock::config::{Config, Master, Unlock};
use virt_unlock::host::{Header, Key, Keyslot, MasterToken, OpenError};
use virt_unlock::secret::Secret;
use virt_unlock::unlock::derived::derive;

use super::FakeHost;
use super::run::edit;
use super::world::World;

/// Where the tests' configuration has the headers of masters.
const FOLDER: &str = "/etc/virt-unlock/masters";

/// A LUKS header file without data.
pub struct FakeMaster {
    /// What opens it.
    pub keys: Vec<Vec<u8>>,
    /// Its volume key.
    pub secret: Vec<u8>,
    /// Its header.
    pub header: Result<Header, OpenError>,
}

fn header_of(master: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{master}.luks"))
}

/// What the fake person is asked for at this path: a volume by its name, or `master NAME`.
pub(super) fn asked_at(path: &Path) -> String {
    match path.strip_prefix(FOLDER) {
        Ok(file) => format!("master {}", file.file_stem().unwrap().to_str().unwrap()),
        Err(_) => super::devices::volume_at(path),
    }
}

/// Has the volume opened by a master first and its own passphrase second; the master's table is added where it is not there.
pub fn by_master(config: &mut Config, volume: &str, master: &str) {
    edit(config, volume).unlock = vec![Unlock::Master { name: master.to_owned() }, Unlock::Passphrase];
    if config.master(master).is_none() {
        config.masters.push(Master::new(master, header_of(master)));
    }
}

impl FakeHost {
    /// A master that `passphrase` opens.
    pub fn master(&self, name: &str, passphrase: &str) -> &Self {
        self.set(|world| {
            let master = FakeMaster {
                keys: vec![passphrase.as_bytes().to_vec()],
                secret: format!("volume key of {name}").into_bytes(),
                header: Ok(Header {
                    version: 2,
                    uuid: format!("uuid-of-master-{name}"),
                    keyslots: vec![Keyslot {
                        number: 0,
                        kdf: "argon2id".to_owned(),
                        memory_kib: 1 << 20,
                        cost: 4,
                        threads: 2,
                    }],
                    ..Header::default()
                }),
            };
            world.masters.insert(name.to_owned(), master);
        })
    }

    /// Gives a volume a keyslot that the master opens, and the token that says so.
    pub fn enroll(&self, volume: &str, master: &str) -> &Self {
        self.set(|world| {
            let secret = Secret::copy_of(&world.masters[master].secret);
            let found = world.volumes.get_mut(volume).unwrap();
            let header = found.header.as_mut().unwrap();
            let number = u32::try_from(header.keyslots.len()).unwrap();
            header.keyslots.push(Keyslot {
                number,
                kdf: "pbkdf2".to_owned(),
                memory_kib: 0,
                cost: 1000,
                threads: 0,
            });
            header.tokens.push(MasterToken {
                number: u32::try_from(header.tokens.len()).unwrap(),
                version: 1,
                master: format!("uuid-of-master-{master}"),
                keyslot: Some(number),
            });
            let key = derive(&secret, &header.uuid).expose().to_vec();
            found.derived.insert(number, key);
        })
    }
}

impl World {
    /// What the master's key is, where this key opens it.
    pub(super) fn open_master(&mut self, name: &str, key: &Key) -> Result<Secret, OpenError> {
        let bytes = self.bytes_of(&format!("master {name}"), key)?;
        let Some(master) = self.masters.get(name) else {
            return Err(no_file(name));
        };
        master.header.as_ref().map_err(Clone::clone)?;
        if !matches!(key, Key::Token { .. }) && !master.keys.contains(&bytes) {
            return Err(OpenError::WrongKey);
        }
        Ok(Secret::copy_of(&master.secret))
    }

    pub(super) fn master_header(&self, name: &str) -> Result<Header, OpenError> {
        self.masters
            .get(name)
            .map_or_else(|| Err(no_file(name)), |master| master.header.clone())
    }

    /// What a key for a volume, or for `master NAME`, is made of; nothing is to be seen of what a token gives.
    pub(super) fn bytes_of(&mut self, what: &str, key: &Key) -> Result<Vec<u8>, OpenError> {
        match key {
            Key::Passphrase(secret) | Key::Derived { key: secret, .. } => Ok(secret.expose().to_vec()),
            Key::Token { token, pin } => self.ask_tokens(what, *token, pin.as_ref()).map(|()| Vec::new()),
            Key::File { file, device } => {
                let files = match device {
                    Some(device) => self.sticks.get(device),
                    None => Some(&self.files),
                };
                let bytes = files.and_then(|files| files.get(&file.path)).cloned();
                bytes.ok_or_else(|| OpenError::KeyFile("No such file or directory".to_owned()))
            }
            Key::Credential { name } => match self.credentials.get(name) {
                Some(bytes) => Ok(bytes.clone()),
                None => Err(OpenError::NoKey("its unit has no credential of this name".to_owned())),
            },
        }
    }
}

fn no_file(master: &str) -> OpenError {
    OpenError::Header(format!("{}: No such file or directory", header_of(master).display()))
}

/// What deriving with this key takes, in bytes: of the keyslots that are tried, the costliest.
pub(super) fn memory_of(header: &Result<Header, OpenError>, key: &Key) -> u64 {
    let tried = |slot: &&Keyslot| match key {
        Key::Derived { keyslot, .. } => *keyslot == slot.number,
        Key::Token { .. } => super::tokens::is_of_token(slot),
        _ => true,
    };
    let slots = header.iter().flat_map(|header| &header.keyslots);
    slots.filter(tried).map(|slot| slot.memory_kib << 10).max().unwrap_or(0)
}

/// Keys that are derived from masters, by keyslot.
pub type Derived = BTreeMap<u32, Vec<u8>>;
