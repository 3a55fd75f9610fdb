//! libvirt's secrets. Ours are kept in its memory alone (`ephemeral`), and no client may read their values (`private`).

use std::ffi::CStr;

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::secret::Secret as Handle;
use virt::sys;
use virt_unlock::facts::{SecretFacts, SecretId};
use virt_unlock::host::HypervisorError;
use virt_unlock::secret::Secret;

use super::calls::Failure;
use super::{errors, unless};

/// The flag of `virConnectListAllSecrets` for those that are kept in memory alone, and that for the others.
const KINDS: [(bool, sys::virConnectListAllSecretsFlags); 2] = [
    (true, sys::VIR_CONNECT_LIST_SECRETS_EPHEMERAL),
    (false, sys::VIR_CONNECT_LIST_SECRETS_NO_EPHEMERAL),
];

/// All secrets.
pub fn list(connection: &Connect) -> Result<Vec<SecretFacts>, Error> {
    let mut secrets = Vec::new();
    for (ephemeral, flag) in KINDS {
        let found = match connection.list_all_secrets(flag) {
            Err(error) if errors::has_no_secrets(&error) => return Ok(Vec::new()),
            found => found?,
        };
        for secret in found {
            let is_of_disk = secret.usage_type()? == sys::VIR_SECRET_USAGE_TYPE_VOLUME;
            secrets.push(SecretFacts {
                uuid: secret.uuid_string()?,
                usage: if is_of_disk { Some(usage(&secret)?) } else { None },
                ephemeral,
            });
        }
    }
    Ok(secrets)
}

/// What uses it. The binding's `usage_id` frees the string, which is the secret's own and is freed again with that
/// (virSecretGetUsageID, libvirt src/libvirt-secret.c).
fn usage(secret: &Handle) -> Result<String, Error> {
    // SAFETY: the pointer is that of a secret that lives until the end of this block.
    let usage = unsafe { sys::virSecretGetUsageID(secret.as_ptr()) };
    if usage.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: a string that ends with a zero byte, as long as the secret lives.
    Ok(unsafe { CStr::from_ptr(usage) }.to_string_lossy().into_owned())
}

/// Sets its value, and makes it first where it is not there.
pub fn set(connection: &Connect, id: &SecretId, value: &Secret) -> Result<(), Failure> {
    let secret = match find(connection, id)? {
        Some(found) if is_ephemeral(connection, &found)? => private(connection, found)?,
        Some(_) => {
            let words = format!(
                "libvirt keeps the secret {id} on this host's disk, and would write the passphrase there: `virsh secret-undefine` it, \
                 and it is made anew, in memory alone"
            );
            return Err(HypervisorError::Refused(words).into());
        }
        None => connection.define_secret_xml(&definition(id), 0)?,
    };
    Ok(wiping(|| secret.set_value(value.expose(), 0))?)
}

/// Does `work`, and has the C library overwrite the memory that is freed meanwhile: libvirt's library puts a copy of the value into
/// the message to its daemon, and frees that as it is.
fn wiping<R>(work: impl FnOnce() -> R) -> R {
    overwrite_freed(0xff);
    let result = work();
    overwrite_freed(0);
    result
}

/// `0`: no more.
fn overwrite_freed(with: i32) {
    // SAFETY: it changes a number of the allocator's, and touches no memory that is in use. Where it is refused nothing is overwritten.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_PERTURB, with);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = with;
}

/// Undefines it, where it is kept in memory alone.
pub fn forget(connection: &Connect, id: &SecretId) -> Result<(), Failure> {
    let Some(secret) = find(connection, id)? else { return Ok(()) };
    if is_ephemeral(connection, &secret)? {
        unless(ErrorNumber::NoSecret, secret.undefine())?;
    }
    Ok(())
}

fn find(connection: &Connect, id: &SecretId) -> Result<Option<Handle>, Error> {
    let found = match id {
        SecretId::Uuid(uuid) => connection.lookup_secret_by_uuid_string(uuid),
        SecretId::Usage(usage) => {
            // libvirt has a handful of these.
            let usage_type = i32::try_from(sys::VIR_SECRET_USAGE_TYPE_VOLUME).unwrap_or_default();
            connection.lookup_secret_by_usage(usage_type, usage)
        }
    };
    unless(ErrorNumber::NoSecret, found)
}

fn is_ephemeral(connection: &Connect, secret: &Handle) -> Result<bool, Error> {
    let uuid = secret.uuid_string()?;
    for other in connection.list_all_secrets(sys::VIR_CONNECT_LIST_SECRETS_EPHEMERAL)? {
        if other.uuid_string()? == uuid {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whoever defined it: nobody is to read what we set.
fn private(connection: &Connect, secret: Handle) -> Result<Handle, Error> {
    match without_readers(&secret.xml_desc(0)?) {
        Some(definition) => connection.define_secret_xml(&definition, 0),
        None => Ok(secret),
    }
}

/// The definition as libvirt writes it, but private; `None`: it is already.
fn without_readers(definition: &str) -> Option<String> {
    let (open, close) = ("private='no'", "private='yes'");
    let root = definition.find('>')?;
    definition[..root].contains(open).then(|| definition.replacen(open, close, 1))
}

fn definition(id: &SecretId) -> String {
    let named = match id {
        SecretId::Uuid(uuid) => format!("<uuid>{}</uuid>", escaped(uuid)),
        SecretId::Usage(usage) => format!("<usage type='volume'><volume>{}</volume></usage>", escaped(usage)),
    };
    format!("<secret ephemeral='yes' private='yes'><description>set by virt-unlock</description>{named}</secret>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_xml_whatever_the_usage_is() {
        let usage = definition(&SecretId::of("/srv/<a> & b.qcow2"));
        assert!(
            usage.contains("<volume>/srv/&lt;a&gt; &amp; b.qcow2</volume></usage></secret>"),
            "{usage}"
        );
        let uuid = definition(&SecretId::of("5F1C2A7E8A534D0E9F0D0B1C2D3E4F50"));
        assert!(uuid.contains("<uuid>5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50</uuid>"), "{uuid}");
        assert!(uuid.starts_with("<secret ephemeral='yes' private='yes'>"), "{uuid}");
    }

    #[test]
    fn a_secret_that_can_be_read_becomes_private_and_stays_what_it_is() {
        let open =
            "<secret ephemeral='yes' private='no'>\n  <uuid>5f1c</uuid>\n  <description>private='no'</description>\n</secret>";
        let closed = without_readers(open).unwrap();
        assert_eq!(
            closed,
            "<secret ephemeral='yes' private='yes'>\n  <uuid>5f1c</uuid>\n  <description>private='no'</description>\n</secret>"
        );
        assert_eq!(without_readers(&closed), None);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_freed_while_a_value_is_sent_is_overwritten() {
        // As libvirt's library allocates a message (`VIR_NET_MESSAGE_INITIAL`).
        const LENGTH: usize = 65536;
        let (value, mut left) = (b"a passphrase that is sent", vec![0; LENGTH]);
        let at = wiping(|| {
            let mut message = vec![0_u8; LENGTH];
            message[1000..1000 + value.len()].copy_from_slice(value);
            message.as_ptr() as u64
        });
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        // What was given back to the kernel cannot be read.
        let read = std::os::unix::fs::FileExt::read_at(&memory, &mut left, at).unwrap_or_default();
        assert!(!left[..read].windows(value.len()).any(|window| window == value));
    }

    /// libvirt's test driver has none at all.
    #[test]
    fn a_driver_without_secrets_has_none_and_refuses_them() {
        let connection = Connect::open(Some("test:///default")).unwrap();
        assert_eq!(list(&connection).unwrap(), []);
        let set = set(&connection, &SecretId::of("disk"), &Secret::copy_of(b"x"));
        assert!(matches!(set, Err(Failure::Libvirt(error)) if error.code().is(ErrorNumber::NoSupport)));
    }
}
