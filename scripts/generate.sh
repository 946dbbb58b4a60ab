#!/bin/bash
# generate.sh          writes all generated files anew
# generate.sh --check  does it in a copy and fails, with the difference, where
#                      the committed files are not what comes out
set -euo pipefail
cd "$(dirname "$0")/.."

generate() {
	go generate ./sdk/driver/driverpb
	[ ! -e api/internal/pg/sqlc.yaml ] || go tool -modfile=tools/sqlc/go.mod sqlc generate -f api/internal/pg/sqlc.yaml
	[ ! -e api/cmd/nofx-api/main.go ] || CGO_ENABLED=0 go run ./api/cmd/nofx-api openapi >api/openapi.yaml.new
	[ ! -e api/openapi.yaml.new ] || mv api/openapi.yaml.new api/openapi.yaml
}

case ${1:-} in
"") generate ;;
--check)
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
		while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
		tar --null --files-from=- -cf - | tar -xf - -C "$copy"
	before=$(mktemp -d)
	trap 'rm -rf "$copy" "$before"' EXIT
	cp -a "$copy/." "$before/"
	(cd "$copy" && scripts/generate.sh)
	if ! diff -ru "$before" "$copy"; then
		echo "generate-check: generated files are out of date: run make generate" >&2
		exit 1
	fi
	;;
*)
	echo "usage: generate.sh [--check]" >&2
	exit 2
	;;
esac
