//! Whole runs, up and down, on a host in memory: what bad input and faults get, as far as the engine decides it.

#[path = "../fake_host/mod.rs"]
mod fake_host;

mod at_once;
mod interrupted;
mod key_files;
mod kinds;
mod masters;
mod opening;
mod questions;
mod ready;
mod saving;
mod secrets;
mod starting;
mod stopping;
mod ways;
