//! `[domain.NAME]`

use toml::de::{DeTable, DeValue};

use super::names;
use super::problem::{header, quoted};
use super::types::{DomainConfig, OnStopTimeout, Ready, Start, Stop};
use super::value::{Entry, Located, Reader, Value};

pub(super) const KEYS: [&str; 8] = [
    "start",
    "after",
    "volumes",
    "ready",
    "ready-timeout",
    "stop",
    "stop-timeout",
    "on-stop-timeout",
];

/// A domain's table with the places that the checks between tables need.
#[derive(Debug)]
pub(super) struct DomainTable {
    pub(super) domain: DomainConfig,
    /// Its `after`, entry by entry.
    pub(super) after: Vec<Located<String>>,
    /// Its `volumes`, entry by entry.
    pub(super) volumes: Vec<Located<String>>,
}

/// Reads the table; what is wrong keeps its default.
pub(super) fn read(reader: &mut Reader<'_>, entry: &Entry<'_>, table: &DeTable<'_>) -> DomainTable {
    if let Err(words) = names::check_domain(entry.key) {
        reader.complaints.at(&entry.key_place, words);
    }
    let title = header("domain", entry.key);
    let mut read = DomainTable {
        domain: DomainConfig::new(entry.key),
        after: Vec::new(),
        volumes: Vec::new(),
    };
    for entry in reader.entries(table) {
        let value = &entry.value;
        let domain = &mut read.domain;
        match entry.key {
            "start" => domain.start = read_start(reader, value).unwrap_or(domain.start),
            "after" => {
                read.after = reader.strings(value);
                domain.after = read.after.iter().map(|after| after.value.clone()).collect();
            }
            "volumes" => {
                read.volumes = reader.strings(value);
                domain.volumes = Some(read.volumes.iter().map(|volume| volume.value.clone()).collect());
            }
            "ready" => domain.ready = read_ready(reader, value).unwrap_or(Ready::Running),
            "ready-timeout" => domain.ready_timeout = reader.duration(value).unwrap_or(domain.ready_timeout),
            "stop" => {
                domain.stop = match reader.word(value, &["shutdown", "save"]) {
                    Some(1) => Stop::Save,
                    _ => Stop::Shutdown,
                }
            }
            "stop-timeout" => domain.stop_timeout = reader.duration(value),
            "on-stop-timeout" => {
                domain.on_stop_timeout = match reader.word(value, &["destroy", "wait"]) {
                    Some(1) => OnStopTimeout::Wait,
                    _ => OnStopTimeout::Destroy,
                }
            }
            _ => reader.unknown_key(&entry, &title, &KEYS),
        }
    }
    read
}

fn read_start(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Start> {
    match value.inner {
        DeValue::Boolean(true) => Some(Start::Always),
        DeValue::Boolean(false) => Some(Start::Never),
        DeValue::String(text) if text == "autostart" => Some(Start::Autostart),
        DeValue::String(text) if text == "true" || text == "false" => {
            reader.refuse(value, format_args!("must be {text} without quotes"));
            None
        }
        DeValue::String(text) => {
            let written = quoted(text);
            reader.refuse(
                value,
                format_args!("must be true, false or \"autostart\", but this is {written}"),
            );
            None
        }
        _ => {
            reader.wrong_type(value, "true, false or \"autostart\"");
            None
        }
    }
}

/// What `ready` may be, in words.
const READY: &str = "\"running\", \"agent\", { tcp = \"HOST:PORT\" } or { delay = \"20s\" }";

fn read_ready(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Ready> {
    let DeValue::Table(table) = value.inner else {
        if !value.inner.is_str() {
            reader.wrong_type(value, READY);
            return None;
        }
        return match reader.word(value, &["running", "agent"])? {
            0 => Some(Ready::Running),
            _ => Some(Ready::Agent),
        };
    };
    let entries = reader.entries(table);
    let [entry] = entries.as_slice() else {
        reader.refuse(value, format_args!("must be {READY}"));
        return None;
    };
    match entry.key {
        "delay" => reader.duration(&entry.value).map(Ready::Delay),
        "tcp" => read_tcp(reader, &entry.value),
        _ => {
            reader.unknown_key(entry, "`ready`", &["tcp", "delay"]);
            None
        }
    }
}

/// `HOST:PORT`; an IPv6 address stands in brackets.
fn read_tcp(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Ready> {
    let text = reader.string(value)?;
    let read = text.rsplit_once(':').and_then(|(host, port)| {
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let is_name = !host.is_empty() && !host.contains(|letter: char| letter.is_whitespace() || "[]/".contains(letter));
        let host = host.to_owned();
        is_name.then_some(Ready::Tcp { host, port })
    });
    if read.is_none() {
        let written = quoted(&text);
        reader.refuse(
            value,
            format_args!("must be \"HOST:PORT\" (an IPv6 address in brackets), but this is {written}"),
        );
    }
    read
}
