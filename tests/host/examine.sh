#!/bin/bash
# Runs as the first process of a host that was switched off, without udev and without anything of the product: opens the
# encrypted volumes, tells what the guests wrote and in what state the filesystem was left, and runs /run/provision/script.
# The disks are snapshots: nothing that happens here lasts.
trap "poweroff -f" EXIT
export PATH=/usr/sbin:/usr/bin DM_DISABLE_UDEV=1
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
stty -onlcr 2>/dev/null
modprobe -a dm-mod dm-crypt
lvm vgchange -qq -ay vg0 --config "devices { obtain_device_list_from_udev = 0 } activation { udev_sync = 0 udev_rules = 0 }" >/dev/null 2>&1
for name in mail vm stub; do printf 'correct horse' | cryptsetup open --key-file - "/dev/vg0/$name" "$name" & done
wait

marker() { # GUEST EVENT SECTOR DISK
    qemu-img dd -f "${5:-raw}" -O raw if="$4" of=/run/sector bs=512 skip="$3" count="$(($3 + 1))"
    printf '@marker %s %s %d %s\n' "$1" "$2" "$(od -An -tu2 -j64 -N2 /run/sector)" "$(head -c 40 /run/sector | tr -d '\0\r\n')"
}
guest() { # GUEST DISK FORMAT
    marker "$1" up 2048 "$2" "$3"
    marker "$1" off 2056 "$2" "$3"
}
guest mailserver /dev/mapper/mail
guest stubborn /dev/mapper/stub
guest plain /dev/vg0/plain
echo "@filesystem vm $(dumpe2fs -h /dev/mapper/vm 2>/dev/null | grep -q needs_recovery && echo dirty || echo clean)"
mkdir -p /run/vm
mount -t ext4 /dev/mapper/vm /run/vm
guest webserver /run/vm/webserver.qcow2 qcow2
guest chained /run/vm/overlay.qcow2 qcow2
[ ! -e /run/provision/script ] || { echo "@script"; bash /run/provision/script </dev/null 2>&1 | cat; }
echo "@end"
sync
