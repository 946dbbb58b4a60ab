#!/bin/bash
# runsc.sh FILE: builds gVisor's runsc through the module proxy, at the version
# that tools/runsc/go.mod pins, in about a minute. Its module is one of its own,
# so that what runsc requires is nothing that NOFX requires.
set -euo pipefail
out=$(realpath -m "$1")
cd "$(dirname "$0")/../tools/runsc"
version=$(go list -m -f '{{.Version}}' gvisor.dev/gvisor)
mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.$$"' EXIT
CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$version" \
	-o "$out.$$" gvisor.dev/gvisor/runsc
mv -f "$out.$$" "$out"
