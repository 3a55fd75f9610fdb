//! Laws of the graph and the plan that hold for every configuration, and of whole runs on generated hosts.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests too

#[path = "../fake_host/mod.rs"]
mod fake_host;
mod generate;
mod masters;
mod noauto;
mod pure;
mod runs;
mod ways;
