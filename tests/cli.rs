//! The real programs as a person and a script use them. libvirt's own test driver answers; each run has a /run of its own, so that
//! the host's is not touched and what a run leaves there is seen.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/console.rs"]
mod console;
#[path = "cli/discover.rs"]
mod discover;
#[path = "cli/emergency.rs"]
mod emergency;
#[path = "cli/hook.rs"]
mod hook;
#[path = "cli/hostile.rs"]
mod hostile;
#[path = "cli/masters.rs"]
mod masters;
#[path = "cli/mistakes.rs"]
mod mistakes;
#[path = "cli/program.rs"]
mod program;
#[path = "cli/together.rs"]
mod together;
