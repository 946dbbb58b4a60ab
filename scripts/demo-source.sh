#!/bin/bash
# demo-source.sh OUT: puts the source of a real C project at OUT, as a .tar.gz,
# and prints "NAME BINARY" for the demo's plan.
#
# It asks the Debian archive for GNU hello through a private sources list and
# private state, so the system's own apt is neither read for sources nor
# changed; apt checks the archive's signatures. Where the archive cannot be
# reached, the project under examples/tally is packed instead.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# mirror prints "URI SUITE" of this system's own Debian archive.
mirror() {
	local codename uri
	codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}")
	[ -n "$codename" ] || return 1
	uri=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
		awk -v c="$codename" '$1 == "deb" { for (i = 2; i < NF; i++) if ($i ~ "^https?://" && $(i + 1) == c) { print $i; exit } }')
	[ -n "$uri" ] || uri=$({ cat /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
		awk -v c="$codename" '
			/^URIs:/ { u = $2 }
			/^Suites:/ { for (i = 2; i <= NF; i++) if ($i == c && u) { print u; exit } }')
	[ -n "$uri" ] || return 1
	echo "$uri $codename"
}

from_archive() {
	local uri suite tarball
	read -r uri suite < <(mirror) || return 1
	command -v apt-get >/dev/null || return 1
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/src"
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$work/sources.list"
	local apt=(apt-get -q
		-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache"
		-o APT::Sandbox::User=root -o Acquire::Retries=2
		-o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15)
	(cd "$work/src" && timeout 180 "${apt[@]}" update && timeout 180 "${apt[@]}" source --download-only hello) \
		>"$work/apt.log" 2>&1 || return 1
	tarball=$(find "$work/src" -name 'hello_*.orig.tar.gz' | head -n 1)
	[ -n "$tarball" ] || return 1
	cp "$tarball" "$out"
	echo "hello hello"
}

if ! from_archive; then
	echo "demo: the Debian archive cannot be reached; building examples/tally instead of GNU hello" >&2
	tar -C "$root/examples" --sort=name --mtime=@0 --owner=0 --group=0 -czf "$out" tally
	echo "tally tally"
fi
