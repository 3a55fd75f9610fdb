//! The whole of virt-unlock but its libvirt adapter, which belongs to the main program (`src/main.rs`), so that what is built
//! from this library alone runs before libvirt and without it.
//!
//! Floors, top to bottom; each uses only what is below it (checked by `tests/floors.rs`):
//! `verbs` > `report` > `engine` > `unlock` > `host` and `plan` > `graph` > `config`, and the ground: `cancel`, `facts`, `pace`, `private_file`, `secret`, `text`.

pub mod cancel;
pub mod cli;
pub mod config;
pub mod discover;
pub mod engine;
pub mod event;
pub mod facts;
pub mod graph;
pub mod host;
pub mod monitor;
pub mod pace;
pub mod plan;
pub mod private_file;
pub mod report;
pub mod secret;
pub mod text;
pub mod timeline;
pub mod unlock;
pub mod verbs;
