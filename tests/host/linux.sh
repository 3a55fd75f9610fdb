#!/bin/bash
# linux.sh FOLDER KERNEL: lays out below FOLDER what a host needs to run a guest with a small Linux: that kernel, which is the host's
# own, and the tree of an initramfs with busybox and QEMU's guest agent. make-linux-guest, run in the host, adds the modules of its
# kernel and packs it. Needs busybox-static and qemu-guest-agent.
set -euo pipefail
cd "$(dirname "$0")"
root=$1/usr/lib/guest/root
mkdir -p "$root"/{bin,dev,modules,proc,run,sbin,sys,tmp,var/run}
install -m 644 "$2" "$1/usr/lib/guest/vmlinuz"
cp /bin/busybox "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
agent=$(command -v qemu-ga || echo /usr/sbin/qemu-ga)
cp "$agent" "$root/bin/qemu-ga"
# The libraries, and the loader, at the paths by which they are looked for.
ldd "$agent" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 755 "$library" "$root$library"
done
install -m 755 linux/init "$root/init"
install -D -m 755 linux/make-linux-guest "$1/usr/local/bin/make-linux-guest"
