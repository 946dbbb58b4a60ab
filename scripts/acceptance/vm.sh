#!/bin/bash
# vm.sh: runs inside the acceptance VM, as root: each suite of /share/checks in
# turn, results in /share/out.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
cd /root
ip link set lo up
for suite in /share/checks/*.sh; do
	name=$(basename "$suite" .sh)
	echo "acceptance: $name"
	if timeout -k 5 1500 bash -u -c '. /share/lib.sh; . "$1"' suite "$suite" >"/share/out/$name.log" 2>&1; then
		echo "$name" >>/share/out/done
	fi
	sync
done
journalctl --no-pager -o short-monotonic >/share/out/journal.txt 2>&1
sync
