#!/bin/bash
# The packages that become binaries in bin/: every <area>/cmd/<binary> and the
# CLI, which is a package main at cmd/nofx.
set -euo pipefail
cd "$(dirname "$0")/.."
find cmd daemon/cmd api/cmd plugins -name main.go 2>/dev/null |
	sed -n 's|^\(cmd/nofx\)/main\.go$|./\1|p; s|^\(.*/cmd/[^/]*\)/main\.go$|./\1|p' | sort -u
