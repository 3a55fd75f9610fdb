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

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true) == installed* ]]; }
. /etc/os-release
missing=()
backports=()
for part; do
    declare -n of_part=$part
    for package in "${of_part[@]}"; do
        installed "$package" || missing+=("$package")
    done
done
# Before 8.1 QEMU now and then runs a breakpoint that an emulated kernel took back long ago, and that kernel dies of it ("Oops: int3";
# mended by QEMU's commit deba78709a). Debian 12 has a newer one in its backports. One that libvirt's guests may run on is left alone.
if [[ " $* " == *" boot "* && ${VERSION_CODENAME:-} == bookworm ]] && ! installed libvirt-daemon &&
    { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; } &&
    { ! installed qemu-system-x86 || dpkg --compare-versions "$(dpkg-query -W -f '${Version}' qemu-system-x86)" lt 1:8.1; }; then
    backports=({qemu-system-x86,qemu-utils}/bookworm-backports)
fi
if ! command -v cargo >/dev/null; then
    echo "cargo was not found: install Rust first, by https://rustup.rs (Debian's own is too old)." >&2
    exit 1
fi
[ $((${#missing[@]} + ${#backports[@]})) -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo)
    command -v sudo >/dev/null || { echo "These packages are missing, and only root may install them: ${missing[*]} ${backports[*]}" >&2; exit 1; }
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@"; }
install() { apt install --no-install-recommends "$@"; }

if [ ${#backports[@]} -gt 0 ]; then
    echo "Installing with apt: ${backports[*]}"
    # For this once: the machine's own list of sources stays as it is.
    sources=$(mktemp)
    trap 'rm -f "$sources"' EXIT
    chmod 644 "$sources"
    { cat /etc/apt/sources.list 2>/dev/null || true; echo "deb ${MIRROR:-http://deb.debian.org/debian} bookworm-backports main"; } >"$sources"
    apt -o Dir::Etc::sourcelist="$sources" update && install -o Dir::Etc::sourcelist="$sources" "${backports[@]}" ||
        echo "There is no newer emulator to be had here: a test's host may die by the old one's doing (\"Oops: int3\")." >&2
    for index in "${!missing[@]}"; do
        ! installed "${missing[index]}" || unset "missing[index]"
    done
fi
[ ${#missing[@]} -gt 0 ] || exit 0
echo "Installing with apt: ${missing[*]}"
apt update
# Where qemu-utils came from backports, the emulator of the release itself fits only the release's own.
install "${missing[@]}" || install --allow-downgrades "${missing[@]}" "qemu-utils/$VERSION_CODENAME"
