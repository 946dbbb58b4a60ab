#!/bin/sh
# The test suite: runs each case, writes test-suite.log, fails if one failed.
set -u
log=test-suite.log
: >$log
pass=0
fail=0

# check NAME WANT COMMAND...: the command's output must be WANT.
check() {
	name=$1 want=$2
	shift 2
	if got=$("$@" 2>>$log) && [ "$got" = "$want" ]; then
		echo "PASS: $name" | tee -a $log
		pass=$((pass + 1))
	else
		echo "FAIL: $name" | tee -a $log
		printf 'want:\n%s\ngot:\n%s\n' "$want" "${got-}" >>$log
		fail=$((fail + 1))
	fi
}

text() { printf "$1" | ./tally; }
missing() { ./tally no-such-file 2>/dev/null && echo 'exit 0' || echo 'exit 1'; }
big() { awk 'BEGIN { for (i = 0; i < 100000; i++) print "w" i % 1000 }' | ./tally | awk '{ s += $1 } END { print NR, s }'; }
long() { awk 'BEGIN { for (i = 0; i < 9999; i++) printf "x"; print "" }' | ./tally | wc -c | tr -d ' '; }

check unit '' tests/unit
check counts '2 b
1 a' text 'b a b'
check case '3 word' text 'Word wORD word'
check punctuation '1 a
1 b' text 'a,...b!'
check empty '' text ''
check missing-file 'exit 1' missing
check many-words '1000 100000' big
check long-word 10002 long

echo "# TOTAL: $((pass + fail)) PASS: $pass FAIL: $fail" | tee -a $log
[ $fail -eq 0 ]
