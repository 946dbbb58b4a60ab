# NOFX installed as docs/operators.md says, and what it promises of units and
# control groups, seen through the public API.

cg=/sys/fs/cgroup
acme=$cg/nofx.slice/nofx-acme.slice

install_it() {
	/share/nofx/scripts/install.sh
	systemd-analyze verify nofxd.service nofx-api.service nofx.slice
	ls -l /usr/local/sbin/nofxd >/dev/null
	echo "units verified, $(nofx version | head -n 1)"
}

database() {
	pg_createcluster 15 main >/dev/null
	cd /etc/postgresql/15/main
	sed -i '1i local nofx nofx_api,nofx_system peer map=nofx' pg_hba.conf
	printf 'nofx nofx-api nofx_api\nnofx nofx-api nofx_system\n' >>pg_ident.conf
	systemctl enable --now postgresql@15-main >/dev/null 2>&1
	cd /
	runuser -u postgres -- createdb nofx
	admin migrate
}

admin() { runuser -u postgres -- env NOFX_ADMIN_DATABASE_URL='postgres:///nofx?host=/var/run/postgresql&user=postgres' /usr/local/sbin/nofx-api "$@"; }

certificates() {
	cd /etc/nofx
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=NOFX acceptance CA" -keyout ca.key -out ca.crt
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=nofx-api" -addext "subjectAltName=IP:127.0.0.1" -keyout tls.key -out tls.csr
	openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -copy_extensions copy -out tls.crt
	chmod 600 tls.key ca.key
	chmod 644 ca.crt
}

keys() {
	(umask 077; admin keys create --tenant ops --name host-1 --role worker >/etc/nofx/worker.token)
	{
		echo "export NOFX_API_URL=https://127.0.0.1:7443 NOFX_CA_FILE=/etc/nofx/ca.crt"
		echo "export NOFX_API_KEY=$(admin keys create --tenant acme --name check --role user)"
	} >/root/client
	grep -q 'KEY=nofx_u_' /root/client
	echo "two keys"
}

start_it() {
	[ -e /etc/docker/daemon.json ] || fail "the suite 10-host did not run"
	printf 'drain_timeout: 3s\nlisten: 127.0.0.1:9464\ndrivers:\n  local: {}\n  container: {image: box, state_dir: /var/lib/nofx/container}\n' >>/etc/nofx/nofxd.yaml
	systemctl enable --now nofx-api nofxd
	echo "nofx-api $(systemctl is-active nofx-api) as $(systemctl show -P User nofx-api), nofxd $(systemctl is-active nofxd)"
}

step_succeeds() {
	. /root/client
	[ "$(nofx exec --tool bash --timeout 60s -- 'echo hello; cat /proc/self/cgroup')" = "$(printf 'hello\n0::/')" ]
	echo "hello, exit 0, own cgroup namespace"
}

sealed_at_rest() {
	. /root/client
	[ "$(stat -c '%U %a' /etc/nofx/keyset.json)" = "root 600" ]
	[ "$(nofx exec --tool bash --env TOKEN=canary-5d1f -- 'echo ${#TOKEN}')" = 11 ]
	[ "$(runuser -u postgres -- psql -At nofx -c "SELECT count(*) FROM nofx.step WHERE sealed IS NOT NULL AND inputs::text LIKE '%[sealed]%'")" = 1 ]
	if runuser -u postgres -- pg_dump nofx | grep -q canary-5d1f; then fail "the value is in the database"; fi
	echo "a variable reaches its step, and is nowhere in a dump of the database"
}

# verdict ARG...: the last line of nofx exec --json.
verdict() {
	. /root/client
	nofx exec --json --timeout 120s "$@" 2>&1 >/dev/null </dev/null | tail -n 1
}

memory_cap() {
	local v
	v=$(verdict --memory 64Mi --tool bash -- 'head -c 300000000 /dev/zero | tail -c 250000000 >/dev/null')
	echo "$v"
	[ "$(jq -r '.cause + " " + .attested' <<<"$v")" = "oom kernel" ]
	echo "cause oom, peak $(jq .usage.memory_peak_bytes <<<"$v") bytes"
}

pids_cap() {
	local v
	v=$(verdict --pids 16 --tool bash -- 'for i in $(seq 40); do sleep 5 & done; wait')
	echo "$v"
	[ "$(jq -r '.cause + " " + .attested' <<<"$v")" = "pids kernel" ]
	echo "cause pids, peak $(jq .usage.pids_peak <<<"$v") of 16"
}

# begin_step NAME [PAUSE]: a step that counts to 40, a second or PAUSE between;
# its group is in $group and the pid of its shell in $pid.
begin_step() {
	. /root/client
	nofx exec --json --timeout 400s --memory 96Mi --pids 32 --tool bash -- "for i in \$(seq 40); do echo line \$i; sleep ${2:-1}; done" >"/root/$1.out" 2>"/root/$1.err" </dev/null &
	client=$!
	trap 'kill -INT $client 2>/dev/null || true' EXIT
	eventually 60 grep -q 'line 3' "/root/$1.out"
	group=$(find "$acme/nofx-acme.steps.scope" -mindepth 1 -maxdepth 1 -type d ! -name holder)
	pid=
	for p in $(cat "$group/cgroup.procs"); do
		[ "$(cat "/proc/$p/comm" 2>/dev/null)" != bash ] || pid=$p
	done
	[ -n "$pid" ] || fail "no shell in $group"
}

# end_step NAME: the step's output is complete, in order, once; it succeeded.
end_step() {
	wait "$client" || fail "nofx exec: status $?: $(tail -n 1 "/root/$1.err")"
	[ "$(cat "/root/$1.out")" = "$(for i in $(seq 40); do echo "line $i"; done)" ] || fail "its output: $(head -c 300 "/root/$1.out")"
	. /root/client
	local run steps
	run=$(tail -n 1 "/root/$1.err" | jq -r .run_id)
	steps=$(nofx runs events "$run" --json | jq -r '.. | objects | .type? // empty | select(startswith("step."))' | sort | uniq -c | tr -s ' \n' ' ')
	[ "$steps" = " 1 step.enqueued 1 step.finished 1 step.started 1 step.succeeded " ] || fail "events:$steps"
	eventually 20 test ! -e "$group"
}

same_sandbox() {
	[ -d "/proc/$pid" ] || fail "the step's process $pid is gone"
	[ "$cg$(group "$pid")" = "$group" ] || fail "it moved to $(group "$pid")"
	[ "$(cat "$group/memory.max") $(cat "$group/pids.max")" = "$((96 << 20)) 32" ] || fail "its caps: $(cat "$group/memory.max" "$group/pids.max")"
}

restart_unit() {
	begin_step restart
	local before
	before=$(systemctl show -P MainPID nofxd)
	systemctl restart nofxd
	[ "$(systemctl show -P MainPID nofxd)" != "$before" ]
	same_sandbox
	end_step restart
	echo "same process, same caps, 40 lines in order, succeeded once"
}

kill_daemon() {
	begin_step kill
	local before
	before=$(systemctl show -P MainPID nofxd)
	kill -9 "$before"
	eventually 60 sh -c "systemctl is-active nofxd && [ \$(systemctl show -P MainPID nofxd) != $before ]"
	same_sandbox
	end_step kill
	echo "same process, same caps, 40 lines in order, succeeded once"
}

stop_unit() {
	begin_step stop
	systemctl stop nofxd
	local left
	left=$(pids_below system.slice/nofxd.service)
	[ -z "$left" ] || fail "left in nofxd.service: $left"
	! pgrep -x nofxd >/dev/null || fail "nofxd is there"
	! pgrep -f nofx-driver-local >/dev/null || fail "a plugin is there: $(pgrep -af nofx-driver)"
	same_sandbox
	systemctl start nofxd
	end_step stop
	echo "nothing under nofxd.service, the sandbox went on, succeeded once"
}

daemon_reload() {
	begin_step reload 1.5
	systemctl daemon-reload
	same_sandbox
	systemctl daemon-reexec
	same_sandbox
	# What takes a stranger's caps away: a unit in the slice comes and goes.
	systemd-run --quiet --slice=nofx-acme.slice --unit=neighbour -p CPUAccounting=no sleep 1
	eventually 20 sh -c '! systemctl is-active neighbour'
	systemctl set-property --runtime nofx.slice CPUWeight=90
	systemctl daemon-reload
	same_sandbox
	end_step reload
	echo "reload, reexec, a unit beside it: same process, same caps, succeeded once"
}

# step_clock SECONDS: the clock of the whole machine, Postgres's and everybody's.
step_clock() { date -s "@$(($(date +%s) + $1))" >/dev/null; }

clock_steps() {
	begin_step clock
	local run
	ahead=3600 # the trap sees it after this function
	trap 'kill -INT $client 2>/dev/null || true; [ $ahead = 0 ] || step_clock -$ahead' EXIT
	step_clock $ahead
	[ "$(nofx exec --tool bash --timeout 60s -- 'echo an hour later')" = "an hour later" ]
	systemctl stop nofxd # what is submitted now waits, and is due in an hour once the clock is right
	echo '{"plan":{"goal":"wait","steps":[{"name":"a","tool":"test:echo","inputs":{"msg":"hello"}}]}}' >/root/clock.json
	run=$(nofx run -f /root/clock.json --json | jq -r .id)
	step_clock -$ahead
	ahead=0
	systemctl start nofxd
	eventually 180 sh -c "nofx runs get $run --json | jq -e '.run.status == \"succeeded\"'"
	same_sandbox
	end_step clock
	echo "an hour ahead and back: the step went on and succeeded once, what was queued meanwhile ran at once"
}

nothing_beneath() {
	local under
	begin_step where
	under=$(pids_below system.slice/nofxd.service)
	[ "$under" = "$(systemctl show -P MainPID nofxd)" ] || fail "under nofxd.service: $under"
	case $group in "$acme/nofx-acme.steps.scope/"*) ;; *) fail "the step is in $group" ;; esac
	[ "$(systemctl show -P Delegate nofx-acme.steps.scope) $(systemctl show -P Slice nofx-acme.steps.scope)" = "yes nofx-acme.slice" ]
	systemd-cgls --no-pager /nofx.slice
	end_step where
	echo "${group#"$cg/"}"
}

tenant_cap() {
	. /root/client
	systemctl set-property --runtime nofx-acme.slice MemoryMax=112M
	[ "$(cat "$acme/memory.max")" = $((112 << 20)) ]
	# Each holds 64 MiB, less than its own cap; together they are too many.
	local hold='import time; x = bytearray(b"x") * (64 << 20); time.sleep(20)' a b ra=0 rb=0
	nofx exec --timeout 120s --memory 256Mi --tool python -- "$hold" >/root/solo 2>&1 </dev/null || fail "alone: $(cat /root/solo)"
	nofx exec --json --timeout 120s --memory 256Mi --tool python -- "$hold" >/root/a 2>/root/a.err </dev/null & a=$!
	nofx exec --json --timeout 120s --memory 256Mi --tool python -- "$hold" >/root/b 2>/root/b.err </dev/null & b=$!
	wait $a || ra=$?
	wait $b || rb=$?
	tail -n 1 /root/a.err /root/b.err
	local peak
	peak=$(cat "$acme/memory.peak")
	systemctl set-property --runtime nofx-acme.slice MemoryMax=infinity
	[ "$peak" -le $((112 << 20)) ] || fail "the slice's peak is $peak"
	[ "$ra$rb" != 00 ] || fail "both succeeded"
	cat /root/a.err /root/b.err | grep -q '"oom"' || fail "no cause oom: $ra $rb"
	echo "alone ok, two together: $ra and $rb, cause oom, the slice's peak $((peak >> 20)) MiB of 112"
}

container_step() {
	. /root/client
	[ "$(nofx exec --driver container --timeout 60s --memory 64Mi -- /bin/sh -c 'echo hello; exit 0')" = hello ]
	local v
	v=$(verdict --driver container --memory 64Mi -- /bin/dd if=/dev/zero of=/dev/null bs=200M count=1)
	echo "$v"
	[ "$(jq -r '.cause + " " + .attested' <<<"$v")" = "oom kernel" ]
	echo "hello; over its cap: cause oom, peak $(jq .usage.memory_peak_bytes <<<"$v") bytes"
}

container_in_tenant() {
	. /root/client
	nofx exec --json --driver container --timeout 400s --memory 96Mi --pids 32 -- /bin/sh -c 'i=1; while [ $i -le 40 ]; do echo line $i; sleep 1; i=$((i+1)); done' >/root/box.out 2>/root/box.err </dev/null &
	client=$!
	trap 'kill -INT $client 2>/dev/null || true' EXIT
	eventually 90 grep -q 'line 3' /root/box.out
	group=$(find "$acme" -maxdepth 1 -type d -name 'docker-*.scope')
	[ "$(wc -w <<<"$group")" = 1 ] || fail "the containers below the tenant's slice: $group"
	pid=
	for p in $(cat "$group/cgroup.procs"); do
		[ "$(cat "/proc/$p/comm" 2>/dev/null)" != sh ] || pid=$p
	done
	[ -n "$pid" ] || fail "no shell in $group"
	same_sandbox
	systemctl restart nofxd
	same_sandbox
	systemctl daemon-reload
	same_sandbox
	end_step box
	[ "$(docker ps -aq | wc -l)" = 0 ] || fail "containers are left: $(docker ps -a)"
	echo "in nofx-acme.slice with its caps; nofxd restarted, reload: same process, 40 lines in order, succeeded once, container gone"
}

scope_stopped() {
	. /root/client
	systemctl stop nofx.slice
	[ ! -e "$cg/nofx.slice" ] || fail "nofx.slice is there"
	timeout 180 nofx exec --timeout 90s --memory 64Mi -- /bin/true || fail "no step after it: $?"
	[ "$(systemctl is-active nofx-acme.steps.scope)" = active ]
	echo "stopped with all in it; the next step made it anew"
}

survives_reboot_order() {
	systemctl show -P Before nofx-acme.steps.scope | grep -q nofxd.service
	systemctl show -P After nofxd.service | grep -q nofx-acme.steps.scope
	echo "at shutdown nofxd ends before the sandboxes"
}

hardened() {
	local p
	p=$(systemctl show -P MainPID nofx-api)
	[ "$(awk '/^CapBnd|^CapEff/ { print $2 }' "/proc/$p/status" | sort -u)" = 0000000000000000 ]
	[ "$(awk '/^Seccomp:/ { print $2 }' "/proc/$p/status")" = 2 ]
	[ "$(awk '/^Uid:/ { print $2 }' "/proc/$p/status")" = "$(id -u nofx-api)" ]
	[ "$(stat -c %a /var/lib/nofx /var/lib/nofx-api | sort -u)" = 700 ]
	echo "nofx-api: exposure $(systemd-analyze security --no-pager nofx-api.service | awk '/Overall/ { print $(NF - 2) }'), no capability, no root; nofxd: $(systemd-analyze security --no-pager nofxd.service | awk '/Overall/ { print $(NF - 2) }')"
}

nothing_left() {
	systemctl stop nofxd
	nofxd purge --config /etc/nofx/nofxd.yaml
	systemctl stop nofx-api
	local left
	left=$(pgrep -a 'nofx|sleep' | grep -v acceptance || true)
	[ -z "$left" ] || fail "processes: $left"
	[ ! -e "$cg/nofx.slice" ] || fail "groups: $(find $cg/nofx.slice -type d)"
	! grep nofx /proc/mounts | grep -v -E '^/dev/|/share' || fail "mounts: $(grep nofx /proc/mounts)"
	[ -z "$(systemctl list-units --no-legend 'nofx*.scope' 'nofx-*.slice')" ] || fail "units: $(systemctl list-units --no-legend 'nofx*.scope' 'nofx-*.slice')"
	[ -z "$(journalctl -b -u nofxd -p warning -o cat --no-pager -g panic || true)" ]
	echo "no process, group, mount or unit"
}

check "install.sh, units verified" install_it
check "database, roles by peer" database
check "certificates" certificates
check "keys" keys
check "both units enabled and up" start_it
check "a step succeeds" step_succeeds
check "what is sensitive is sealed at rest" sealed_at_rest
check "units' hardening" hardened
check "memory cap: cause oom" memory_cap
check "pids cap: cause pids" pids_cap
check "where a step is" nothing_beneath
check "unit restarted in mid-step" restart_unit
check "kill -9 of nofxd in mid-step" kill_daemon
check "unit stopped in mid-step" stop_unit
check "daemon-reload, reexec, units beside" daemon_reload
check "the clock steps by an hour and back" clock_steps
check "tenant's cap over two steps" tenant_cap
check "a step in a container; its memory cap" container_step
check "a container in the tenant's slice" container_in_tenant
check "order at shutdown" survives_reboot_order
check "slice stopped by the operator" scope_stopped
check "nothing left after purge" nothing_left
