# Sourced by what builds a host: make_initrd TREE FOLDER prepares, in FOLDER, the initrd for direct boot of the kernel in TREE.

make_initrd() { # TREE FOLDER
    local tree=$1 folder=$2 kernel path count=0
    kernel=$(ls "$tree/usr/lib/modules")
    mkdir -p "$folder"/{bin,dev,modules,proc,root}
    cp /bin/busybox "$folder/bin/"
    install image/init "$folder/init"
    # In the order in which they are loaded; one kernel has built in what is a module of another.
    while read -r path; do
        ((count += 1))
        case $path in
        *.xz) xz -dc "$tree$path" ;;
        *) cat "$tree$path" ;;
        esac >"$folder/modules/$(printf %02d "$count").ko"
    done < <(for module in virtio_pci virtio_blk virtio_console; do
        chroot "$tree" modprobe --set-version "$kernel" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
}
pack() { (cd "$1" && find . | cpio --quiet -o -H newc -R 0:0); }
