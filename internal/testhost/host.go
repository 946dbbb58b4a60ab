// Package testhost does for a driver's test what the daemon does: control
// groups and uids of the test's own. `nofx driver-sanity` does it for drivers
// of others.
package testhost

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
)

// T is what a test is told; testing.TB is one, and so is the T of a suite that
// runs outside `go test`.
type T interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
	Cleanup(f func())
}

// Host is the daemon's part of one test.
type Host struct {
	name string // of its control groups
}

var nextUID atomic.Uint32

// Random is a short name that nobody else has.
func Random() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// New makes one with names of its own.
func New() *Host { return &Host{name: "nofxtest-" + Random()} }

// Fill completes a spec. The control groups and the workspace go at the end
// of the test, after whoever asked has destroyed the sandbox.
func (h *Host) Fill(t T, s *driver.Spec) {
	t.Helper()
	n := nextUID.Add(1)
	s.Host = &driver.HostSpec{UIDBase: 1900000000 + uint32(os.Getpid()%4096)*4096 + 2*n, UIDCount: 2}
	s.Host.Cgroup = h.group(t, "box-"+Random())
	s.Host.Supervisor = h.group(t, "sup-"+Random())
	h.Limit(t, s)
}

// group makes a group in each hierarchy, or in the unified one where there
// is only that.
func (h *Host) group(t T, name string) driver.Cgroup {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir := filepath.Join("/sys/fs/cgroup", h.name+"-"+name)
		Mkdir(t, dir)
		return driver.Cgroup{V2: dir}
	}
	g := driver.Cgroup{V1: map[string]string{}}
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
		dir := filepath.Join("/sys/fs/cgroup", c, h.name+"-"+name)
		Mkdir(t, dir)
		g.V1[c] = dir
	}
	return g
}

// Mkdir makes a control group that goes at the end of the test.
func Mkdir(t T, dir string) {
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
			if err == nil || errors.Is(err, os.ErrNotExist) { // an engine may remove it with its container
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

// Limit puts the caps of the spec on its group.
func (h *Host) Limit(t T, s *driver.Spec) {
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
