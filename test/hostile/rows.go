package hostile

import (
	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/sdk/step"
)

func causes(c ...step.Cause) []step.Cause { return c }

// exhaustion: a step can exhaust nothing but its own caps.
func exhaustion() []Row {
	return []Row{
		{ID: "H01", Name: "fork bomb", Short: true, Flags: []string{"--pids", "64", "--timeout", "4s"},
			Script: `b() { b | b & }; b; while :; do sleep 1; done`, Cause: causes(step.CausePids, step.CauseTimeout)},
		{ID: "H01", Name: "processes up to the cap", Flags: []string{"--pids", "32", "--timeout", "10s"},
			Script: `i=0; while [ $i -lt 100 ]; do sleep 30 & i=$((i+1)); done; wait; exit 1`, Cause: causes(step.CausePids)},
		{ID: "H02", Name: "twice the memory cap", Short: true, Flags: []string{"--memory", "64Mi", "--timeout", "20s"},
			Script: `head -c 130000000 /dev/zero | tail | wc -c`, Cause: causes(step.CauseOOM)},
		{ID: "H02", Name: "memory by many small processes", Flags: []string{"--memory", "64Mi", "--pids", "256", "--timeout", "30s"},
			Script: `i=0; while [ $i -lt 20 ]; do (head -c 8000000 /dev/zero | tail -c 8000000 | sleep 20) & i=$((i+1)); done; wait; exit 1`, Cause: causes(step.CauseOOM)},
		{ID: "H03", Name: "fill /dev/shm", Flags: []string{"--memory", "64Mi", "--timeout", "30s"},
			Script: `head -c 200000000 /dev/zero >/dev/shm/x`, Cause: causes(step.CauseOOM, step.CauseExit)},
		{ID: "H03", Name: "fill /tmp", Flags: []string{"--memory", "64Mi", "--timeout", "30s"},
			Script: `head -c 200000000 /dev/zero >/tmp/x`, Cause: causes(step.CauseOOM, step.CauseExit)},
		{ID: "H04", Name: "past the disk cap", Short: true, Flags: []string{"--disk", "16Mi"},
			Script: `head -c 64000000 /dev/zero >/workspace/x`, Cause: causes(step.CauseDisk)},
		{ID: "H05", Name: "inode bomb", Flags: []string{"--disk", "16Mi", "--timeout", "60s"},
			Script: `i=0; while : >/workspace/$i; do i=$((i+1)); done; exit 1`, Cause: causes(step.CauseDisk)},
		{ID: "H06", Name: "deep folders and odd names", Flags: []string{"--timeout", "60s"},
			Script: `i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done
				cd /workspace; n=$(printf '%0255d' 7); : >"$n"; : >"$(printf 'a\nb')"; : >"$(printf '\377\376')"; chmod 0 d; echo made`, Out: "made\n"},
		{ID: "H08", Name: "descriptors", Script: `ulimit -n 999999 2>/dev/null && echo BROKEN; [ "$(ulimit -n)" -le 16384 ] && echo held`, Out: "held\n"},
		{ID: "H09", Name: "spin on half a core", Flags: []string{"--cpu", "0.5", "--timeout", "3s", "--pids", "100"},
			Script: `i=0; while [ $i -lt 8 ]; do (while :; do :; done) & i=$((i+1)); done; wait`, Cause: causes(step.CauseTimeout)},
		{ID: "H61", Name: "flood of output", Short: true, Flags: []string{"--output", "256Ki", "--timeout", "3s"}, Script: `yes`, Cause: causes(step.CauseTimeout)},
		{ID: "H62", Name: "one long line", Flags: []string{"--output", "256Ki"}, Script: `head -c 50000000 /dev/zero | tr '\0' x`},
	}
}

// escape: what would change the host or leave the sandbox is refused.
func escape() []Row {
	return []Row{
		{ID: "H15", Name: "a user namespace", Short: true, Try: "unshare -U true", Control: "unshare -U true"},
		{ID: "H15", Name: "a mount namespace", Try: "unshare -m true", Control: "unshare -m true"},
		{ID: "H15", Name: "a network namespace", Try: "unshare -n true", Control: "unshare -n true"},
		{ID: "H15", Name: "another's namespace", Try: "nsenter -t 1 -m true", Control: "sleep 5 & nsenter -t $! -m true"},
		{ID: "H16", Name: "mount", Short: true, Try: "mount -t tmpfs none /tmp", Control: "unshare -m mount -t tmpfs none /mnt"},
		{ID: "H16", Name: "unmount /proc", Try: "umount /proc || umount -l /proc"},
		{ID: "H16", Name: "write to the root", Try: "touch /x || mkdir /usr/x || touch /etc/passwd", Control: "touch /tmp/nofx-hostile-x && rm /tmp/nofx-hostile-x"},
		{ID: "H17", Name: "control groups", Short: true, Try: "find /sys/fs/cgroup -name release_agent -writable | grep -q . || find /sys/fs/cgroup -name cgroup.procs -writable | grep -q .",
			Control: "find /sys/fs/cgroup -maxdepth 3 -name cgroup.procs -writable | grep -q ."},
		{ID: "H18", Name: "core_pattern", Short: true, Try: "echo x >/proc/sys/kernel/core_pattern", Control: "test -w /proc/sys/kernel/core_pattern"},
		{ID: "H18", Name: "sysrq-trigger", Try: "echo h >/proc/sysrq-trigger"},
		{ID: "H18", Name: "any file of /proc/sys", Try: "find /proc/sys -type f -writable ! -name boot_id 2>/dev/null | grep -q .", Control: "find /proc/sys/kernel -maxdepth 1 -type f -writable 2>/dev/null | grep -q ."},
		{ID: "H19", Name: "make a device", Short: true, Try: "mknod /tmp/d b 7 0", Control: "mknod /tmp/nofx-hostile-d b 7 0 && rm /tmp/nofx-hostile-d"},
		{ID: "H19", Name: "devices that are there", Script: `
			own=; grep -q gvisor /proc/version && own='|char|fuse|net' # its kernel's own, none of the host's
			ls /dev | grep -v -x -E "core|fd|full|mqueue|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero|console$own" ; echo end`, Out: "end\n"},
		{ID: "H20", Name: "the program of PID 1", Try: ": >/proc/1/exe || cp /bin/sh /proc/1/exe", Control: "test -e /proc/self/exe"},
		{ID: "H23", Name: "others' processes", Script: `for p in /proc/[0-9]*; do c=$(tr '\0' ' ' <$p/cmdline 2>/dev/null); case "$c" in *nofx[d]*|*nofx-[a]pi*|*postgre[s]*|*docker[d]*) echo "BROKEN $c";; esac; done; echo end`, Out: "end\n"},
		{ID: "H23", Name: "PID 1's memory", Try: "head -c 1 /proc/1/mem || cat /proc/1/environ", Control: "sleep 5 & cat /proc/$!/environ"},
		{ID: "H29", Name: "a terminal of somebody's", Try: ": </dev/tty"},
		{ID: "H45", Name: "capabilities", Script: `grep -h -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | grep -v -E '\s0000000000000000$'; grep -E '^NoNewPrivs:\s1$|^Seccomp:\s2$' /proc/self/status | wc -l`, Out: "2\n"},
	}
}

// persistence: when a step has ended, nothing of it is left.
func persistence() []Row {
	return []Row{
		{ID: "H31", Name: "a daemon of its own", Short: true, Script: `(setsid sh -c 'exec >/dev/null 2>&1 </dev/null; sleep 7321' &) ; echo done`, Out: "done\n"},
		{ID: "H32", Name: "deaf to signals", Short: true, Flags: []string{"--timeout", "2s"}, Script: `trap '' TERM HUP INT QUIT; while :; do sleep 7322; done`, Cause: causes(step.CauseTimeout)},
		{ID: "H34", Name: "stopped", Flags: []string{"--timeout", "2s"}, Script: `sleep 7323 & kill -STOP $!; kill -STOP $$`, Cause: causes(step.CauseTimeout)},
		{ID: "H39", Name: "called like the daemon", Script: `cp /bin/sleep ./nofxd 2>/dev/null || cp /bin/busybox ./sleep; (setsid ./nofxd 7324 >/dev/null 2>&1 &); echo done`, Out: "done\n"},
	}
}

// leak: a step sees nothing of the host, of others, of what ran before.
func leak() []Row {
	return []Row{
		{ID: "H41", Name: "the host's environment", Short: true, Script: `env; cat /proc/*/environ 2>/dev/null | tr '\0' '\n'; cat /proc/*/cmdline 2>/dev/null | tr '\0' '\n'`, Not: []string{"canary-of-the-host", "NOFX_"}},
		{ID: "H42", Name: "the kernel's secrets", Script: `for f in kcore kallsyms kmsg keys timer_list sched_debug; do head -c 64 /proc/$f 2>/dev/null | grep -q . && echo "BROKEN $f"; done; ls /sys/firmware 2>/dev/null; echo end`, Out: "end\n"},
		{ID: "H45", Name: "who the host is", Script: `hostname; cat /proc/sys/kernel/hostname /etc/machine-id /etc/hostname /proc/cmdline /proc/sys/kernel/random/boot_id 2>/dev/null; echo end`},
		{ID: "H45", Name: "where the host keeps things", Script: `cat /proc/self/mountinfo /proc/self/cgroup /proc/self/maps`},
		{ID: "H64", Name: "bytes of any kind", Script: `printf '\033]0;x\007\000\377\r\n{"type":"verdict","n":1}\n</script>\n'`, Out: "\x1b]0;x\a\x00\xff\r\n{\"type\":\"verdict\",\"n\":1}\n</script>\n"},
	}
}

// network: whom nobody may call is not called, whatever a step asks for.
func network() []Row {
	open := []string{"--network", "open", "--timeout", "20s"}
	call := func(id, name, host, port string, flags []string, short bool) Row {
		return Row{ID: id, Name: name, Flags: flags, Short: short,
			Script: `if [ -x /bin/bash ]; then /bin/bash -c 'exec 3<>/dev/tcp/` + host + `/` + port + ` && head -n 1 <&3' 2>/dev/null; else echo | nc -w 3 ` + host + ` ` + port + ` 2>/dev/null | head -n 1; fi; echo end`,
			Out:    "end\n", Not: []string{"hello"}}
	}
	return []Row{
		{ID: "H48", Name: "a public address (the rows below need it)", Flags: open, Short: true,
			Script: call("", "", testnet.Server, "5000", nil, false).Script, Out: "hello from " + testnet.Server + ":5000\nend\n"},
		call("H48", "metadata", testnet.Metadata, "80", open, true),
		call("H48", "metadata of another cloud", testnet.Azure, "80", open, false),
		call("H48", "metadata in CGNAT", testnet.Alibaba, "80", open, false),
		call("H49", "10/8", testnet.Private, "5432", open, false),
		call("H49", "172.16/12", testnet.Private2, "80", open, false),
		call("H49", "192.168/16", testnet.Private3, "443", open, false),
		call("H49", "the host by its own address", testnet.HostAddress, "7999", open, true),
		call("H49", "the host's loopback", "127.0.0.1", "7999", open, false),
		{ID: "H51", Name: "a public address by IPv6 (the rows below need it)", Flags: open, Short: true, Probe: true,
			Script: "./probe tcp " + testnet.Server6 + " 5000", Out: testnet.Server6 + " answers\nend\n"},
		{ID: "H51", Name: "a public address by UDP (the rows below need it)", Flags: open, Short: true, Probe: true,
			Script: "./probe udp " + testnet.Server + " 5001", Out: testnet.Server + " answers\nend\n"},
		{ID: "H51", Name: "metadata by IPv6", Flags: open, Probe: true, Script: "./probe tcp " + testnet.Metadata6 + " 80", Out: "end\n"},
		{ID: "H51", Name: "an IPv4 address as one of IPv6", Flags: open, Probe: true, Script: "./probe tcp ::ffff:" + testnet.Metadata + " 80", Out: "end\n"},
		{ID: "H51", Name: "10/8 by UDP", Flags: open, Probe: true, Script: "./probe udp " + testnet.Private + " 5001", Out: "end\n"},
		{ID: "H51", Name: "the host's loopback by IPv6", Flags: open, Probe: true, Script: "./probe tcp ::1 7999", Out: "end\n"},
		{ID: "H51", Name: "ICMP", Flags: open, Probe: true, Script: "./probe icmp " + testnet.Private, Out: "end\n"},
		{ID: "H51", Name: "SCTP", Flags: open, Probe: true, Script: "./probe sctp " + testnet.Server, Out: "end\n"},
		{ID: "H51", Name: "UDP without a network", Probe: true, Script: "./probe udp " + testnet.Server + " 5001; ./probe udp " + testnet.Server6 + " 5001", Out: "end\nend\n"},
		call("H50", "without a network", testnet.Server, "5000", []string{"--timeout", "20s"}, true),
		call("H52", "an address that no rule names", testnet.Server, "5000", []string{"--network", "allow", "--allow", "example.com:5000", "--timeout", "20s"}, false),
	}
}

// Rows are all of them.
func Rows() []Row {
	var all []Row
	for _, group := range [][]Row{exhaustion(), escape(), images(), kernel(), persistence(), stuck(), residue(), leak(), transfer(), network()} {
		all = append(all, group...)
	}
	return all
}
