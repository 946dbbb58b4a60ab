#!/bin/bash
# river.sh FILE: builds River's command through the module proxy, at the version
# that tools/river/go.mod pins: its own benchmark stands next to ours; and
# FILE-enqueue, which times its library. Its module is one of its own, so that
# what River requires is nothing that NOFX requires. Where it cannot be had,
# there is no FILE, and that is no failure: the benchmark says that it was not
# there.
set -euo pipefail
out=$(realpath -m "$1")
cd "$(dirname "$0")/../tools/river"
mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.$$" "$out-enqueue.$$"' EXIT
built() { CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags '-s -w' -o "$1.$$" "$2"; }
if built "$out" github.com/riverqueue/river/cmd/river && built "$out-enqueue" ./enqueue; then
	mv -f "$out-enqueue.$$" "$out-enqueue"
	mv -f "$out.$$" "$out"
else
	echo "river cannot be had: the benchmarks go without it" >&2
fi
