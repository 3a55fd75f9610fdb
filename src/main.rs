//! The whole program: the verbs, with libvirt, and the manual.

mod libvirt;
mod manual;

use std::process::ExitCode;

use clap::Parser;
use virt_unlock::cli::Cli;
use virt_unlock::verbs;

fn main() -> ExitCode {
    if verbs::is_worker() {
        return verbs::worker();
    }
    let connect: verbs::Connect = |uri| std::sync::Arc::new(libvirt::Libvirt::new(uri));
    manual::run(connect).unwrap_or_else(|| verbs::run(&Cli::parse(), Some(&verbs::Whole::new(connect))))
}
