#!/bin/bash
# initramfs-size.sh STAGE IMAGE: makes an initramfs without and with the module, in the bare tree of the host's image, and prints
# the size of both. Nothing of the tree is changed.
set -euo pipefail
stage=$1 image=$2
image=$(realpath "$image")
suite=$(basename "$image")
base=$(find "$(dirname "$image")" -maxdepth 1 -type d -name "${suite%%-*}-base-*" ! -name '*.part' | head -1)
[ -n "$base" ] || { echo "no bare tree beside $image" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/top" "$work/scratch"
exec 3>&1 1>&2
export work base stage
unshare --mount bash -euo pipefail <<'SCRIPT'
mount -t tmpfs scratch "$work/scratch"
mkdir "$work"/scratch/{upper,work}
mount -t overlay tree -o "lowerdir=$base,upperdir=$work/scratch/upper,workdir=$work/scratch/work" "$work/top"
cp -a "$stage/." "$work/top/"
mkdir -p "$work/top/etc/virt-unlock"
printf '[volume.mail]\ndevice = "/dev/vg0/mail"\ninitramfs = true\n' >"$work/top/etc/virt-unlock/config.toml"
mount -t proc proc "$work/top/proc"
mount --bind /dev "$work/top/dev"
kernel=$(ls "$work/top/usr/lib/modules")
make() { chroot "$work/top" dracut --quiet --force --no-hostonly-cmdline --hostonly --omit "$2" "/tmp/$1" "$kernel"; }
make without virt-unlock
make with none
stat -c %s "$work/top/tmp/without" "$work/top/tmp/with" >"$work/sizes"
SCRIPT
cat "$work/sizes" >&3
