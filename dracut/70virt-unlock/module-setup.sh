#!/bin/bash
# dracut module: volumes with `initramfs = true` are asked for and opened in the initramfs (dracut.modules(7)).
# For dracut 059 and later, with systemd in the initramfs. Whatever is wrong here leaves the module out, and the volumes are
# asked for later: an initramfs without it boots as before.

virt_unlock=/usr/libexec/virt-unlock/virt-unlock-volumes

virt_unlock_says() {
    "$virt_unlock" --config "${dracutsysrootdir-}/etc/virt-unlock/config.toml" initramfs "$1"
}

# called by dracut
check() {
    [[ $mount_needs ]] && return 1
    require_binaries "$virt_unlock" systemd-ask-password || return 1
    [[ -e ${dracutsysrootdir-}/etc/virt-unlock/config.toml ]] || return 255
    local config
    if ! config=$(virt_unlock_says config); then
        derror "virt-unlock: the configuration is wrong, so its volumes are asked for after the initramfs; 'virt-unlock check' says more"
        return 1
    fi
    [[ $config ]] || return 255
    return 0
}

# called by dracut
depends() {
    echo systemd systemd-initrd systemd-ask-password dm
    local device
    while read -r device; do
        if [[ $(virt_unlock_lv "$device") ]]; then
            echo lvm
            break
        fi
    done < <(virt_unlock_says devices 2> /dev/null)
    # Smart cards are reached through pcscd; TPMs and FIDO2 sticks need no more than what install() brings.
    local module
    for module in "$dracutbasedir"/modules.d/*pcsc; do
        if [[ -d $module ]] && command -v pcscd > /dev/null && virt_unlock_says tokens 2> /dev/null | grep -qx systemd-pkcs11; then
            echo pcsc
        fi
    done
    return 0
}

# The logical volume (VG/LV) that a device is, if it is one.
virt_unlock_lv() {
    local uuid
    uuid=$(cat "/sys/class/block/$(basename "$(readlink -f "$1")")/dm/uuid" 2> /dev/null)
    [[ $uuid == LVM-* ]] || return 0
    lvs --noheadings --separator / -o vg_name,lv_name "$1" 2> /dev/null | tr -d ' '
}

# The drivers of the disks that a device lies on.
virt_unlock_drivers() {
    local block=$1 below
    for below in "/sys/class/block/$block"/slaves/*; do
        [[ -e $below ]] && virt_unlock_drivers "${below##*/}"
    done
    get_dev_module "/dev/$block"
}

# A token's plug-in for libcryptsetup, and what it loads by name: ldd(1) does not show that.
virt_unlock_token() {
    if ! inst_libdir_file "cryptsetup/libcryptsetup-token-$1.so"; then
        dwarning "virt-unlock: libcryptsetup's plug-in for $1 is not installed, so such a token opens nothing in the initramfs"
        return 0
    fi
    case $1 in
        systemd-tpm2) inst_libdir_file 'libtss2-esys.so.*' 'libtss2-mu.so.*' 'libtss2-rc.so.*' 'libtss2-sys.so.*' 'libtss2-tcti-device.so.*' ;;
        systemd-fido2)
            inst_libdir_file 'libfido2.so.*'
            inst_rules 60-fido-id.rules
            inst_multiple -o "${udevdir-/usr/lib/udev}/fido_id"
            ;;
        systemd-pkcs11)
            inst_libdir_file 'libp11-kit.so.*' 'pkcs11/*.so' 'opensc-pkcs11.so'
            inst_multiple -o '/usr/share/p11-kit/modules/*' '/etc/pkcs11/*'
            ;;
    esac
    return 0
}

# What mounts a device with a key file on it, and drives it: by what is on it, or the usual where it is not there now.
virt_unlock_stick() {
    local kinds=(vfat exfat ext4) kind modules=()
    if [[ -b $1 ]]; then
        kind=$(blkid -o value -s TYPE "$1")
        kinds=("${kind:-vfat}")
        mapfile -t modules < <(virt_unlock_drivers "$(basename "$(readlink -f "$1")")" | sort -u)
    fi
    [[ ${kinds[*]} == *fat* ]] && kinds+=(nls_cp437 nls_iso8859-1 nls_ascii nls_utf8)
    [[ ${kinds[*]} == ntfs ]] && kinds+=(ntfs3)
    hostonly='' instmods "${kinds[@]}" "${modules[@]}" sd_mod usb_storage uas xhci_pci ehci_pci
}

# called by dracut
installkernel() {
    local device modules ciphers kind
    # What these headers are encrypted with, by its name in the kernel; what is built in or not there is passed over.
    mapfile -t ciphers < <(virt_unlock_says ciphers)
    hostonly='' instmods dm_crypt drbg algif_skcipher xts cbc essiv crypto-aes "${ciphers[@]/#/crypto-}" crypto-sha256 crypto-sha512
    while read -r device; do
        mapfile -t modules < <(virt_unlock_drivers "$(basename "$(readlink -f "$device")")" | sort -u)
        hostonly='' instmods "${modules[@]}"
    done < <(virt_unlock_says devices)
    while read -r kind; do
        case $kind in
            systemd-tpm2) hostonly='' instmods '=drivers/char/tpm' ;;
            systemd-fido2) hostonly='' instmods usbhid hid-generic ;;
        esac
    done < <(virt_unlock_says tokens)
    # A master's header is a block device while clevis' agent answers for it.
    if [[ -e /usr/libexec/clevis-luks-askpass ]] && virt_unlock_says config | grep -q '^\[master\.'; then
        hostonly='' instmods loop
    fi
    while read -r device; do
        virt_unlock_stick "$device"
    done < <(virt_unlock_says key-devices)
}

# called by dracut
install() {
    local config file device lv limit kind lvs=()
    config=$(virt_unlock_says config) && limit=$(virt_unlock_says limit) || return 1
    inst_binary "$virt_unlock"

    mkdir -p "$initdir/etc/virt-unlock"
    (umask 077 && printf '%s\n' "$config" > "$initdir/etc/virt-unlock/config.toml")
    while read -r file; do
        if [[ -e ${dracutsysrootdir-}$file ]]; then
            inst_simple -H "$file"
        else
            dwarning "virt-unlock: $file is not there, so it is not in the initramfs; the volume is opened later if it needs it"
        fi
    done < <(virt_unlock_says files)
    while read -r kind; do
        virt_unlock_token "$kind"
    done < <(virt_unlock_says tokens)

    inst_simple "$moddir/virt-unlock-initramfs.service" "$systemdsystemunitdir/virt-unlock-initramfs.service"
    mkdir -p "$initdir$systemdsystemunitdir/virt-unlock-initramfs.service.d"
    printf '[Service]\nTimeoutStartSec=%s\n' "$limit" > "$initdir$systemdsystemunitdir/virt-unlock-initramfs.service.d/limit.conf"
    $SYSTEMCTL -q --root "$initdir" add-wants initrd.target virt-unlock-initramfs.service

    # dracut activates the logical volumes of the root disk alone.
    while read -r device; do
        lv=$(virt_unlock_lv "$device")
        [[ $lv ]] && lvs+=("$lv")
    done < <(virt_unlock_says devices)
    if [[ ${#lvs[@]} -gt 0 ]]; then
        inst_simple "$moddir/virt-unlock-lvm.service" "$systemdsystemunitdir/virt-unlock-lvm.service"
        mkdir -p "$initdir$systemdsystemunitdir/virt-unlock-lvm.service.d"
        printf '[Service]\n' > "$initdir$systemdsystemunitdir/virt-unlock-lvm.service.d/volumes.conf"
        for lv in "${lvs[@]}"; do
            printf 'ExecStart=lvm lvchange --yes --activate y --sysinit %s\n' "${lv//%/%%}"
        done >> "$initdir$systemdsystemunitdir/virt-unlock-lvm.service.d/volumes.conf"
        $SYSTEMCTL -q --root "$initdir" add-wants virt-unlock-initramfs.service virt-unlock-lvm.service
        [[ -e ${dracutsysrootdir-}/etc/lvm/devices/system.devices ]] && inst_simple -H /etc/lvm/devices/system.devices
    fi
    return 0
}
