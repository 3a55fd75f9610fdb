//! Boots real hosts. Run with `cargo test --test boot`; see `tests/host`.

#[path = "../host/mod.rs"]
mod host;

mod answers;
mod beside;
mod by_hand;
mod discover;
mod distributions;
mod harness;
mod initramfs;
mod interrupted;
mod named;
mod package;
mod product;
mod stubborn;
mod whole_way;
