# lib.sh: what the checks are written with; sourced inside the VM.

# check NAME FUNCTION [ARG...]: one line of the table. The function prints what
# it saw; its last line is shown. It fails by its status; `set -e` is on in it.
check() {
	local name=$1 out rc=0
	shift
	echo "--- $name"
	out=$(mktemp)
	# Not in a list with || or &&: there set -e has no effect, whatever is set inside.
	(set -eE; trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR; "$@") >"$out" 2>"$out.err"
	rc=$?
	cat "$out" "$out.err"
	if [ $rc = 0 ]; then
		printf '%s\tok\t%s\n' "$name" "$(tail -n 1 "$out" | tr '\t' ' ')" >>/share/out/results
	else
		printf '%s\tFAIL\t%s\n' "$name" "$(cat "$out" "$out.err" | tail -n 2 | tr '\t\n' '  ' | cut -c1-300)" >>/share/out/results
	fi
	rm -f "$out" "$out.err"
	sync
}

# fail TEXT...: the end of a check that is not as it should be.
fail() { echo "$*"; exit 1; }

# eventually SECONDS COMMAND...: waits until the command succeeds.
eventually() {
	local until=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $until ] || fail "not within the time: $*"
		sleep 0.2
	done
}

# group PID: its cgroup v2 path.
group() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }

# pids_below UNIT-OR-SLICE PATH: the processes in a group and below it.
pids_below() { find "/sys/fs/cgroup/$1" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -n; }
