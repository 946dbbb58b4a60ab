# The machine itself: systemd, cgroup v2, Docker under a slice of our making.

systemd_is_up() {
	eventually 60 sh -c 'systemctl is-system-running | grep -qE "running|degraded"'
	systemctl --version | head -n 1
}

controllers() {
	local have
	have=$(cat /sys/fs/cgroup/cgroup.controllers)
	for c in cpu memory pids io; do
		[[ " $have " == *" $c "* ]] || fail "no controller $c: $have"
	done
	echo "$have"
}

docker_image() {
	local d
	mkdir -p /etc/docker
	echo '{"exec-opts":["native.cgroupdriver=systemd"],"bridge":"none","iptables":false,"storage-driver":"vfs"}' >/etc/docker/daemon.json
	systemctl start docker
	d=$(mktemp -d)
	chmod 755 "$d" # it becomes the image's root
	mkdir -p "$d"/{bin,tmp,proc,dev,sys,etc}
	cp /bin/busybox "$d/bin/"
	for a in sh cat dd sleep echo head tail; do ln -s busybox "$d/bin/$a"; done
	tar -C "$d" -c . | docker import - box >/dev/null
	rm -rf "$d"
	docker info -f 'driver {{.CgroupDriver}}, cgroup v{{.CgroupVersion}}, {{.ServerVersion}}'
}

docker_under_slice() {
	systemctl set-property --runtime nofx-probe.slice MemoryMax=48M
	systemctl start nofx-probe.slice
	docker run -d --name probe --network none --cgroup-parent nofx-probe.slice box sleep 60 >/dev/null
	local pid rc=0
	pid=$(docker inspect -f '{{.State.Pid}}' probe)
	group "$pid" | grep -q '^/nofx.slice/nofx-probe.slice/docker-' || fail "the container sits in $(group "$pid")"
	[ "$(cat /sys/fs/cgroup/nofx.slice/nofx-probe.slice/memory.max)" = $((48 << 20)) ] || fail "memory.max is not the slice's"
	# 96 MiB in one buffer, under a slice of 48.
	docker exec probe dd if=/dev/zero of=/dev/null bs=96M count=1 || rc=$?
	local kills
	kills=$(awk '$1 == "oom_kill" { print $2 }' /sys/fs/cgroup/nofx.slice/nofx-probe.slice/memory.events)
	docker rm -f probe >/dev/null
	systemctl stop nofx-probe.slice
	[ "$kills" -gt 0 ] || fail "no kill by the slice's limit (status $rc)"
	echo "in nofx.slice/nofx-probe.slice/docker-*.scope; the slice's memory.max killed ($kills)"
}

check "systemd is up" systemd_is_up
check "cgroup v2 controllers" controllers
check "docker with the systemd cgroup driver" docker_image
check "a container under a tenant's slice" docker_under_slice
