# The tests of the packages that deal with control groups, on cgroup v2 under
# systemd. The machine is emulated: what takes a second elsewhere takes ten.

run_tests() {
	local out rc=0
	cp -r "/share/tests" /tmp/ 2>/dev/null || true
	cd "/tmp/tests/$1"
	out=/share/out/test-${1//\//-}.txt
	# Without gVisor: a second kernel in an emulated machine is not worth its time.
	timeout 600 ./t -test.v -test.skip "GVisor|Runsc|./^gvisor$" -test.parallel 2 -test.timeout 580s >"$out" 2>&1 || rc=$?
	grep -E '^\s*--- FAIL' "$out" | head -n 5 || true
	echo "$(grep -cE '^--- PASS' "$out") passed, $(grep -cE '^--- FAIL' "$out") failed, $(grep -cE '^--- SKIP' "$out") skipped"
	return $rc
}

# systemd hands down only the controllers that a unit of its own asks for.
systemd-run -q --unit acceptance-controllers -p CPUWeight=100 -p IOWeight=100 sleep infinity

for p in daemon/internal/cgroup plugins/local daemon/internal/worker; do
	check "tests on v2: $p" run_tests $p
done
systemctl stop acceptance-controllers
