#!/bin/bash
# Makes libvirt's modular daemons for the release SUITE, and prints the folder they lie in, as below /. Debian builds them and
# leaves them out of its packages (debian/not-installed), so they are made from Debian's own source here, in a tree of that
# release: minutes, once. Drivers, libraries and all the rest of the host are those of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")"
suite=${SUITE:-trixie}
mirror=${MIRROR:-http://deb.debian.org/debian}
store=$(realpath ../..)/target/host
exec 3>&1 1>&2

daemons=(virtqemud virtstoraged virtsecretd)
needed=(dpkg-dev gcc gettext libacl1-dev libblkid-dev libc6-dev libdevmapper-dev libglib2.0-dev libgnutls28-dev libjson-c-dev
    libnl-3-dev libnl-route-3-dev libreadline-dev libselinux1-dev libtirpc-dev libxml2-dev libxml2-utils meson mount patch
    pkg-config python3 python3-docutils xsltproc xz-utils)

made=$store/$suite-daemons-$(sha256sum daemons.sh | cut -c1-12)
if [ -d "$made" ]; then
    echo "$made" >&3
    exit
fi
rm -rf "$store/$suite"-daemons-*
work=$made.part
log=$store/daemons-$suite.log
tree=$work/tree
mkdir -p "$work"
trap '[ $? = 0 ] || tail -n 40 "$log"' EXIT
mmdebstrap --quiet --variant=apt --aptopt='APT::Install-Recommends "false"' --include="$(IFS=,; echo "${needed[*]}")" \
    "$suite" "$tree" "$mirror" >"$log" 2>&1
echo "deb-src $mirror $suite main" >"$tree/etc/apt/sources.list.d/source.list"

cat >"$tree/make" <<'MAKE'
set -euo pipefail
mkdir /source && cd /source
apt-get -q update
# The two archives are enough: a mirror that lacks the signatures beside them is no matter, for apt checks what it fetches by its lists.
apt-get -q source --download-only libvirt || ls libvirt_*.orig.tar.xz libvirt_*.debian.tar.xz
tar -xf libvirt_*.orig.tar.xz --strip-components=1
tar -xf libvirt_*.debian.tar.xz
grep -v '^#' debian/patches/series | while read -r patch _; do
    [ -z "$patch" ] || patch --silent -p1 <"debian/patches/$patch"
done
features=(driver_libvirtd driver_qemu driver_remote driver_secrets storage_dir storage_fs blkid json_c libnl polkit selinux)
meson setup build --prefix=/usr --libdir="lib/$(gcc -print-multiarch)" --sysconfdir=/etc --localstatedir=/var --buildtype=plain \
    -Dc_args=-O1 -Dauto_features=disabled -Dno_git=true -Dsystem=true -Drunstatedir=/run -Dinit_script=systemd \
    -Dinitconfdir=/etc/default -Dremote_default_mode=legacy $(printf ' -D%s=enabled' "${features[@]}")
ninja -C build "${@/#/src/}"
MAKE
chroot "$tree" bash /make "${daemons[@]}" >>"$log" 2>&1

mkdir -p "$work"/out/usr/{sbin,lib/systemd/system}
for daemon in "${daemons[@]}"; do
    install "$tree/source/build/src/$daemon" "$work/out/usr/sbin/"
    install -m 644 "$tree/source/build/src/$daemon"{.service,.socket,-ro.socket,-admin.socket} "$work/out/usr/lib/systemd/system/"
done
rm -rf "$tree"
mv "$work/out" "$made"
rmdir "$work"
echo "$made" >&3
