//! The whole program: the verbs, with libvirt.

mod libvirt;

use std::process::ExitCode;

use virt_unlock::host::worker;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == worker::ARGUMENT) {
        return worker::main();
    }
    // The verbs come with the adapter in place.
    let _ = libvirt::Libvirt::new("qemu:///system");
    ExitCode::FAILURE
}
