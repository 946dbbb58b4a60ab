// Package testhost does for a driver's test what the daemon does: control
// groups and uids of the test's own. `nofx driver-sanity` does it for drivers
// of others.
package testhost

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/internal/bandwidth"
	"github.com/nofx-run/nofx/internal/volume"
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

	mu      sync.Mutex
	volumes map[string]string // by sandbox
}

var nextUID atomic.Uint32

// Random is a short name that nobody else has.
func Random() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// New makes one with names of its own.
func New() *Host { return &Host{name: "nofxtest-" + Random(), volumes: map[string]string{}} }

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

// volume makes a workspace of a fixed size for a sandbox, once. It goes at the
// end of the test.
func (h *Host) volume(t T, id string, mb int64, uid uint32) string {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if dir, ok := h.volumes[id]; ok {
		return dir
	}
	base, err := os.MkdirTemp("", "nofxtest-volume")
	if err != nil {
		t.Fatal(err)
	}
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "dir")
	t.Cleanup(func() {
		if err := errors.Join(volume.Unmount(image, dir), os.RemoveAll(base)); err != nil {
			t.Errorf("the volume: %v", err)
		}
	})
	if err = os.Mkdir(dir, 0o700); err == nil {
		err = volume.Mount(context.Background(), image, dir, mb, uid)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.volumes[id] = dir
	return dir
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
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "freezer", "blkio"} {
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

// Workspace gives the spec a workspace of the size that it asks for, if any.
func (h *Host) Workspace(t T, s *driver.Spec) {
	t.Helper()
	if s.Resources.DiskMB > 0 && s.Host.Workspace == "" {
		uid := s.Host.UIDBase + 1
		s.Host.Workspace, s.Host.WorkspaceUID = h.volume(t, s.ID, s.Resources.DiskMB, uid), uid
	}
}

// Limit puts the caps of the spec on its group, and gives it a workspace of the
// size that it asks for.
func (h *Host) Limit(t T, s *driver.Spec) {
	t.Helper()
	h.Workspace(t, s)
	g, r := s.Host.Cgroup, s.Resources
	write := func(dir, file string, v int64) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(v, 10)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if r.CPU > 0 {
		quota, period := bandwidth.Of(r.CPU)
		if g.V2 != "" {
			if err := os.WriteFile(filepath.Join(g.V2, "cpu.max"), fmt.Appendf(nil, "%d %d", quota, period), 0o644); err != nil {
				t.Fatal(err)
			}
		} else {
			write(g.V1["cpu"], "cpu.cfs_period_us", period)
			write(g.V1["cpu"], "cpu.cfs_quota_us", quota)
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
	if r.IOMBs > 0 {
		dir := s.Host.Workspace
		if dir == "" {
			dir = os.TempDir()
		}
		d, err := volume.DeviceOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		rate := strconv.FormatInt(r.IOMBs<<20, 10)
		line := func(file, text string) {
			if err := os.WriteFile(file, []byte(d.String()+" "+text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if g.V2 != "" {
			line(filepath.Join(g.V2, "io.max"), "rbps="+rate+" wbps="+rate)
		} else {
			line(filepath.Join(g.V1["blkio"], "blkio.throttle.read_bps_device"), rate)
			line(filepath.Join(g.V1["blkio"], "blkio.throttle.write_bps_device"), rate)
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
