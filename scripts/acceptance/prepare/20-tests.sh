#!/bin/bash
# 20-tests.sh SHARE: the test programs whose packages deal with control groups,
# static, and the sources that they build from at their start.
set -euo pipefail
share=$1
mkdir -p "$share/tests/plugins"
for p in daemon/internal/cgroup plugins/local daemon/internal/worker; do
	mkdir -p "$share/tests/$p"
	CGO_ENABLED=0 nice go test -p 2 -c -trimpath -ldflags '-s -w' -o "$share/tests/$p/t" "./$p"
	[ ! -d "$p/testdata" ] || cp -r "$p/testdata" "$share/tests/$p/"
done
cp -r plugins/supervisor "$share/tests/plugins/"
mkdir -p "$share/tests/plugins/egress"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$share/tests/plugins/egress/nofx-egress" ./plugins/egress/cmd/nofx-egress
