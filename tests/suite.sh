#!/bin/bash
# Runs the checks named by its arguments, in their order; each gets a heading and its time. The Makefile calls it.
#   lint      formatting and clippy                  quick   every test that boots nothing
#   licences  what the program is made of            stage   the release build, installed below target/stage
#   packages  a deb and an rpm, and what is in them  boot      tests on booted hosts (minutes)
#   hosts     the same on the other kinds of host (more minutes)
# It ends with the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/target/tools
deny_version=0.20.2
advisories=https://github.com/rustsec/advisory-db
times=()

step() { # HEADING COMMAND...
    local heading=$1 begun=$SECONDS
    shift
    printf '\n==== %s\n' "$heading"
    # Not in a condition: `set -e` must end a step at its first failure.
    "$@"
    times+=("$(printf '%4d s  %s' $((SECONDS - begun)) "$heading")")
}
ended() {
    local status=$?
    [ "$status" = 0 ] || printf '\nFailed (exit status %d) after %d s, in the step above\n' "$status" "$SECONDS"
}
trap ended EXIT

# rustup's minimal profile leaves these two out.
component() { # NAME
    cargo "$1" --version >/dev/null 2>&1 || rustup component add "rust$1" 2>/dev/null || rustup component add "$1"
}
formatting() { component fmt && cargo fmt --check; }
# The tests that boot are no part of all targets, as a bare `cargo test` leaves them out.
clippy() { component clippy && cargo clippy --locked --all-targets -- -D warnings && cargo clippy --locked --test boot --test demo --test bench -- -D warnings; }
quick() { cargo test --locked; }

# Built without optimisation, once: one minute on two cores.
deny_tool() {
    [ "$("$tools/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $deny_version" ] ||
        CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --debug --root "$tools" "cargo-deny@$deny_version"
    rm -rf "$tools/build"
}
licences() {
    deny_tool
    # What other systems would need is looked at too, and has to be there.
    cargo fetch --locked --quiet
    "$tools/bin/cargo-deny" --offline check --hide-inclusion-graph licenses bans sources
    if command -v git >/dev/null && timeout 20 git ls-remote --exit-code --quiet "$advisories" HEAD >/dev/null 2>&1; then
        "$tools/bin/cargo-deny" check --hide-inclusion-graph advisories
    else
        echo "advisories not checked: $advisories cannot be reached from here"
    fi
}

packages() { packaging/build.sh deb && packaging/build.sh rpm && tests/packages.sh; }

# As many hosts at once as there is room for: each has 1.5 GiB and two processors. Two that share them are each four times slower
# than one that has them, and come near the tests' limits.
hosts_at_once() {
    local room=$(($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) / 2000000)) pairs=$(($(nproc) / 2))
    local count=$((room < pairs ? room : pairs))
    echo $((count > 1 ? count : 1))
}
# A limit ends a test that fails, and costs one that passes nothing: they are wide, for a machine may be slow.
boot() { HOST_PATIENCE=${HOST_PATIENCE:-3} tests/host/cargo-test.sh --test boot -- --test-threads="${HOSTS:-$(hosts_at_once)}" "$@"; }
# Tests that choose their host themselves need to be run only once.
on_host() { HOST_SUITE=$1 HOST_DAEMONS=$2 boot --include-ignored --skip distributions:: --skip package::; }

for part; do
    case $part in
    lint)
        step "formatting" formatting
        step "clippy" clippy
        ;;
    quick) step "tests that boot nothing" quick ;;
    licences) step "licences, sources, advisories" licences ;;
    stage) step "release build, installed below target/stage" "${MAKE:-make}" --no-print-directory stage ;;
    packages) step "packages" packages ;;
    boot)
        # Here, so that the tests' own last lines are the last ones.
        printf '%s\n' "" "${times[@]}"
        step "tests on booted hosts" boot
        ;;
    hosts)
        step "tests on booted hosts that take long" boot --ignored
        step "tests on booted hosts: Debian 12" on_host bookworm monolithic
        step "tests on booted hosts: Debian 13, modular daemons of libvirt" on_host trixie modular
        ;;
    *) echo "suite.sh: no part $part" >&2 && exit 2 ;;
    esac
done
printf '\nAll of it held, in %d s\n' "$SECONDS"
