#!/bin/bash
# Shows that the chaos suite finds bugs: each patch of test/chaos/testdata/bugs
# puts one into a copy of the tree, which the suite builds and has to turn red under the
# patch's seed, with the violation that the patch names. NAME... = only those.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=go1.26.11 GOFLAGS=-buildvcs=false

bugs=test/chaos/testdata/bugs
names=("$@")
if [ $# = 0 ]; then mapfile -t names < <(cd $bugs && ls -- *.patch | sed 's/\.patch$//'); fi
status=0
for name in "${names[@]}"; do
	patch=$PWD/$bugs/$name.patch
	seed=$(sed -n 's/^Seed: //p' "$patch")
	red=$(sed -n 's/^Red: //p' "$patch")
	copy=$(mktemp -d /tmp/nofx-chaos-bug-XXXXXX)
	git ls-files -z | tar --null -T - -cf - | tar -C "$copy" -xf -
	cp -r bin "$copy/bin"
	(
		cd "$copy"
		git init -q . # so that git apply takes this folder, not one above it
		git apply "$patch"
	)
	out=$copy/out.txt
	if (cd "$copy" && NOFX_CHAOS_SEED=$seed NOFX_CHAOS_TIME=60s go test -count=1 -timeout 10m -v -run '^TestChaos$' ./test/chaos >"$out" 2>&1); then
		echo "NOT FOUND $name: green under seed $seed"
		status=1
	elif grep -qF -- "$red" "$out"; then
		printf 'found     %s under seed %s: %s\n' "$name" "$seed" "$(grep -F -m 1 -- "$red" "$out" | sed 's/^ *[a-z_]*\.go:[0-9]*: //')"
	else
		echo "NOT FOUND $name: red under seed $seed, but not with \"$red\":"
		grep -E 'violations|_test.go' "$out" | tail -n 20
		status=1
	fi
	# The folder of a red fleet is of no more use.
	sed -n 's/.*the logs are in //p' "$out" | xargs -r rm -rf
	rm -rf "$copy"
done
exit $status
