#!/bin/bash
# Installs what is missing of the Debian packages for some parts of the work: setup.sh build|test|boot|deb|rpm|packages...
#   build   to compile the program         test   for the tests that boot nothing         boot   for tests and demo on booted hosts
#   deb     to pack it for Debian          rpm    to pack it for others                   packages   to pack it and check the packages
# Debian 12 or 13. Asks apt only when something is missing; uses sudo when it is not root.
set -euo pipefail
cd "$(dirname "$0")"

build=(gcc libc6-dev pkg-config clang libclang-dev libcryptsetup-dev libvirt-dev libblkid-dev)
test=(binutils cryptsetup-bin qemu-utils systemd make mandoc man-db bash-completion zsh fish)
mapfile -t boot <host/packages
deb=(debhelper dpkg-dev)
rpm=(rpm)
packages=("${deb[@]}" "${rpm[@]}" busybox-static lintian rpmlint)

wanted=()
for part; do
    declare -n of_part=$part
    wanted+=("${of_part[@]}")
done
missing=()
for package in "${wanted[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed* ]] || missing+=("$package")
done
if ! command -v cargo >/dev/null; then
    echo "cargo was not found: install Rust first, by https://rustup.rs (Debian's own is too old)." >&2
    exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo)
    command -v sudo >/dev/null || { echo "These packages are missing, and only root may install them: ${missing[*]}" >&2; exit 1; }
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@"; }
echo "Installing with apt: ${missing[*]}"
apt update
# Where qemu-utils came from backports, the emulator of the release itself fits only the release's own.
. /etc/os-release
apt install --no-install-recommends "${missing[@]}" ||
    apt install --no-install-recommends --allow-downgrades "${missing[@]}" "qemu-utils/$VERSION_CODENAME"
