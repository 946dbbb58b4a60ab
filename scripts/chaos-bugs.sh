#!/bin/bash
# Shows that bugs are found: each patch of test/chaos/testdata/bugs puts one into a
# copy of the tree, which the chaos suite builds. It has to turn red under one of
# the patch's seeds, with the violation that the patch names. Seeds are tried in
# turn, for how processes interleave is not theirs. A bug whose moment is too short
# for any seed to be sure of names a test of the tree instead, which makes that
# moment. NAME... = only those.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=go1.26.11 GOFLAGS=-buildvcs=false

bugs=test/chaos/testdata/bugs
names=("$@")
if [ $# = 0 ]; then mapfile -t names < <(cd $bugs && ls -- *.patch | sed 's/\.patch$//'); fi
status=0
for name in "${names[@]}"; do
	patch=$PWD/$bugs/$name.patch
	read -r package test < <(sed -n 's/^Test: //p' "$patch") || true
	read -ra seeds < <(sed -n 's/^Seeds: //p' "$patch") || true
	red=$(sed -n 's/^Red: //p' "$patch")
	copy=$(mktemp -d /tmp/nofx-chaos-bug-XXXXXX)
	git ls-files -z | tar --null -T - -cf - | tar -C "$copy" -xf -
	cp -r bin "$copy/bin"
	# So that git apply takes this folder, not one above it.
	(cd "$copy" && git init -q . && git apply "$patch")
	out=$copy/out.txt
	found=
	if [ -n "$test" ]; then
		if (cd "$copy" && go test -count=1 -timeout 5m -v -run "^$test\$" "$package" >"$out" 2>&1); then
			echo "green     $name in $test"
		elif grep -qF -- "--- FAIL: $test " "$out" && grep -qF -- "$red" "$out"; then
			printf 'found     %s by %s: %s\n' "$name" "$test" "$(grep -F -m 1 -- "$red" "$out" | sed 's/^ *[a-z_]*\.go:[0-9]*: //')"
			found=yes
		else
			echo "red       $name in $test, but not with \"$red\":"
			tail -n 40 "$out"
		fi
	fi
	for seed in "${seeds[@]}"; do
		if (cd "$copy" && NOFX_CHAOS_SEED=$seed NOFX_CHAOS_TIME=60s go test -count=1 -timeout 10m -v -run '^TestChaos$' ./test/chaos >"$out" 2>&1); then
			echo "green     $name under seed $seed"
			continue
		fi
		# The folder of a red fleet is of no more use.
		sed -n 's/.*the logs are in //p' "$out" | xargs -r rm -rf
		if grep -qF -- "$red" "$out"; then
			printf 'found     %s under seed %s: %s\n' "$name" "$seed" "$(grep -F -m 1 -- "$red" "$out" | sed 's/^ *[a-z_]*\.go:[0-9]*: //')"
			found=yes
			break
		fi
		echo "red       $name under seed $seed, but not with \"$red\":"
		tail -n 40 "$out"
	done
	if [ -z "$found" ]; then
		echo "NOT FOUND $name"
		status=1
	fi
	rm -rf "$copy"
done
exit $status
