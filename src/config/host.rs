//! `[host]`

use toml::de::DeTable;

use super::types::HostConfig;
use super::value::Reader;

pub(super) const KEYS: [&str; 4] = ["libvirt-uri", "hold-login", "stop-timeout", "stop-deadline"];

/// Reads the table; what is wrong keeps its default.
pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>) -> HostConfig {
    let mut host = HostConfig::default();
    for entry in reader.entries(table) {
        let value = &entry.value;
        match entry.key {
            "libvirt-uri" => {
                let Some(uri) = reader.string(value) else { continue };
                if is_uri(&uri) {
                    host.libvirt_uri = uri;
                } else {
                    reader.refuse(value, "must be a libvirt address such as `qemu:///system`");
                }
            }
            "hold-login" => host.hold_login = reader.duration(value).unwrap_or(host.hold_login),
            "stop-timeout" => host.stop_timeout = reader.duration(value).unwrap_or(host.stop_timeout),
            "stop-deadline" => host.stop_deadline = reader.duration(value).unwrap_or(host.stop_deadline),
            _ => reader.unknown_key(&entry, "[host]", &KEYS),
        }
    }
    host
}

/// `driver[+transport]:…`, <https://libvirt.org/uri.html>
fn is_uri(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty()
            && !text.contains(char::is_whitespace)
    })
}
