#!/bin/bash
# demo.sh DATA: runs a real C project's build and test suite through the whole
# system, in the data folder DATA, and removes everything again. Exits with the
# run's status.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1

if [ "$(id -u)" != 0 ]; then
	echo "demo: making sandboxes needs root; type: sudo make demo" >&2
	exit 3
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "demo: fetching the source" >&2
read -r name binary < <(scripts/demo-source.sh "$work/source.tar.gz")
scripts/demo-plan.sh "$work/source.tar.gz" "$name" "$binary" >"$work/plan.json"
scripts/leftovers.sh snapshot >"$work/before"

status=0
bin/nofx up --data "$data" --listen 127.0.0.1:0 --once "$work/plan.json" || status=$?

echo
printf 'left on this host: '
scripts/leftovers.sh compare "$work/before" || { [ "$status" != 0 ] || status=3; }
if [ "$status" = 0 ]; then
	rm -rf "$data"
else
	echo "demo: exit status $status; the logs are in $data/log" >&2
fi
exit "$status"
