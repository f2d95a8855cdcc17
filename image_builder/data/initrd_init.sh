#!/usr/bin/busybox ash
# First program of the machine: opens the verified root and hands over to it. It never reads the console, takes
# nothing from the host but the root's bytes (which dm-verity checks), and powers off on any failure.
set -eu
busybox=/usr/bin/busybox
constants=/etc/keyturn
reason='a command failed'

give_up() {
    echo "keyturn: initrd refuses: $reason"
    "$busybox" poweroff -f
}
trap give_up EXIT

refuse() {
    reason=$1
    exit 1
}

"$busybox" mount -t devtmpfs -o nosuid,noexec devtmpfs /dev
exec </dev/null >/dev/console 2>&1
"$busybox" mount -t proc -o nosuid,nodev,noexec proc /proc
"$busybox" mount -t sysfs -o nosuid,nodev,noexec sysfs /sys

"$busybox" cmp -s /proc/cmdline "$constants/cmdline" ||
    refuse 'the kernel command line is not the one this image was built with'

while read -r module; do
    "$busybox" insmod "/modules/$module" || refuse "kernel module $module cannot be loaded"
done <"$constants/modules"
# From here on nothing can add code to the kernel, root included.
echo 1 >/proc/sys/kernel/modules_disabled

read -r partition <"$constants/partition"

find_root() {
    for event in /sys/class/block/*/uevent; do
        while read -r line; do
            if [ "$line" = "PARTUUID=$partition" ]; then
                device=${event%/uevent}
                device=/dev/${device##*/}
                return 0
            fi
        done <"$event"
    done
    return 1
}

attempts=0
until find_root; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt 200 ] || refuse "no disk has the root partition $partition"
    "$busybox" usleep 50000
done

# The table is a constant: it names this link as data and hash device.
"$busybox" ln -s "$device" /dev/keyturn-root
DM_DISABLE_UDEV=1 /usr/sbin/dmsetup create root --readonly "$constants/verity" ||
    refuse 'the verified root cannot be opened'

# The default (8 MiB here) makes the kernel allocate and clear far more memory than a program's start needs.
echo 128 >/sys/block/dm-0/queue/read_ahead_kb

read -r options <"$constants/mount-options"
"$busybox" mount -t erofs -o "$options" /dev/mapper/root /root ||
    refuse 'the verified root cannot be mounted'

for folder in dev proc sys; do
    "$busybox" mount --move "/$folder" "/root/$folder"
done
exec "$busybox" switch_root /root "$busybox" init
