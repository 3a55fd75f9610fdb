//! Boots real hosts. Run with `cargo test --test boot`; see `tests/host`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../host/mod.rs"]
mod host;

mod answers;
mod attack;
mod beside;
mod by_hand;
mod discover;
mod distributions;
mod emergency;
mod ends;
mod faults;
mod harness;
mod initramfs;
mod interrupted;
mod masters;
mod named;
mod package;
mod product;
mod ready;
mod sandbox;
mod secrets;
mod stubborn;
mod ways;
mod whole_way;
