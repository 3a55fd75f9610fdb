#!/bin/bash
# Packs what was built: build.sh deb|rpm [VERSION [FOLDER]]. `make deb` and `make rpm` call it after the release build.
# The package lies in target/packages, or FOLDER, under its usual name; its path is printed. VERSION: another than Cargo.toml's.
set -euo pipefail
tree=$(realpath "$(dirname "$0")/..")
kind=${1:?build.sh deb|rpm [VERSION [FOLDER]]}
released=$(sed -n 's/^version = "\(.*\)"/\1/p' "$tree/Cargo.toml" | head -n 1)
version=${2:-$released}
mkdir -p "${3:-$tree/target/packages}"
folder=$(realpath "${3:-$tree/target/packages}")
cd "$tree/packaging"

work=$(mktemp -d "$folder/.$kind.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log

# Where a maintainer script says #GUARD#, with its indentation.
guarded() { # FILE
    awk -v guard=removal-guard.sh '
        /^ *#GUARD#$/ { indent = $0; sub(/#.*/, "", indent); while ((getline line < guard) > 0) print indent line; next }
        { print }' "$1"
}

deb() {
    local source=$work/virt-unlock-$version changelog=$work/virt-unlock-$version/debian/changelog noted
    mkdir "$source"
    cp -a debian config.toml "$source/"
    guarded debian/virt-unlock.prerm >"$source/debian/virt-unlock.prerm"
    noted=$(dpkg-parsechangelog -l "$changelog" -S Version)
    if [ "$noted" != "$released" ]; then
        echo "build.sh: packaging/debian/changelog is at $noted, Cargo.toml at $released: add an entry to the changelog" >&2
        return 1
    fi
    if [ "$version" != "$released" ]; then
        { sed "1s/($released)/($version)/" debian/changelog && echo && cat debian/changelog; } >"$changelog"
    fi
    (cd "$source" && VIRT_UNLOCK=$tree dpkg-buildpackage --build=binary --no-sign) >"$log" 2>&1 || { cat "$log" >&2; return 1; }
    mv "$work"/*.deb "$folder/"
    echo "$folder/virt-unlock_${version}_$(dpkg --print-architecture).deb"
}

rpm_package() {
    mkdir "$work/build"
    guarded virt-unlock.spec >"$work/virt-unlock.spec"
    rpmbuild -bb --define "_topdir $work" --define "_rpmdir $work" --define "_builddir $work/build" \
        --define "package_version $version" --define "packaging $PWD" --define "tree $tree" \
        "$work/virt-unlock.spec" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
    local made
    made=$(echo "$work"/*/virt-unlock-"$version"-*.rpm)
    mv "$made" "$folder/"
    echo "$folder/${made##*/}"
}

case $kind in
deb) deb ;;
rpm) rpm_package ;;
*) echo "build.sh: no kind of package $kind: deb or rpm" >&2 && exit 2 ;;
esac
