//! Walks a plan, both ways: independent branches side by side, a failure kept inside its own branch, and an end at any point
//! when it is cancelled. [`walk`] knows the order and nothing of the machine; [`up`] and [`down`] do one layer each.

mod busy;
pub mod down;
mod emergency;
mod ready;
mod save;
mod secret;
mod share;
mod start;
mod stop;
pub mod up;
mod walk;

pub use emergency::down_at_once;
pub use save::clear_disk;
pub use walk::{Hands, Summary, walk};
