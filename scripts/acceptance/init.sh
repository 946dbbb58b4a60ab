#!/bin/busybox sh
# The acceptance VM's initramfs: modules, the root, and off to its systemd.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
# Twice: whatever order the names have, what one needs is there by then.
for pass in 1 2; do
	for m in /m/*.ko; do $b insmod "$m" 2>/dev/null; done
done
i=0
while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do i=$((i + 1)); $b usleep 100000; done
$b mount -t ext4 /dev/vda /newroot || { echo "no root"; $b poweroff -f; }
$b mount --move /dev /newroot/dev
$b mount --move /proc /newroot/proc
$b mount --move /sys /newroot/sys
exec $b switch_root /newroot /lib/systemd/systemd
