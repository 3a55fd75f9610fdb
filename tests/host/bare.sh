#!/bin/bash
# Builds a bare host, for the tests of packages, and prints the folder it lies in:
#   vmlinuz, initrd   for direct kernel boot        root.img   the host's disk (raw, /dev/vda)
# Bare: Debian with apt, qemu and common libraries, and without libvirt, LVM and libcryptsetup's programs. What apt can install
# there without a network lies in /var/lib/pool. The encrypted volumes are on the data disk of the standard host (image.sh).
# What is there already is kept; it is made again when this script, a file of it or the suite changes. Needs root and ./packages.
set -euo pipefail
cd "$(dirname "$0")"
suite=${SUITE:-trixie}
mirror=${MIRROR:-http://deb.debian.org/debian}
standard=$(SUITE=trixie ./image.sh)
store=$(realpath ../../target/host)
exec 9>"$store/bare-lock" 3>&1 1>&2
flock 9

key_of() { { printf '%s\n' "$suite"; find "$@" -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-12; }
say() { printf '%4d s  bare host: %s\n' "$SECONDS" "$*"; }

shared=(image/init image/tree/usr/local/lib/host/shell image/tree/etc/systemd/system/host-shell.service
    image/tree/etc/systemd/system/host-terminal.service image/tree/etc/modprobe.d/host.conf image/tree/etc/fstab
    image/tree/etc/hostname image/tree/root/.bash_profile)
base=$store/bare-$suite-base-$(key_of bare/packages bare/pool)
host=$store/bare-$suite-$(key_of bare.sh initrd.sh bare "${shared[@]}")
if [ -e "$host/root.img" ]; then
    echo "$host" >&3
    exit
fi

if [ ! -d "$base" ]; then
    say "fetching Debian $suite"
    rm -rf "$store/bare-$suite"-base-*
    # What is installed later comes from the pool, which is a repository of its own: its lists are short, and a network is
    # nowhere. The program's own documentation is left in, for it belongs to what is tested.
    fill_pool='set -e
        chroot "$1" apt-get -q -y --download-only install $(cat bare/pool)
        mkdir "$1/var/lib/pool"
        cp "$1"/var/cache/apt/archives/*.deb "$1/var/lib/pool/"
        (cd "$1/var/lib/pool" && dpkg-scanpackages --multiversion . >Packages)'
    log=$store/bare-mmdebstrap.log
    mmdebstrap --quiet --variant=essential --include="$(paste -sd, bare/packages)" \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/virt-unlock/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-include=/usr/share/man/*/virt-unlock*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="$fill_pool" "$suite" "$base.part" "$mirror" >"$log" 2>&1 || { cat "$log"; exit 1; }
    mv "$base.part" "$base"
fi

# A folder under its final name is complete, so everything is made in another one.
find "$store" -maxdepth 1 -name "bare-$suite-*" ! -path "$base" -exec rm -rf {} +
work=$host.part
mkdir -p "$work"
tree=$work/tree
say "host tree"
cp -a "$base" "$tree"
cp "$tree"/boot/vmlinuz-* "$work/vmlinuz"
rm -rf "$tree"/boot/*
for file in "${shared[@]}"; do
    [ "$file" = image/init ] || cp -a --parents "$file" "$work"
done
chown -R 0:0 "$work/image"
cp -a "$work/image/tree/." "$tree"
rm -rf "$work/image"
# Recommended packages come with the package that recommends them, as far as the pool has them.
rm "$tree/etc/apt/apt.conf.d/99mmdebstrap"
echo 'Acquire::Languages "none";' >"$tree/etc/apt/apt.conf.d/90pool"
echo 'deb [trusted=yes] file:/var/lib/pool ./' >"$tree/etc/apt/sources.list"
chroot "$tree" apt-get -q update
sed -i 's|^root:[^:]*:|root::|' "$tree/etc/shadow"
echo 6e1f0b2a7d4c4f0f9a3b5c8d7e6f1a21 >"$tree/etc/machine-id"
mkdir -p "$tree"/{srv/vm,var/log/guests,var/log/journal}
units=$tree/etc/systemd/system
# No network, no second console, nothing that runs by the clock.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer \
    e2scrub_reap.service systemd-networkd.service systemd-timesyncd.service getty@tty1.service serial-getty@hvc0.service; do
    ln -sf /dev/null "$units/$unit"
done
mkdir -p "$units/sysinit.target.wants"
ln -s ../host-shell.service ../host-terminal.service "$units/sysinit.target.wants/"

say "initrd"
initrd=$work/initrd.d
. ./initrd.sh
make_initrd "$tree" "$initrd"
pack "$initrd" >"$work/initrd"

say "root disk"
truncate -s 2G "$work/root.img.part"
mke2fs -q -t ext4 -E lazy_itable_init=1,hash_seed=4a0f0b1e-6c58-4d57-9d0c-2f6f0c5f6a11 -d "$tree" "$work/root.img.part"
mv "$work/root.img.part" "$work/root.img"
cp "$standard/accelerator" "$work/"
rm -rf "$tree" "$initrd"
mv "$work" "$host"
say "done: $(du -sh "$host" | cut -f1)"
echo "$host" >&3
