#!/bin/bash
# demo-plan.sh TARBALL NAME BINARY: prints the demo's plan, from the template
# examples/plans/build-c-project.json, with the tarball inside.
set -euo pipefail
cd "$(dirname "$0")/.."
encoded=$(mktemp)
trap 'rm -f "$encoded"' EXIT
base64 -w 0 "$1" >"$encoded"
jq --rawfile source "$encoded" --arg name "$2" --arg binary "$3" '
	walk(if type == "string" then
		if . == "@SOURCE@" then $source else gsub("@NAME@"; $name) | gsub("@BINARY@"; $binary) end
	else . end)' examples/plans/build-c-project.json
