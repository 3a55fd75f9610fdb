//! The whole program: the verbs, with libvirt.

mod libvirt;

use std::process::ExitCode;

use clap::Parser;
use virt_unlock::cli::Cli;
use virt_unlock::verbs;

fn main() -> ExitCode {
    if verbs::is_worker() {
        return verbs::worker();
    }
    verbs::run(&Cli::parse(), Some(|uri| std::sync::Arc::new(libvirt::Libvirt::new(uri))))
}
