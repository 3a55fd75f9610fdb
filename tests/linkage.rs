//! The half that asks and opens runs before libvirt and without its library; only the whole program needs it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::{path::Path, process::Command};

const LIBVIRT: &str = "libvirt.so";

/// Every library that a program needs, its libraries' own included.
fn libraries(program: &str) -> String {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("libc.so"),
        "ldd {program}: {output:?}"
    );
    assert!(!text.contains("not found"), "{program} would not start:\n{text}");
    text
}

#[test]
fn the_half_that_opens_volumes_does_not_need_libvirt() {
    let needed = libraries(env!("CARGO_BIN_EXE_virt-unlock-volumes"));
    assert!(!needed.contains(LIBVIRT), "{needed}");
}

/// The counterpart, which shows that the test above would see it.
#[test]
fn the_whole_program_needs_libvirt_if_its_adapter_is_there() {
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/libvirt").is_dir();
    let needed = libraries(env!("CARGO_BIN_EXE_virt-unlock"));
    assert_eq!(needed.contains(LIBVIRT), adapter, "{needed}");
}
