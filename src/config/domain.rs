//! `[domain.NAME]`

use toml::de::{DeTable, DeValue};

use super::names;
use super::problem::{Place, header, quoted};
use super::types::{DomainConfig, OnStopTimeout, Start};
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
    /// Where its name stands.
    pub(super) name: Place,
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
        name: entry.key_place.clone(),
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
            "ready" => check_ready(reader, value),
            "ready-timeout" => domain.ready_timeout = reader.duration(value).unwrap_or(domain.ready_timeout),
            "stop" => {
                reader.word(value, &["shutdown"], &["save"]);
            }
            "stop-timeout" => domain.stop_timeout = reader.duration(value),
            "on-stop-timeout" => {
                domain.on_stop_timeout = match reader.word(value, &["destroy", "wait"], &[]) {
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

/// Only `"running"` is there yet, and it is what happens anyway.
fn check_ready(reader: &mut Reader<'_>, value: &Value<'_>) {
    let DeValue::Table(table) = value.inner else {
        if value.inner.is_str() {
            reader.word(value, &["running"], &["agent"]);
        } else {
            reader.wrong_type(value, "\"running\"");
        }
        return;
    };
    match reader
        .entries(table)
        .iter()
        .find(|entry| matches!(entry.key, "tcp" | "delay"))
    {
        Some(later) => {
            let written = format!("`{{ {} = … }}`", later.key);
            reader.not_yet(value, &written);
        }
        None => reader.wrong_type(value, "\"running\""),
    }
}
