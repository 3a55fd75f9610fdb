#!/bin/bash
# `cargo test` for what boots hosts: built by whoever calls this, run as root, because the image of a host is made by root.
set -euo pipefail
runner=()
[ "$(id -u)" = 0 ] || runner=(--config 'target."cfg(all())".runner = ["sudo", "-E"]')
exec cargo test --locked "${runner[@]}" "$@"
