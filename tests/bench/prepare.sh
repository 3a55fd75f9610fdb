#!/bin/bash
# Runs in the host that makes the disk of the bench: /dev/vdc becomes the volume group "bench" with one encrypted logical volume for
# each guest, and the guest's boot sector on it. GUESTS names them.
set -euo pipefail
passphrase='correct horse'
lvm pvcreate -qq /dev/vdc
lvm vgcreate -qq bench /dev/vdc
for guest in $GUESTS; do
    device=/dev/bench/$guest
    lvm lvcreate -qq --yes --wipesignatures n -n "$guest" -L 24M bench
    printf %s "$passphrase" | cryptsetup luksFormat --batch-mode --key-file - --type luks2 --pbkdf argon2id --pbkdf-memory 65536 \
        --pbkdf-force-iterations 4 --pbkdf-parallel 1 "$device"
    printf %s "$passphrase" | cryptsetup open --key-file - "$device" new
    # The sectors that the guest marks are cleared: old bytes under a new key are noise.
    dd if=/dev/zero of=/dev/mapper/new bs=512 seek=2048 count=16 conv=notrunc status=none
    dd if="/root/bench/$guest.boot" of=/dev/mapper/new bs=512 count=1 conv=notrunc status=none
    udevadm settle
    cryptsetup close new
done
sync
