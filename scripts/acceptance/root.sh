#!/bin/bash
# root.sh CACHE: makes, once, what the acceptance VM boots from and leaves it
# in CACHE: root.img (a Debian 12 with systemd, Docker and Postgres), vmlinuz and
# initrd. About 1 GB; a changed list of packages or script makes it anew.
set -euo pipefail
cache=$1
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

packages=(
	systemd systemd-sysv dbus iproute2 kmod iptables ca-certificates procps
	docker.io containerd busybox-static postgresql
	gcc libc6-dev make python3-minimal util-linux jq
)
stamp=$({ echo "${packages[@]}"; cat "$here/root.sh" "$here/init.sh"; } | sha256sum | cut -d' ' -f1)
[ "$(cat "$cache/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

# mirror prints the URI of this system's own Debian archive, or the public one.
mirror() {
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		awk '$1 == "deb" { for (i = 2; i < NF; i++) if ($i ~ "^https?://" && $(i + 1) == "bookworm") { print $i; exit } }' || true
	cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
		awk '/^URIs:/ { u = $2 } /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == "bookworm" && u) { print u; exit } }' || true
}
uri=$(mirror | head -n 1)
[ -n "$uri" ] || { echo "acceptance: no Debian 12 archive in this system's apt sources" >&2; exit 3; }

echo "acceptance: building the VM's root (once; a few minutes)" >&2
rm -rf "$cache/stamp" "$cache/root" "$cache/kernel" "$cache/initrd.d"
mkdir -p "$cache"
include=$(IFS=,; echo "${packages[*]}")
timeout 1500 debootstrap --variant=minbase --include="$include" bookworm "$cache/root" "$uri" >"$cache/debootstrap.log" 2>&1 </dev/null || {
	tail -n 20 "$cache/debootstrap.log" >&2
	exit 3
}

# The kernel is unpacked, not installed: no boot loader is wanted.
image=$(chroot "$cache/root" apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
(cd "$cache/root/root" && timeout 300 chroot "$cache/root" sh -c "cd /root && apt-get -q download -o APT::Sandbox::User=root $image") >>"$cache/debootstrap.log" 2>&1
dpkg-deb -x "$cache/root/root/$image"_*.deb "$cache/kernel"
rm -f "$cache/root/root/"*.deb
cp "$cache/kernel/boot/vmlinuz-"* "$cache/vmlinuz"
version=$(ls "$cache/kernel/lib/modules")
mkdir -p "$cache/root/lib/modules"
cp -a "$cache/kernel/lib/modules/$version" "$cache/root/lib/modules/"
chroot "$cache/root" depmod "$version"

# The initramfs loads what the root's device and file system need.
ird=$cache/initrd.d
mkdir -p "$ird"/{bin,dev,proc,sys,newroot,m}
cp /bin/busybox "$ird/bin/busybox"
n=10
for m in crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
	f=$(find "$cache/kernel/lib/modules/$version/kernel" -name "$m.ko*" | head -n 1)
	[ -z "$f" ] || { cp "$f" "$ird/m/$n-$m.ko"; n=$((n + 1)); }
done
install -m 755 "$here/init.sh" "$ird/init"
(cd "$ird" && find . | cpio -o -H newc --quiet | gzip) >"$cache/initrd"

# No cluster of Debian's own, no timers, no gettys: nothing runs by itself.
root=$cache/root
chroot "$root" sh -c 'pg_dropcluster 15 main 2>/dev/null || true'
for unit in getty@tty1.service serial-getty@ttyS0.service postgresql.service docker.service docker.socket containerd.service \
	apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer systemd-timesyncd.service; do
	rm -f "$root/etc/systemd/system/"*.wants/"$unit"
done
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
ln -sf /dev/null "$root/etc/systemd/system/getty@tty1.service"
echo nofx-acceptance >"$root/etc/hostname"
printf '127.0.0.1 localhost nofx-acceptance\n' >"$root/etc/hosts"
: >"$root/etc/fstab"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/nofx-acceptance.service" <<'UNIT'
[Unit]
Description=the acceptance checks
After=multi-user.target dbus.service

[Service]
Type=exec
ExecStart=/bin/sh -c 'mkdir -p /share && mount /dev/vdb /share && exec /share/vm.sh'
ExecStopPost=/bin/sh -c 'umount /share; systemctl --no-block poweroff'
StandardOutput=journal+console
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/share"
# The target must not wait for the checks, which look at a booted system.
cat >"$root/etc/systemd/system/nofx-acceptance.timer" <<'UNIT'
[Timer]
OnActiveSec=1
AccuracySec=100ms
UNIT
ln -sf ../nofx-acceptance.timer "$root/etc/systemd/system/multi-user.target.wants/"
rm -rf "$root/var/cache/apt/archives/"*.deb "$root/var/lib/apt/lists/"* "$root/usr/share/"{doc,man,locale} "$cache/kernel" "$ird"
rm -f "$cache/root.img"
truncate -s 4G "$cache/root.img"
mkfs.ext4 -q -O ^has_journal -d "$root" "$cache/root.img"
rm -rf "$root"
echo "$stamp" >"$cache/stamp"
