//! Boots real hosts. Run with `cargo test --test boot`; see `tests/host`.

#[path = "../host/mod.rs"]
mod host;

mod by_hand;
mod harness;
