package local

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// probe parses what testdata/probe.c says.
func probe(out string) map[string]int {
	got := map[string]int{}
	for line := range strings.Lines(out) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.Atoi(n); err == nil {
			got[name] = v
		}
	}
	return got
}

// control runs the probe on the host as root, against a process of the test's
// own. It proves that what a sandbox is refused does exist.
func control(t *testing.T) map[string]int {
	t.Helper()
	victim := exec.Command("sleep", "60")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = victim.Process.Kill()
		_ = victim.Wait()
	}()
	out, err := exec.Command(probePath, strconv.Itoa(victim.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return probe(string(out))
}

// What a step may not do is refused, to the step's user and to the sandbox's
// root, and each refusal is compared with the host, where it is none.
func TestEscapesAreRefused(t *testing.T) {
	t.Parallel()
	outside := control(t)
	d := newDriver(t)
	b := newBox(t, d)
	b.put(t, "probe", probePath)
	// Some of these the kernel of the test may not have at all.
	optional := map[string]bool{"keyctl": true, "bpf": true, "io_uring": true, "userfaultfd": true, "perf_event_open": true, "i386": true, "x32": true, "TIOCSTI": true, "open_by_handle_at": true, "kcmp": true, "read:/proc/kcore": true, "write:/proc/sysrq-trigger": true, "write:/proc/sys/kernel/modprobe": true}
	refused := []string{
		"unshare:user", "unshare:mounts", "unshare:net", "clone:user", "clone3", "mount", "umount", "fsopen", "open_tree", "chroot", "setns",
		"mknod", "sethostname", "keyctl", "bpf", "io_uring", "userfaultfd", "perf_event_open", "open_by_handle_at", "nice", "core",
		"prlimit:other", "core_pattern", "i386", "x32", "TIOCSTI", "ptrace", "process_vm_readv",
		"read:/etc/shadow", "read:/root", "read:/proc/kcore", "read:/proc/PID/environ", "read:/proc/PID/root/etc", "read:/proc/PID/mem",
		"write:/proc/sys/kernel/core_pattern", "write:/proc/sys/vm/overcommit_memory", "write:/proc/sysrq-trigger", "write:/proc/sys/kernel/modprobe",
		"write:/usr/bin/true", "write:/etc/passwd", "write:/dev/new", "write:/proc/PID/oom_score_adj", "write:/new", "write:/proc/sys/net/ipv4/ip_forward",
		"write:/sys/new", "read:/dev/kmsg", "read:/dev/mem", "read:/dev/vda", "read:/dev/sda", "read:/dev/loop0", "read:/dev/kvm", "read:/dev/fuse", "read:/proc/kmsg", "read:/proc/PID/exe", "kcmp", "remount",
	}
	for _, user := range []string{"", "root"} {
		s := command("/workspace/probe", "1")
		s.User = user
		r := b.exec(t, s)
		inside := probe(r.out)
		for _, name := range refused {
			got, ok := inside[name]
			if !ok {
				t.Errorf("user %q: the probe says nothing of %s: %s", user, name, r.err)
				continue
			}
			if got == 0 {
				t.Errorf("user %q: %s went through", user, name)
			}
			must := !optional[name] && !strings.HasPrefix(name, "read:/dev") && name != "write:/sys/new" && name != "remount"
			if must && outside[name] != 0 && outside[name] != int(syscall.ENODATA) {
				t.Errorf("%s fails on the host too (%d): the case proves nothing", name, outside[name])
			}
		}
		if user == "" && inside["setuid:0"] == 0 {
			t.Error("the step's user became root of the sandbox")
		}
		wantSockets(t, user, inside)
	}
}

// wantSockets checks the families that a step may use.
func wantSockets(t *testing.T, user string, inside map[string]int) {
	t.Helper()
	for name, errno := range inside {
		family, ok := strings.CutPrefix(name, "socket:")
		if !ok {
			continue
		}
		family, _, _ = strings.Cut(family, ":")
		switch family {
		case "1", "2", "10", "16": // unix, inet, inet6, netlink: raw ones fail for want of rights
		default:
			if errno != int(syscall.EPERM) {
				t.Errorf("user %q: %s: %d, want EPERM", user, name, errno)
			}
		}
	}
	for _, want := range []string{"socket:1:1", "socket:2:1", "socket:10:1", "netlink:0"} {
		if inside[want] != 0 {
			t.Errorf("user %q: %s is refused: %d", user, want, inside[want])
		}
	}
	for p := 1; p < 23; p++ {
		if name := "netlink:" + strconv.Itoa(p); inside[name] != int(syscall.EPERM) {
			t.Errorf("user %q: %s: %d, want EPERM", user, name, inside[name])
		}
	}
}

// Nothing of the host's or the driver's environment, files and names is seen.
func TestNothingOfTheHostIsSeen(t *testing.T) {
	secret := "canary-" + random()
	t.Setenv("NOFX_TEST_SECRET", secret) // and so not parallel
	d := newDriver(t)
	b := newBox(t, d)
	r := b.sh(t, `env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; hostname; cat /etc/machine-id /proc/sys/kernel/hostname /proc/sys/kernel/random/boot_id /proc/cmdline; ls -la /proc/self/fd; cat /proc/net/dev /proc/self/cgroup; ps ax 2>/dev/null`)
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := os.ReadFile("/etc/machine-id")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"a secret": secret, "the host's name": name, "the machine's id": strings.TrimSpace(string(id)),
		"the boot's id": strings.TrimSpace(string(boot)), "the kernel's command line": strings.TrimSpace(string(kernel)),
	} {
		if len(text) > 3 && strings.Contains(r.out, text) {
			t.Errorf("the sandbox shows %s %q", what, text)
		}
	}
	if strings.Contains(r.out, b.s.Host.Cgroup.V1["memory"]) && b.s.Host.Cgroup.V1["memory"] != "" {
		t.Error("the sandbox shows its control group's path")
	}
	if !strings.Contains(r.out, "sandbox") {
		t.Errorf("the host name is not sandbox: %q", r.out)
	}
	if strings.Contains(r.out, "eth0") {
		t.Error("there is a network")
	}
}
