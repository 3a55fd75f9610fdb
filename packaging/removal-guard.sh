# Nothing stops the guests in good order at the next shutdown when the program is gone and they still run. So first they are stopped by it.
units=$(systemctl list-units --plain --no-legend --state=active,activating,reloading,deactivating \
    'virt-unlock*.service' 2>/dev/null | cut -d ' ' -f 1 | tr '\n' ' ' || true)
if [ -n "$units" ]; then
    if [ -e /run/virt-unlock/remove-anyway ]; then
        echo "virt-unlock: warning: guests and volumes stay up; take them down by hand before the next shutdown" \
            "(virsh shutdown, umount, cryptsetup close)" >&2
    else
        echo "virt-unlock: not removed, because it is active: ${units% }" >&2
        echo "  Without it, a shutdown would not stop the guests and close their volumes in good order." >&2
        echo "  Stop the guests and close the volumes first:  systemctl stop ${units% }" >&2
        echo "  Or remove it and let them run:  touch /run/virt-unlock/remove-anyway  and remove it again" >&2
        exit 1
    fi
fi
