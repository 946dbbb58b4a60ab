#!/bin/bash
# leftovers.sh snapshot        prints what NOFX could leave on this host: its
#                              processes, mounts, cgroups and namespaces
# leftovers.sh compare BEFORE  prints what is there now and was not in the file
#                              BEFORE, and fails if there is something
#
# Other programs may come and go in between, so namespaces count only where a
# process of NOFX's lives in them or a mount holds them.
set -euo pipefail

snapshot() {
	local pid exe args
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		exe=$(readlink "$dir/exe" 2>/dev/null) || exe=
		args=$({ tr '\0' ' ' <"$dir/cmdline" | head -c 300; } 2>/dev/null) || continue # it has ended
		case "$exe $args" in
		*/nofx-api\ * | */nofxd\ * | */nofx\ * | */nofx-driver-* | *nofx-supervisor* | *nofx-egress* | */postgres\ *cluster_name=nofx*)
			[ "$pid" = "$$" ] || echo "process $pid $exe" ;;
		esac
		# Whatever runs in a cgroup of ours is a step's, whatever it is called.
		if grep -q nofx "$dir/cgroup" 2>/dev/null; then echo "process $pid in $(grep -m 1 nofx "$dir/cgroup")"; fi
	done
	awk '/nofx/ { print "mount", $5 }' /proc/self/mountinfo
	awk '$9 ~ /^nsfs$/ || / - nsfs / { print "namespace", $5 }' /proc/self/mountinfo
	ls /run/netns 2>/dev/null | sed 's/^/namespace \/run\/netns\//' || true
	find /sys/fs/cgroup -type d -name '*nofx*' 2>/dev/null | sed 's/^/cgroup /'
	find /run -maxdepth 1 -name 'nofx-*' 2>/dev/null | sed 's/^/link /'
}

case ${1:-} in
snapshot) snapshot | sort -u ;;
compare)
	left=$(comm -13 "$2" <(snapshot | sort -u))
	for kind in process mount cgroup namespace; do
		printf '%s %s  ' "$(grep -c "^$kind " <<<"$left" || true)" "$kind"
	done
	echo
	if [ -n "$left" ]; then
		echo "left on this host:" >&2
		echo "$left" >&2
		exit 1
	fi
	;;
*) echo "usage: leftovers.sh snapshot | compare BEFORE" >&2; exit 2 ;;
esac
