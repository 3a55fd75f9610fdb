//! The whole program.

use std::process::ExitCode;

use virt_unlock::host::worker;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == worker::ARGUMENT) {
        return worker::main();
    }
    ExitCode::SUCCESS
}
