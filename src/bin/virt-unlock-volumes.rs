//! The half that asks, opens, mounts and closes. It runs before libvirt is up, and without its library.

use std::process::ExitCode;

use clap::Parser;
use virt_unlock::cli::Cli;
use virt_unlock::verbs;

fn main() -> ExitCode {
    if verbs::is_worker() {
        return verbs::worker();
    }
    verbs::run(&Cli::parse(), None)
}
