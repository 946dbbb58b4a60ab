package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// With a kernel of its own a step sees that kernel and no other, also one that
// asks for no level where every step has it; without, it sees the host's.
func TestGVisorsKernel(t *testing.T) {
	t.Parallel()
	both := configured(t, withGVisor)
	all := configured(t, withGVisor, func(c *Config) { c.Runtime = c.GVisorRuntime })
	for what, tc := range map[string]struct {
		d      *Driver
		level  string
		gvisor bool
	}{
		"asked for":           {both, driver.IsolationGVisor, true},
		"not asked for":       {both, "", false},
		"the other asked for": {both, driver.IsolationNamespace, false},
		"given to all":        {all, "", true},
	} {
		// A network is what a sandbox with gVisor cannot have.
		if desc, err := tc.d.Describe(t.Context()); err != nil || desc.Capabilities.Has(driver.CapNetOpen) != (tc.d == both) {
			t.Errorf("%s: %v, %v", what, desc.Capabilities, err)
		}
		h, _ := newBox(t, tc.d, func(s *driver.Spec) { s.Isolation, s.Resources.IOMBs = tc.level, 500 }) // as the daemon's default
		r := run(t, tc.d, h, "head -c 1000000 /dev/zero >/workspace/f && cat /proc/version")
		if got := strings.Contains(r.out, "gvisor"); got != tc.gvisor || r.out == "" {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// What holds in every sandbox holds with a kernel of its own, and PID 1 has
// kept nothing of what it needed to set the cap on processes in there.
func TestPostureGVisor(t *testing.T) {
	t.Parallel()
	d := configured(t, withGVisor)
	h, s := newBox(t, d, underRunsc, func(s *driver.Spec) { s.Resources.Pids = 32 })
	for _, tc := range []struct{ what, script, want string }{
		{"no capability in any set", `grep ^Cap /proc/self/status | grep -v 0000000000000000; echo end`, "end\n"},
		{"no new privileges, filtered", `grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t' ' '`, "NoNewPrivs: 1\nSeccomp: 2\n"},
		{"PID 1 keeps three capabilities and can get no more", `grep -E '^Cap(Prm|Eff|Bnd|Inh)' /proc/1/status | tr -s '\t' ' '`,
			"CapInh: 0000000000000000\nCapPrm: 00000000000000e0\nCapEff: 00000000000000e0\nCapBnd: 0000000000000000\n"},
		{"its own id", `[ $(id -u) -gt 1000000 ] && [ $(id -u) = $(id -g) ] && echo own`, "own\n"},
		{"the root cannot be written", `touch /x /etc/x /bin/x 2>/dev/null; echo $?`, "1\n"},
		{"scratch can", `touch /tmp/x /home/step/x /workspace/x /dev/shm/x && echo yes`, "yes\n"},
		{"scratch is bounded", `head -c 100000000 /dev/zero >/tmp/big 2>/dev/null; [ $(stat -c %s /tmp/big) -le 67108864 ] && echo yes`, "yes\n"},
		{"PID 1 can be neither read nor signalled", `cat /proc/1/environ 2>/dev/null | wc -c; kill -9 1 2>/dev/null; echo $?`, "0\n1\n"},
		{"the door is shut", `ls /.nofx 2>/dev/null; echo $?`, "1\n"},
		{"no socket of the engine", `find / -xdev -type s 2>/dev/null; echo end`, "end\n"},
		{"no descriptor but the three", `ls /proc/self/fd | wc -l`, "4\n"}, // and ls's own
		{"nothing but loopback", `ls /sys/class/net 2>/dev/null; ip -o link 2>/dev/null | grep -cv ': lo'`, "0\n"},
		{"no namespaces to be had", `unshare -r true 2>/dev/null; unshare -m true 2>/dev/null; echo $?`, "1\n"},
		{"no mount", `mount -t tmpfs x /tmp 2>/dev/null || echo refused`, "refused\n"},
		{"no control group to write to", `find /sys/fs/cgroup /dev/shm -name 'pids.max' -o -name cgroup.procs | while read f; do (echo 0 >$f) 2>/dev/null && echo $f; done; echo end`, "end\n"},
		{"its environment is what it was given", `env | grep -v -E '^(PATH|PWD|SHLVL|_)='; echo end`, "end\n"},
	} {
		if r := run(t, d, h, tc.script); r.out != tc.want {
			t.Errorf("%s: %q, %q, want %q", tc.what, r.out, r.err, tc.want)
		}
	}
	// The workspace's files are the step's id on the host.
	run(t, d, h, "echo kept >/workspace/f")
	dir, err := d.Folder(h)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(dir + "/workspace/f"); err != nil || string(data) != "kept\n" {
		t.Errorf("%q, %v", data, err)
	}
	// The host's cap is on gVisor as a whole, and wider than the step's.
	group := s.Host.Cgroup.V2
	if group == "" {
		group = s.Host.Cgroup.V1["pids"]
	}
	if data, err := os.ReadFile(filepath.Join(group, "pids.max")); err != nil || strings.TrimSpace(string(data)) != "384" {
		t.Errorf("the group's pids.max: %q, %v", data, err)
	}
}

// The level is one that was seen to work: a runtime that is not set up for it,
// and a driver that knows none, are refused with what is missing.
func TestGVisorIsProbed(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		change  func(*Config)
		warning string // "" = none
		refusal string // "" = none
	}{
		"as it must be":      {withGVisor, "", ""},
		"nobody wants it":    {func(*Config) {}, "", "names no runsc"},
		"without the flags":  {func(c *Config) { c.GVisorRuntime = "runsc-plain" }, contained.RunscFlags[0], contained.RunscFlags[0]},
		"not gVisor's":       {func(c *Config) { c.GVisorRuntime = "runc" }, "not gVisor's", "not gVisor's"},
		"no image to try it": {func(c *Config) { withGVisor(c); c.Image = "" }, "no image", "no image"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := configured(t, tc.change)
			desc, err := d.Describe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := desc.Capabilities.Has(driver.CapIsolationGVisor); got != (tc.refusal == "") {
				t.Errorf("declared: %v", got)
			}
			if all := strings.Join(desc.Warnings, "; "); tc.warning == "" && all != "" || !strings.Contains(all, tc.warning) {
				t.Errorf("warnings %q, want %q", all, tc.warning)
			}
			s := newSpec(t, underRunsc)
			h, err := d.Create(t.Context(), s)
			if err == nil {
				err = d.Destroy(t.Context(), h)
			} else if tc.refusal == "" || !step.Is(err, step.KindUnsupported) || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("refusal: %v", err)
			} else {
				return
			}
			if err != nil || tc.refusal != "" {
				t.Errorf("created; destroyed: %v", err)
			}
		})
	}
	d := newDriver()
	t.Cleanup(d.Close)
	if err := d.Configure(t.Context(), config(t, func(c *Config) { c.GVisorRuntime = "nosuch" })); err == nil || !strings.Contains(err.Error(), "gvisor_runtime") {
		t.Errorf("a runtime that the engine has not: %v", err)
	}
	// The gateway's device is none that gVisor takes; without gVisor it works.
	d = configured(t, withGVisor)
	for level, want := range map[string]bool{driver.IsolationGVisor: false, driver.IsolationNamespace: true} {
		err := d.checkSpec(newSpec(t, func(s *driver.Spec) { s.Isolation, s.Network = level, step.NetworkOpen }))
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "network") {
			t.Errorf("a network with %s: %v", level, err)
		}
	}
}

// A runtime that is gVisor's and not said to be is refused for what it is.
func TestGVisorUnsaid(t *testing.T) {
	t.Parallel()
	d := configured(t, func(c *Config) { c.Runtime = "runsc" })
	if _, err := d.Create(t.Context(), newSpec(t)); err == nil || !strings.Contains(err.Error(), "gvisor_runtime") {
		t.Errorf("%v", err)
	}
}
