#!/bin/bash
# acceptance.sh [SUITE...]: boots a Debian 12 with systemd and cgroup v2 in a
# virtual machine, installs NOFX there as an operator would and checks what the
# unit files and the control group layout promise. It prints a table (check,
# result, what was seen) and fails if a check failed or did not run.
#
# The suites are the files of scripts/acceptance/checks, all by default. The
# machine's disk is built once and cached in $XDG_CACHE_HOME/nofx-acceptance;
# no KVM is needed. Exit status: 0 passed, 1 a check failed, 3 it could not run.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
here=scripts/acceptance
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nofx-acceptance
limit=${NOFX_ACCEPTANCE_TIMEOUT:-3000} # seconds for one boot
memory=2048                            # MiB

scripts/setup.sh acceptance
$here/root.sh "$cache"

suites=("$@")
[ $# -gt 0 ] || for f in $here/checks/*.sh; do
	f=${f##*/}
	suites+=("${f%.sh}")
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
share=$work/share
mkdir -p "$share/out" "$share/checks"
install -m 755 $here/vm.sh "$share/vm.sh"
cp $here/lib.sh "$share/lib.sh"
for s in "${suites[@]}"; do
	[ -f "$here/checks/$s.sh" ] || { echo "acceptance: no suite $s in $here/checks" >&2; exit 2; }
	cp "$here/checks/$s.sh" "$share/checks/"
	# What a suite needs from the host is made by its own prepare script.
	[ ! -x "$here/prepare/$s.sh" ] || "$here/prepare/$s.sh" "$share"
done
truncate -s 1G "$work/share.img"
mkfs.ext4 -q -O ^has_journal -d "$share" "$work/share.img"

began=$SECONDS
TMPDIR=$work timeout --foreground -k 10 "$limit" nice qemu-system-x86_64 \
	-machine pc -accel tcg,thread=multi -cpu max -smp 2 -m $memory -nographic -no-reboot \
	-kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
	-append "console=ttyS0 quiet panic=-1 apparmor=0 systemd.unified_cgroup_hierarchy=1 tsc=unstable" \
	-drive file="$cache/root.img",format=raw,if=virtio,snapshot=on \
	-drive file="$work/share.img",format=raw,if=virtio,cache=unsafe \
	-nic none >"$work/console" 2>&1 </dev/null || echo "acceptance: the machine did not end by itself within ${limit}s" >&2
echo "acceptance: the machine ran for $((SECONDS - began)) s" >&2

mkdir -p "$work/got"
debugfs -R "rdump /out $work/got" "$work/share.img" >/dev/null 2>&1
out=$work/got/out
if [ -n "${NOFX_ACCEPTANCE_KEEP:-}" ]; then
	mkdir -p "$NOFX_ACCEPTANCE_KEEP"
	cp -r "$out/." "$work/console" "$NOFX_ACCEPTANCE_KEEP/"
fi
if [ ! -s "$out/results" ]; then
	tail -n 30 "$work/console" >&2
	echo "acceptance: no check ran" >&2
	exit 3
fi

awk -F '\t' '
	{ name[NR] = $1; result[NR] = $2; seen[NR] = $3; if (length($1) > w) w = length($1) }
	END { for (i = 1; i <= NR; i++) printf "%-" w "s  %-4s  %s\n", name[i], result[i], seen[i] }' "$out/results"
failed=$(awk -F '\t' '$2 != "ok"' "$out/results" | wc -l)
for s in "${suites[@]}"; do
	grep -qx "$s" "$out/done" 2>/dev/null || { echo "acceptance: the suite $s did not come to its end" >&2; failed=$((failed + 1)); }
done
[ "$failed" = 0 ] || {
	for f in "$out"/*.log; do [ ! -s "$f" ] || { echo "== ${f##*/}"; tail -n 40 "$f"; } >&2; done
	echo "acceptance: $failed failed" >&2
	exit 1
}
echo "acceptance: all $(wc -l <"$out/results") checks passed"
