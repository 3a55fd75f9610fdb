//! The half that asks, opens, mounts and closes.
fn main() {}
