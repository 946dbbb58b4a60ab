package cgroup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/coreos/go-systemd/v22/util"

	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/step"
)

// open makes a tree of the test's own and removes it at the end. Under systemd
// its root is a slice.
func open(t testing.TB) *Tree {
	t.Helper()
	root := fmt.Sprintf("nofxtest-%08x/daemon", rand.Uint32())
	if cgroups.Mode() == cgroups.Unified && util.IsRunningSystemd() {
		root = fmt.Sprintf("nofxtest_%08x.slice", rand.Uint32())
	}
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveAll(within(t)); err != nil {
			t.Error(err)
		}
		for _, dir := range tree.roots() {
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
	return tree
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// inside runs a shell script whose shell is in the group before it begins.
func inside(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	var join strings.Builder
	for _, dir := range g.folders() {
		fmt.Fprintf(&join, "echo 0 > %s/cgroup.procs\n", dir)
	}
	return exec.Command("/bin/sh", "-c", join.String()+script)
}

func TestLimitsBite(t *testing.T) {
	t.Parallel()
	tree := open(t)
	g := tree.Group("acme/../x", "a1")
	if err := g.Make(step.Resources{CPU: 0.5, MemoryMB: 32, Pids: 10}); err != nil {
		t.Fatal(err)
	}
	// A control: what stays within the caps succeeds and is counted nowhere.
	if out, err := inside(t, g, "true | cat").CombinedOutput(); err != nil {
		t.Fatalf("within the caps: %v: %s", err, out)
	}
	if c, err := g.Counters(); err != nil || c.OOMKills != 0 || c.PidsDenied != 0 || c.CPUUsec == 0 {
		t.Fatalf("after a small step: %+v, %v", c, err)
	}
	_ = inside(t, g, "head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null").Run()
	_ = inside(t, g, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; kill $(jobs -p)").Run()
	c, err := g.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if c.OOMKills == 0 || c.PidsDenied == 0 || c.MemoryPeak < 30<<20 || c.MemoryPeak > 33<<20 {
		t.Errorf("counters %+v", c)
	}
}

// What goes to block devices is counted, and what comes from them.
func TestIOIsCounted(t *testing.T) {
	t.Parallel()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := volume.Mount(t.Context(), image, dir, 16, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volume.Unmount(image, dir); err != nil {
			t.Error(err)
		}
	})
	devices, err := volume.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range devices {
		names = append(names, d.String())
	}
	g := open(t).Group("acme", "a1")
	if err := g.Make(step.Resources{}); err != nil {
		t.Fatal(err)
	}
	if err := g.LimitIO(names, 500); err != nil {
		t.Fatal(err)
	}
	const script = "cd %s && dd if=/dev/zero of=f bs=1M count=4 oflag=direct && dd if=f of=/dev/null bs=1M count=2 iflag=direct"
	if out, err := inside(t, g, fmt.Sprintf(script, dir)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := g.Counters()
	if err != nil || c.IOWritten < 4<<20 || c.IORead < 2<<20 || c.IOWritten > 16<<20 || c.IORead > 16<<20 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestKillEndsTheTree(t *testing.T) {
	t.Parallel()
	g := open(t).Group("acme", "a1")
	if err := g.Make(step.Resources{}); err != nil {
		t.Fatal(err)
	}
	cmd := inside(t, g, "trap '' TERM; for i in 1 2 3; do setsid sleep 600 & done; echo up; sleep 600")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("shell ended with %v", err)
	}
	for _, dir := range g.folders() {
		if pids, err := processes(dir); err != nil || len(pids) != 0 {
			t.Errorf("%s: %v, %v", dir, pids, err)
		}
	}
	if err := g.Make(step.Resources{}); !step.Is(err, step.KindConflict) {
		t.Errorf("a killed group is used again: %v", err)
	}
	if err := g.Remove(within(t)); err != nil {
		t.Error(err)
	}
	if err := g.Remove(within(t)); err != nil {
		t.Errorf("second removal: %v", err)
	}
}

func TestAttemptsAreFound(t *testing.T) {
	t.Parallel()
	tree := open(t)
	for _, a := range []string{"a-1", "a-2"} {
		if err := tree.Group("acme", a).Make(step.Resources{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tree.Supervisors(); err != nil {
		t.Fatal(err)
	}
	found, err := tree.Attempts()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range found {
		got[f.Tenant+"/"+f.Attempt] = true
	}
	if len(found) != 2 || !got["acme/a.1"] || !got["acme/a.2"] {
		t.Errorf("found %v", got)
	}
}

func TestRootStaysBelowTheMountPoint(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "/nofx", "../x", "a/../../b"} {
		if _, err := Open(bad); !step.Is(err, step.KindInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestBandwidth(t *testing.T) {
	t.Parallel()
	tree := open(t)
	for i, cores := range []float64{2, 0.5, 0.33333, 0.1, 0.05, 0.01, 0.001} {
		if err := tree.Group("acme", fmt.Sprint("cores", i)).Make(step.Resources{CPU: cores}); err != nil {
			t.Errorf("%v cores: %v", cores, err)
		}
	}
}
