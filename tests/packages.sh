#!/bin/bash
# Checks the packages that lie in target/packages (`make deb rpm`): what lintian and rpmlint say; that all of `make install` is in them;
# and, installed into an empty root with a systemctl that only takes notes, that they enable, start and stop nothing, keep the
# administrator's configuration, and refuse to go while something is up. Needs root (or sudo) for the chroot.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
deb=$(echo target/packages/virt-unlock_"$version"_*.deb)
rpm=$(echo target/packages/virt-unlock-"$version"-*.rpm)
work=$(mktemp -d)
trap '"${as_root[@]}" rm -rf "$work"' EXIT

fail() { echo "packages.sh: $*" >&2; exit 1; }
same() { # WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: $(diff <(echo "$2") <(echo "$3"))"
}

echo "lintian: $deb"
lintian --allow-root --fail-on error,warning,pedantic --pedantic --display-info --tag-display-limit 0 "$deb"
echo "rpmlint: $rpm"
rpmlint --config packaging/rpmlint.toml "$rpm" | tee "$work/rpmlint"
! grep -q ': [EW]: ' "$work/rpmlint" || fail "rpmlint has found something"

# Pages of the manual are compressed on the way, and Debian has the licence under another name.
make --silent --no-print-directory install DESTDIR="$work/installed" PREFIX=/usr
installed=$(cd "$work/installed" && find . ! -type d | cut -c 2-)
plain() { sed 's|^\(/usr/share/man/.*\)\.gz$|\1|' | LC_ALL=C sort; }
same "contents of the deb" \
    "$({ grep -v '/LICENSE$' <<<"$installed"; printf '%s\n' /etc/virt-unlock/config.toml /usr/share/doc/virt-unlock/{changelog.gz,copyright}
        echo /usr/share/lintian/overrides/virt-unlock; } | LC_ALL=C sort)" \
    "$(dpkg-deb --fsys-tarfile "$deb" | tar -t | grep -v '/$' | cut -c 2- | plain)"
same "contents of the rpm" "$(printf '%s\n' "$installed" /etc/virt-unlock/config.toml | sed 's|/zsh/vendor-completions/|/zsh/site-functions/|' | LC_ALL=C sort)" \
    "$(rpm -qp --queryformat '[%{FILEMODES:perms} %{FILENAMES}\n]' "$rpm" | sed -n 's/^[^d][^ ]* //p' | plain)"
ours=$(printf '%s\n' /etc/libvirt/hooks/qemu.d/virt-unlock /etc/needrestart/conf.d/virt-unlock.conf /etc/virt-unlock/config.toml)
same "conffiles of the deb" "$ours" "$(dpkg-deb --info "$deb" conffiles | LC_ALL=C sort)"
same "configuration of the rpm" "$ours" "$(rpm -qpc "$rpm" | LC_ALL=C sort)"
for library in libcryptsetup libvirt; do
    dpkg-deb --field "$deb" Depends | grep -q "$library" || fail "the deb does not depend on $library"
    rpm -qp --requires "$rpm" | grep -q "^$library.so" || fail "the rpm does not require $library"
done

# A root with a shell, and notes of what is asked of systemd.
new_root() { # FOLDER
    mkdir -p "$1"/{bin,dev,run/systemd/system,run/virt-unlock,var/lib/dpkg/{info,updates},var/lib/rpm,usr/bin}
    touch "$1/var/lib/dpkg/status" "$1/var/lib/dpkg/available" "$1/dev/null" "$1/calls"
    cp /bin/busybox "$1/bin/busybox"
    local tool
    for tool in sh cat cut echo env grep rm touch tr; do ln -s busybox "$1/bin/$tool"; done
    cat >"$1/usr/bin/deb-systemd-helper" <<'SH'
#!/bin/sh
# Nothing was ever enabled here.
case " $* " in *" debian-installed "* | *" was-enabled "*) exit 1 ;; esac
echo "deb-systemd-helper $*" >>/calls
SH
    printf '#!/bin/sh\necho "deb-systemd-invoke $*" >>/calls\n' >"$1/usr/bin/deb-systemd-invoke"
    cat >"$1/usr/bin/systemctl" <<'SH'
#!/bin/sh
echo "$*" >>/calls
if [ "$1" = list-units ] && [ -e /active ]; then
    echo "virt-unlock.service loaded active exited Encrypted volumes of guests"
fi
SH
    chmod 755 "$1"/usr/bin/*
}
in_deb_root() { "${as_root[@]}" dpkg --root="$root" --force-depends --log=/dev/null "$@"; }
in_rpm_root() { "${as_root[@]}" rpm --root "$root" --nodeps "$@"; }

quiet() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "failed: $*"; }; }

# INSTALL AGAIN REMOVE: commands for these, to be followed by the package's file or name.
life() { # FORMAT PACKAGE INSTALL AGAIN REMOVE
    local root=$work/$1 package=$2 words
    new_root "$root"
    quiet "in_$1_root" $3 "$package"
    "$root/usr/bin/virt-unlock" --version >/dev/null
    echo '# mine' | "${as_root[@]}" tee "$root/etc/virt-unlock/config.toml" >/dev/null
    touch "$root/active"
    quiet "in_$1_root" $4 "$package"
    [ "$(cat "$root/etc/virt-unlock/config.toml")" = '# mine' ] || fail "$1: an upgrade has taken the administrator's configuration"
    if words=$("in_$1_root" $5 virt-unlock 2>&1); then fail "$1: it went while something is up: $words"; fi
    grep -q 'systemctl stop virt-unlock.service' <<<"$words" || fail "$1: it does not say how to stop it: $words"
    [ -e "$root/usr/libexec/virt-unlock/virt-unlock-volumes" ] || fail "$1: it refused to go and went"
    "${as_root[@]}" touch "$root/run/virt-unlock/remove-anyway"
    words=$("in_$1_root" $5 virt-unlock 2>&1) || fail "$1: it did not go when it was told to: $words"
    grep -q 'by hand' <<<"$words" || fail "$1: it went without a warning: $words"
    [ ! -e "$root/usr/bin/virt-unlock" ] && [ ! -e "$root/run/virt-unlock/remove-anyway" ] || fail "$1: something is left"
    if grep -Ev '^(list-units|--system daemon-reload|deb-systemd-helper (update-state|purge))' "$root/calls"; then fail "$1: that was asked of systemd"; fi
    grep -q daemon-reload "$root/calls" || fail "$1: systemd was not told of the units"
    rm "$root/active" "$root/calls"
    touch "$root/calls"
    quiet "in_$1_root" $3 "$package"
    quiet "in_$1_root" $5 virt-unlock
}
life deb "$deb" '--force-confold --install' '--force-confold --install' --remove
life rpm "$rpm" '--install' '--upgrade --force' --erase
echo "packages: as they must be"
