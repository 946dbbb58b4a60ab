package container

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// What a step can see of itself and of what is around it.
func TestPosture(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, s := newBox(t, d)
	for _, tc := range []struct{ what, script, want string }{
		{"no capability in any set", `grep ^Cap /proc/self/status | grep -v 0000000000000000; echo end`, "end\n"},
		{"no new privileges, filtered", `grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t' ' '`, "NoNewPrivs: 1\nSeccomp: 2\n"},
		{"no group but its own", `grep ^Groups /proc/self/status | tr -d '\t '`, "Groups:\n"},
		{"its own id", `[ $(id -u) -gt 1000000 ] && [ $(id -u) = $(id -g) ] && echo own`, "own\n"},
		{"nothing but loopback", `ls /sys/class/net`, "lo\n"},
		{"the root cannot be written", `touch /x /etc/x /bin/x 2>/dev/null; echo $?`, "1\n"},
		{"scratch can", `touch /tmp/x /home/step/x /workspace/x /dev/shm/x && echo yes`, "yes\n"},
		{"home is its own alone", `stat -c '%a %u' /home/step | sed "s/$(id -u)/mine/"`, "700 mine\n"},
		{"scratch runs programs", `cp /bin/busybox /tmp/echo && /tmp/echo ran`, "ran\n"},
		{"PID 1 can be neither read, traced nor signalled", `cat /proc/1/environ /proc/1/maps 2>&1 | grep -c Permission; kill -9 1 2>/dev/null; echo $?`, "2\n1\n"},
		{"PID 1 is not its own", `ls /proc/1/fd 2>/dev/null | wc -l`, "0\n"},
		{"the door is shut", `ls /.nofx 2>/dev/null; echo $?`, "1\n"},
		{"no socket of the engine", `find / -xdev -type s 2>/dev/null; echo end`, "end\n"},
		{"no descriptor but the three", `ls /proc/self/fd | wc -l`, "4\n"}, // and ls's own
		{"no namespaces to be had", `unshare -r true 2>/dev/null; unshare -m true 2>/dev/null; echo $?`, "1\n"},
		{"no mount", `mount -t tmpfs x /tmp 2>/dev/null || echo refused`, "refused\n"},
		{"nothing of the kernel's own", `for f in kcore kallsyms kmsg keys timer_list sched_debug cmdline interrupts sys/kernel/random/boot_id; do head -c 64 /proc/$f 2>/dev/null; done; echo end`, "end\n"},
		{"its environment is what it was given", `env | grep -v -E '^(PATH|PWD|SHLVL|_)='; echo end`, "end\n"},
	} {
		if r := run(t, d, h, tc.script); r.out != tc.want {
			t.Errorf("%s: %q, %q, want %q", tc.what, r.out, r.err, tc.want)
		}
	}
	// The workspace's files are the step's id on the host.
	run(t, d, h, "echo kept >/workspace/f; chmod 4755 /workspace/f")
	dir, err := d.Folder(h)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(dir + "/workspace/f"); err != nil || string(data) != "kept\n" {
		t.Errorf("%q, %v", data, err)
	}
	_ = s
}

// What the engine was told: the caps, and nothing that opens a way out.
func TestWhatTheEngineIsTold(t *testing.T) {
	t.Parallel()
	d := configured(t)
	_, s := newBox(t, d, func(s *driver.Spec) {
		s.Resources.CPU, s.Resources.MemoryMB, s.Resources.Pids = 0.5, 64, 32
	})
	var got struct {
		Config     struct{ Labels map[string]string }
		HostConfig struct {
			CPUQuota, CPUPeriod                         int64
			Memory, MemorySwap, PidsLimit               int64
			Privileged, ReadonlyRootfs, PublishAllPorts bool
			NetworkMode, IpcMode, PidMode, UTSMode      string
			CgroupParent, UsernsMode                    string
			CapAdd, CapDrop, SecurityOpt, Binds         []string
			Devices                                     []any
		}
		Mounts []struct {
			Source, Destination, Propagation string
			RW                               bool
		}
	}
	if err := docker.Do(t.Context(), http.MethodGet, "/containers/"+name(s.ID)+"/json", nil, &got); err != nil {
		t.Fatal(err)
	}
	c := got.HostConfig
	if c.CPUQuota != 5000 || c.CPUPeriod != 10_000 || c.Memory != 64<<20 || c.MemorySwap != 64<<20 || c.PidsLimit != 32 {
		t.Errorf("caps: %+v", c)
	}
	if c.Privileged || !c.ReadonlyRootfs || c.NetworkMode != "none" || c.IpcMode != "private" || c.PidMode != "" || c.UTSMode != "" || len(c.Devices) > 0 {
		t.Errorf("isolation: %+v", c)
	}
	if strings.Join(c.CapDrop, ",") != "ALL" || len(c.CapAdd) != 5 || strings.Join(c.SecurityOpt, ",") != "no-new-privileges" {
		t.Errorf("privileges: %+v", c)
	}
	if got.Config.Labels[labelOwner] != s.Tags.Owner || got.Config.Labels[labelBox] != s.ID {
		t.Errorf("labels: %v", got.Config.Labels)
	}
	for _, m := range got.Mounts {
		if m.Destination == "/workspace" != m.RW || m.Propagation != "rprivate" || strings.HasSuffix(m.Source, ".sock") {
			t.Errorf("mount: %+v", m)
		}
	}
	if len(got.Mounts) != 2 {
		t.Errorf("%d mounts", len(got.Mounts))
	}
	// Its group is below the one that the daemon made, and so under its caps.
	dir := s.Host.Cgroup.V1["memory"]
	if dir == "" {
		dir = s.Host.Cgroup.V2
	}
	entries, err := os.ReadDir(dir)
	inside := 0
	for _, e := range entries {
		if e.IsDir() {
			inside++
		}
	}
	if err != nil || inside != 1 {
		t.Errorf("%d groups below the daemon's (%v)", inside, err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	d := newDriver()
	t.Cleanup(d.Close)
	for bad, want := range map[string]string{
		`{}`:                "state_dir",
		`{"state_dir":"x"}`: "state_dir",
		`{"state_dir":"/x","host":"tcp://127.0.0.1:2375"}`:       "host",
		`{"state_dir":"/x","pull":"sometimes"}`:                  "pull",
		`{"state_dir":"/x","allowed_images":["[" ]}`:             "allowed_images",
		`{"state_dir":"/x","image":"A B"}`:                       "image",
		`{"state_dir":"/x","require_digest":true,"image":"a:1"}`: "image",
		`{"state_dir":"/x","tmp_mb":-1}`:                         "tmp_mb",
		`{"state_dir":"/x","privileged":true}`:                   "privileged",
	} {
		if err := d.Configure(t.Context(), json.RawMessage(bad)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := d.Configure(t.Context(), config(t, func(c *Config) { c.Runtime = "nosuch" })); err == nil || !strings.Contains(err.Error(), "runtime") {
		t.Errorf("runtime: %v", err)
	}
}

// Caps on processor time that the daemon's own group has are an engine's, too:
// one that no whole number of microseconds is, and more than the host has.
func TestOddProcessorTime(t *testing.T) {
	t.Parallel()
	d := configured(t)
	for _, cores := range []float64{0.01, 0.33333, 1.23456, 512} {
		h, _ := newBox(t, d, func(s *driver.Spec) { s.Resources.CPU = cores })
		if r := run(t, d, h, "echo ran"); r.out != "ran\n" {
			t.Errorf("%v cores: %+v", cores, r)
		}
	}
}

// Caps that are too small for a container to begin are the step's own doing, and
// none of an engine that does not work.
func TestTooSmallToBegin(t *testing.T) {
	t.Parallel()
	d := configured(t)
	for what, change := range map[string]func(*driver.Spec){
		"pids 1":   func(s *driver.Spec) { s.Resources.Pids = 1 },
		"pids 3":   func(s *driver.Spec) { s.Resources.Pids = 3 },
		"memory 1": func(s *driver.Spec) { s.Resources.MemoryMB = 1 },
	} {
		_, err := d.Create(t.Context(), newSpec(t, change))
		if !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
