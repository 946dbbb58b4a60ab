package local

import (
	"os"
	"strings"
	"testing"
)

// status gives fields of /proc/<pid>/status.
func status(text string) map[string]string {
	got := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			got[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return got
}

// The step's process as it sees itself.
func TestPosture(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	for _, user := range []string{"", "root"} {
		s := command("/bin/sh", "-c", "cat /proc/self/status; echo Umask: $(umask); ulimit -c | sed s/^/Core:/; ls /proc/self/fd | tr '\\n' ' ' | sed s/^/Fds:/")
		s.User = user
		got := status(b.exec(t, s).out)
		uid := "1000 1000 1000 1000"
		if user == "root" {
			uid = "0 0 0 0"
		}
		for k, want := range map[string]string{
			"Uid": uid, "Gid": uid, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1",
			"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
			"Umask": "0022", "Core": "0", "SigBlk": "0000000000000000", "SigIgn": "0000000000000000",
			"Fds": "0 1 2 3", // 3 is ls's own
		} {
			if got[k] != want {
				t.Errorf("user %q: %s is %q, want %q", user, k, got[k], want)
			}
		}
	}
}

// Every namespace is the sandbox's own, also that of the step as the host
// sees it.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	a, b := newBox(t, d), newBox(t, d)
	list := "for n in user mnt pid ipc uts cgroup net; do echo $n: $(readlink /proc/self/ns/$n); done"
	inA, inB := status(a.sh(t, list).out), status(b.sh(t, list).out)
	if len(inA) != 7 {
		t.Fatalf("namespaces: %v", inA)
	}
	for n, id := range inA {
		host, err := os.Readlink("/proc/self/ns/" + n)
		if err != nil {
			t.Fatal(err)
		}
		if id == host || id == inB[n] || id == "" {
			t.Errorf("namespace %s is %s; the host's is %s, another sandbox's %s", n, id, host, inB[n])
		}
	}
}

// The mounts are the ones that are meant, each with its restrictions.
func TestMounts(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	r := b.sh(t, "cat /proc/self/mounts")
	writable := map[string]bool{"/tmp": true, "/home/step": true, "/dev/shm": true, "/dev/pts": true, "/workspace": true, "/proc": true}
	seen := 0
	for line := range strings.Lines(r.out) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		seen++
		opts := "," + f[3] + ","
		masked := f[0] == "tmpfs" && strings.HasPrefix(f[1], "/proc/") // /dev/null or an empty folder of ours
		if !strings.Contains(opts, ",nosuid,") {
			t.Errorf("%s is mounted without nosuid: %s", f[1], f[3])
		}
		if !strings.Contains(opts, ",nodev,") && f[1] != "/dev" && f[1] != "/dev/pts" && !masked {
			t.Errorf("%s is mounted without nodev: %s", f[1], f[3])
		}
		if strings.Contains(opts, ",rw,") && !writable[f[1]] {
			t.Errorf("%s is writable: %s", f[1], f[3])
		}
	}
	if seen < 15 {
		t.Errorf("only %d mounts: %s", seen, r.out)
	}
	r = b.sh(t, "ls -A / | sort | tr '\\n' ' '; ls -A /dev | sort | tr '\\n' ' '; ls -A /sys /run /home | tr '\\n' ' '")
	if want := "full null ptmx pts random shm stderr stdin stdout tty urandom zero"; !strings.Contains(r.out, want) {
		t.Errorf("/dev is not the allow list: %q", r.out)
	}
}

// The supervisor is out of reach: another uid, not dumpable, in its own group
// and session, with nothing of the driver's open.
func TestSupervisorPosture(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	b := newBox(t, d)
	pid := supervisorPID(t, b)
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if got := status(string(data)); got["Uid"] != "0 0 0 0" || got["Threads"] != "1" {
		t.Errorf("the supervisor: %v", got)
	}
	group, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil || !strings.Contains(string(group), "-sup-") {
		t.Errorf("the supervisor is not in its group: %s (%v)", group, err)
	}
	fds, err := os.ReadDir("/proc/" + pid + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/" + pid + "/fd/" + fd.Name())
		if strings.HasPrefix(target, "/") && target != "/dev/null" && !strings.Contains(target, b.h.ID) {
			t.Errorf("the supervisor holds %s", target)
		}
	}
}
