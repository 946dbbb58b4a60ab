package local

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
)

// host does for a test what the daemon does: control groups, uids, workspaces.
type host struct {
	name string // of its control groups
}

var nextUID atomic.Uint32

func random() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func newHost() *host { return &host{name: "nofxtest-" + random()} }

// fill completes a spec. The control groups and the workspace go at the end
// of the test, after whoever asked has destroyed the sandbox.
func (h *host) fill(t testing.TB, s *driver.Spec) {
	t.Helper()
	n := nextUID.Add(1)
	s.Host = &driver.HostSpec{UIDBase: 1900000000 + 2*n, UIDCount: 2}
	s.Host.Cgroup = h.group(t, "box-"+random())
	s.Host.Supervisor = h.group(t, "sup-"+random())
	h.limit(t, s)
}

// group makes a group in each hierarchy, or in the unified one where there
// is only that.
func (h *host) group(t testing.TB, name string) driver.Cgroup {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir := filepath.Join("/sys/fs/cgroup", h.name+"-"+name)
		mkdir(t, dir)
		return driver.Cgroup{V2: dir}
	}
	g := driver.Cgroup{V1: map[string]string{}}
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
		dir := filepath.Join("/sys/fs/cgroup", c, h.name+"-"+name)
		mkdir(t, dir)
		g.V1[c] = dir
	}
	return g
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A dead task leaves its group a moment after it was reaped.
		deadline := time.Now().Add(10 * time.Second)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			err := os.Remove(dir)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				t.Errorf("the control group %s is left: %v, processes %q", dir, err, procs)
				return
			}
			<-tick.C
		}
	})
}

// limit puts the caps of the spec on its group.
func (h *host) limit(t testing.TB, s *driver.Spec) {
	t.Helper()
	g, r := s.Host.Cgroup, s.Resources
	write := func(dir, file string, v int64) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(v, 10)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if r.MemoryMB > 0 {
		if g.V2 != "" {
			write(g.V2, "memory.max", r.MemoryMB<<20)
			write(g.V2, "memory.oom.group", 1)
		} else {
			write(g.V1["memory"], "memory.limit_in_bytes", r.MemoryMB<<20)
		}
	}
	if r.Pids > 0 {
		if g.V2 != "" {
			write(g.V2, "pids.max", r.Pids)
		} else {
			write(g.V1["pids"], "pids.max", r.Pids)
		}
	}
}

// config is a configuration with a state folder of the test's own.
func config(t testing.TB) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(Config{StateDir: filepath.Join(t.TempDir(), "state"), Supervisor: supervisorPath, TmpMB: 64, ShmMB: 16, MaxOutputMB: 512, RootFS: RootHost})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
