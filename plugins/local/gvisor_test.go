package local

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func underGVisor(s *driver.Spec) { s.Isolation = driver.IsolationGVisor }

// With a kernel of its own a step sees that kernel and no other; on the same
// driver, without, it sees the host's.
func TestGVisorsKernel(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withGVisor)
	for level, gvisor := range map[string]bool{driver.IsolationGVisor: true, driver.IsolationNamespace: false, "": false} {
		b := newBox(t, d, func(s *driver.Spec) { s.Isolation, s.Resources.IOMBs = level, 500 }) // as the daemon's default
		r := b.sh(t, "head -c 1000000 /dev/zero >/workspace/f && cat /proc/version")
		if got := strings.Contains(r.out, "gvisor"); got != gvisor || r.out == "" {
			t.Errorf("isolation %q: %+v", level, r)
		}
	}
}

// What a step has, and has not, with a kernel of its own.
func TestPostureGVisor(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withGVisor)
	b := newBox(t, d, underGVisor, func(s *driver.Spec) { s.Resources.Pids = 32 })
	for _, user := range []string{"", "root"} {
		s := command("/bin/sh", "-c", "cat /proc/self/status; echo Umask: $(umask); ulimit -c | sed s/^/Core:/; ls /proc/self/fd | tr '\\n' ' ' | sed s/^/Fds:/")
		s.User = user
		got := status(b.exec(t, s).out)
		uid := "1000 1000 1000 1000"
		if user == "root" {
			uid = "0 0 0 0"
		}
		for k, want := range map[string]string{
			"Uid": uid, "Gid": uid, "NoNewPrivs": "1", "Seccomp": "2", "Umask": "0022", "Core": "0", "Fds": "0 1 2 3", // 3 is ls's own
			"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		} {
			if got[k] != want {
				t.Errorf("user %q: %s is %q, want %q", user, k, got[k], want)
			}
		}
	}
	for _, tc := range []struct{ what, script, want string }{
		{"PID 1 can get no capability", `grep -E '^Cap(Prm|Bnd)' /proc/1/status | tr -s '\t' ' '`, "CapPrm: 00000000000000e0\nCapBnd: 0000000000000000\n"},
		{"PID 1 can be neither read nor signalled", `cat /proc/1/environ 2>/dev/null | wc -c; kill -9 1 2>/dev/null; echo $?`, "0\n1\n"},
		{"the root cannot be written", `touch /x /etc/x /usr/x 2>/dev/null; echo $?`, "1\n"},
		{"scratch can", `touch /tmp/x /home/step/x /workspace/x /dev/shm/x && echo yes`, "yes\n"},
		{"home is its own alone", `stat -c '%a %u' /home/step`, "700 1000\n"},
		{"the door is shut", `ls /.nofx 2>/dev/null; echo $?`, "2\n"},
		{"no namespaces to be had", `unshare -r true 2>/dev/null; unshare -m true 2>/dev/null; echo $?`, "1\n"},
		{"nothing of the host's", `hostname; cat /etc/machine-id /etc/hostname`, "sandbox\n6e6f66782073616e64626f7820696400\nsandbox\n"},
		{"no control group to write to", `find / -xdev -path /proc -prune -o -name cgroup.procs -print 2>/dev/null; echo end`, "end\n"},
		{"its output by name", `echo there >/dev/stdout`, "there\n"},
	} {
		if r := b.sh(t, tc.script); r.out != tc.want {
			t.Errorf("%s: %q, %q, want %q", tc.what, r.out, r.err, tc.want)
		}
	}
}

// To the host a sandbox's kernel and its file server are the sandbox's own uid
// without a capability outside their user namespace, in its control group; and
// when it is destroyed, none of them is left.
func TestGVisorOnTheHost(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withGVisor)
	b := newBox(t, d, underGVisor)
	dir, err := d.Folder(b.h)
	if err != nil {
		t.Fatal(err)
	}
	life, err := supervisor.Look(dir)
	if err != nil || !life.Complete {
		t.Fatalf("%+v, %v", life, err)
	}
	group := b.s.Host.Cgroup.V2
	if group == "" {
		group = b.s.Host.Cgroup.V1["memory"]
	}
	pids := func() []string {
		data, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(data))
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	kernel, seen := strconv.Itoa(int(life.State.InitPID)), 0
	for _, pid := range pids() {
		data, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			continue // one of gVisor's own that came and went
		}
		got := status(string(data))
		users, err := os.Readlink("/proc/" + pid + "/ns/user")
		if err != nil {
			continue
		}
		want := strconv.Itoa(int(b.s.Host.UIDBase))
		if !strings.HasPrefix(got["Uid"], want+" ") || got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" || users == ours {
			t.Errorf("process %s of gVisor: uid %q, no_new_privs %q, seccomp %q, namespace %s", pid, got["Uid"], got["NoNewPrivs"], got["Seccomp"], users)
		}
		if pid == kernel {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("the process that holds the kernel is not in the group: %v", pids())
	}
	if err := d.Destroy(t.Context(), b.h); err != nil {
		t.Fatal(err)
	}
	if left := pids(); len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), b.s.ID) {
		t.Errorf("a mount is left (%v)", err)
	}
}

// The level is one that was seen to work.
func TestGVisorIsProbed(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho no such platform >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		runsc   string
		refusal string // "" = none
	}{
		"as it must be":   {runscPath, ""},
		"nobody wants it": {"", "names no runsc"},
		"not there":       {"/nonexistent/runsc", "No such file"},
		"does not work":   {broken, "no such platform"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t, func(c *Config) { c.Runsc = tc.runsc })
			desc, err := d.Describe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := desc.Capabilities.Has(driver.CapIsolationGVisor); got != (tc.refusal == "") {
				t.Errorf("declared: %v", got)
			}
			if said := strings.Contains(strings.Join(desc.Warnings, ";"), "gVisor"); said != (tc.refusal != "" && tc.runsc != "") {
				t.Errorf("warnings: %q", desc.Warnings)
			}
			s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Isolation: driver.IsolationGVisor}
			newHost().Fill(t, &s)
			if tc.refusal == "" {
				openBox(t, d, s)
			} else if _, err := d.Create(t.Context(), s); !step.Is(err, step.KindUnsupported) || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("refusal: %v", err)
			}
			if got := desc.Capabilities.Has(driver.CapNetGVisor); got != (tc.refusal == "") {
				t.Errorf("a network is declared: %v", got)
			}
			// The other level is there all the time.
			newBox(t, d)
			if left, err := filepath.Glob(filepath.Join(d.StateDir(), "probe-*")); err != nil || len(left) != 0 {
				t.Errorf("of the probe is left: %v, %v", left, err)
			}
		})
	}
}

// Without a control group nobody could tell gVisor's processes from others.
func TestGVisorNeedsAGroup(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withGVisor)
	s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Isolation: driver.IsolationGVisor}
	newHost().Fill(t, &s)
	s.Host.Cgroup = driver.Cgroup{}
	if _, err := d.Create(t.Context(), s); !step.Is(err, step.KindInvalid) {
		t.Errorf("%v", err)
	}
}

// The root of an image is seen through gVisor as it is without.
func TestGVisorShowsTheImage(t *testing.T) {
	t.Parallel()
	image := t.TempDir()
	for _, dir := range []string{"bin", "etc", "data"} {
		if err := os.Mkdir(filepath.Join(image, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"bin/busybox": busybox, "data/f": []byte("of the image\n"), "etc/passwd": []byte("x:x:1000:1000::/:/bin/sh\n"), "etc/resolv.conf": []byte("nameserver 198.51.100.9\n")} {
		if err := os.WriteFile(filepath.Join(image, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("busybox", filepath.Join(image, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, withGVisor, func(c *Config) { c.RootFS = image })
	for _, level := range []string{driver.IsolationGVisor, driver.IsolationNamespace} {
		b := newBox(t, d, func(s *driver.Spec) { s.Isolation = level })
		r := b.sh(t, "busybox cat /data/f; busybox ls /; busybox grep -c 198.51.100.9 /etc/resolv.conf")
		want := "of the image\nbin\ndata\ndev\netc\nhome\nproc\nrun\nsys\ntmp\nworkspace\n0\n"
		if r.out != want {
			t.Errorf("%s: %q, %q, want %q", level, r.out, r.err, want)
		}
	}
}

// A runsc that does nothing for ever costs the level, and not the driver, which has
// 30 s to start.
func TestRunscHangs(t *testing.T) {
	t.Parallel()
	hanging := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(hanging, []byte("#!/bin/sh\nexec /bin/sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d := newDriver(t, withGVisor, func(c *Config) { c.Runsc = hanging })
	if took := time.Since(began); took > 28*time.Second {
		t.Errorf("configured in %s", took)
	}
	desc, err := d.Describe(t.Context())
	if err != nil || desc.Capabilities.Has(driver.CapIsolationGVisor) || desc.Capabilities.Has(driver.CapNetGVisor) {
		t.Errorf("%+v, %v", desc, err)
	}
}

// gVisor's own memory counts as the step's: with less than that it does not begin,
// which is none of the driver's doing.
func TestTooSmallForGVisor(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withGVisor)
	for _, mb := range []int64{1, 12} {
		s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Network: step.NetworkNone}
		underGVisor(&s)
		s.Resources.MemoryMB = mb
		newHost().Fill(t, &s)
		if _, err := d.Create(t.Context(), s); !step.Is(err, step.KindInvalid) {
			t.Errorf("%d MiB: %v", mb, err)
		}
	}
}
