#!/bin/bash
# install.sh: puts the built binaries (make build) and the systemd units on this
# host, or below $DESTDIR. Configuration that is there already stays, and so does
# the keyset, which this host alone gets: what is below $DESTDIR may be an image
# for many. It starts and enables nothing; docs/operators.md says what comes next.
set -euo pipefail
from=$(cd "$(dirname "$0")/.." && pwd)
d=${DESTDIR:-}

[ -x "$from/bin/nofxd" ] || { echo "install: no binaries in $from/bin; type: make build" >&2; exit 1; }
install -d -m 755 "$d/usr/local/bin" "$d/usr/local/sbin" "$d/usr/local/lib/nofx" "$d/etc/nofx" "$d/etc/systemd/system" "$d/etc/sysusers.d"

# A new file takes the old one's name: what runs keeps the one that it has open.
put() {
	install -m "$1" "$2" "$3.new"
	mv -f "$3.new" "$3"
}
put 755 "$from/bin/nofx" "$d/usr/local/bin/nofx"
put 755 "$from/bin/nofxd" "$d/usr/local/sbin/nofxd"
put 755 "$from/bin/nofx-api" "$d/usr/local/sbin/nofx-api"
for f in "$from"/bin/nofx-driver-* "$from/bin/nofx-supervisor" "$from/bin/nofx-egress"; do
	put 755 "$f" "$d/usr/local/lib/nofx/${f##*/}"
done
for f in nofxd.service nofx-api.service nofx.slice; do
	put 644 "$from/systemd/$f" "$d/etc/systemd/system/$f"
done
put 644 "$from/systemd/nofx.sysusers.conf" "$d/etc/sysusers.d/nofx.conf"
for f in nofxd.yaml api.env; do
	[ -e "$d/etc/nofx/$f" ] || put 640 "$from/systemd/$f" "$d/etc/nofx/$f"
done
[ -n "$d" ] || {
	[ -e /etc/nofx/keyset.json ] || /usr/local/sbin/nofx-api keys new /etc/nofx/keyset.json
	systemd-sysusers /etc/sysusers.d/nofx.conf
	systemctl daemon-reload
}
