#!/bin/bash
# Builds a host that the boot tests and the demo run on, and prints the folder it lies in. SUITE is the release of Debian; DAEMONS
# says how libvirt is cut: monolithic (libvirtd, as Debian has it) or modular (virtqemud and its sisters, see daemons.sh).
#   vmlinuz, initrd   for direct kernel boot        root.img   the host's disk (raw, /dev/vda)
#   data.img          LVM with encrypted volumes and their guests (raw, /dev/vdb)
# Both disks are only ever read afterwards: every boot writes to overlays of its own. What is there already is kept; it is
# made again when this script or a file under image/ changes. Each variant has a folder of its own. Needs root and the packages in
# ./packages.
set -euo pipefail
cd "$(dirname "$0")"
suite=${SUITE:-trixie}
daemons=${DAEMONS:-monolithic}
mirror=${MIRROR:-http://deb.debian.org/debian}
store=$(realpath ../..)/target/host
mkdir -p "$store"
exec 3>&1 1>&2

key_of() { { printf '%s\n' "$suite"; find "$@" -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-12; }
say() { printf '%6.1f s  %s\n' "$(bc_seconds)" "$suite $daemons: $*"; }
bc_seconds() { local now=${EPOCHREALTIME/[.,]/}; awk -v d=$((now - begun)) 'BEGIN { print d / 1e6 }'; }
begun=${EPOCHREALTIME/[.,]/}

# What a suite has in a package of its own.
lists=(image/packages)
[ ! -e "image/packages.$suite" ] || lists+=("image/packages.$suite")
base=$store/$suite-base-$(key_of "${lists[@]}")
made_by=(image.sh initrd.sh image)
case $daemons in
monolithic) ;;
modular) made_by+=(daemons.sh) ;;
*) echo "DAEMONS=$daemons: monolithic or modular" && exit 2 ;;
esac
host=$store/$suite-$daemons-$(key_of "${made_by[@]}")
# Who needs another variant does not wait for one that is being made.
if [ ! -e "$host/data.img" ]; then
    exec 9>"$store/lock-$suite"
    flock 9
fi
if [ -e "$host/data.img" ]; then
    echo "$host" >&3
    exit
fi

# The bare system.
if [ ! -d "$base" ]; then
    say "fetching Debian $suite"
    rm -rf "$store/$suite"-base-* "$base.part"
    log=$store/mmdebstrap-$suite.log
    mmdebstrap --quiet --variant=essential --include="$(cat "${lists[@]}" | paste -sd,)" \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$suite" "$base.part" "$mirror" >"$log" 2>&1 || { cat "$log"; exit 1; }
    mv "$base.part" "$base"
fi

# A folder under its final name is complete, so everything is made in another one.
rm -rf "$store/$suite-$daemons"-*
work=$host.part
mkdir -p "$work"
tree=$work/tree
say "host tree"
cp -a "$base" "$tree"
cp "$tree"/boot/vmlinuz-* "$work/vmlinuz"
rm -rf "$tree"/boot/*
cp -a image/tree/. "$tree"
chown -R 0:0 "$tree"/{etc/systemd,usr/local,root}
. image/configure
configure "$tree"
if [ "$daemons" = modular ]; then
    say "daemons of libvirt"
    folder=$(SUITE=$suite MIRROR=$mirror ./daemons.sh)
    modular "$tree" "$folder"
fi

say "initrd"
initrd=$work/initrd.d
. ./initrd.sh
make_initrd "$tree" "$initrd"
pack "$initrd" >"$work/initrd"
# For a host that boots its next kernel by itself (kexec).
cp "$work"/{vmlinuz,initrd} "$tree/boot/"

say "root disk"
truncate -s 2G "$work/root.img"
mke2fs -q -t ext4 -E lazy_itable_init=1,hash_seed=4a0f0b1e-6c58-4d57-9d0c-2f6f0c5f6a11 -d "$tree" "$work/root.img"

# KVM where it really runs a kernel: /dev/kvm alone promises nothing on a machine that is itself virtual.
accelerator=tcg,thread=multi
if timeout 20 qemu-system-x86_64 -machine pc -accel kvm -cpu max -m 256 -nic none -display none -monitor none -no-reboot \
    -serial stdio -kernel "$work/vmlinuz" -append "console=ttyS0 panic=-1" </dev/null 2>&1 | grep -q 'Kernel panic.*VFS'; then
    accelerator=kvm
fi
echo "$accelerator" >"$work/accelerator"

say "first boot ($accelerator)"
# Emulated, a kernel that changes its own code may die of it before it has started anything, and the emulator itself may: then once
# more. What it wrote to the host's disk is as after a power cut; a disk that is to be empty is emptied.
boot() { # LOG KERNEL-ARGUMENTS QEMU-OPTION...
    local status
    for _ in 1 2 3; do
        status=0
        boot_once "$@" || status=$?
        [ "$status" -lt 128 ] || { say "the emulator ended with exit status $status; once more" && continue; }
        grep -q 'Welcome to' "$1" || ! grep -q 'Kernel panic' "$1" || continue
        break
    done
    return "$status"
}
boot_once() {
    local log=$1 arguments=$2; shift 2
    [ -z "${empty:-}" ] || { rm -f "$empty" && truncate -s 1G "$empty"; }
    timeout 600 qemu-system-x86_64 -machine pc -accel "$accelerator" -cpu max -smp 2 -m 1536 -nic none \
        -display none -monitor none -parallel none -no-reboot -serial "file:$log" -kernel "$work/vmlinuz" \
        -append "console=ttyS0 root=/dev/vda rw panic=-1 loglevel=4 systemd.show_status=yes $arguments" "$@" </dev/null
}
disk() { echo "file=$1,format=raw,if=virtio,cache=unsafe,discard=unmap"; }
boot "$work/first-boot.log" systemd.wants=host-warm.service -initrd "$work/initrd" -drive "$(disk "$work/root.img")"
grep -q 'HOST WARM' "$work/first-boot.log" || { tail -40 "$work/first-boot.log"; exit 1; }

say "data disk"
provision=$work/provision.d/provision
mkdir -p "$provision"
install image/provision "$provision/run"
assemble() { nasm -f bin -DNAME="'$1'" "${@:2}" -o "$provision/$1.boot" image/guest.asm; }
assemble mailserver -DSTOP_TICKS=36
assemble webserver -DSTOP_TICKS=9
assemble chained
assemble plain
assemble stubborn -DDEAF
{ cat "$work/initrd"; pack "$work/provision.d"; } >"$work/initrd.provision"
empty=$work/data.img.part
boot "$work/provision.log" "" -initrd "$work/initrd.provision" -drive "$(disk "$work/root.img"),snapshot=on" \
    -drive "$(disk "$empty")"
grep -q 'HOST PROVISIONED' "$work/provision.log" || { tail -40 "$work/provision.log"; exit 1; }
mv "$empty" "$work/data.img"

rm -rf "$tree" "$initrd" "$work"/provision.d "$work/initrd.provision"
mv "$work" "$host"
say "done: $(du -sh "$host" | cut -f1)"
echo "$host" >&3
