package local

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func TestDiskCap(t *testing.T) {
	t.Parallel()
	limit := func(s *driver.Spec) { s.Resources.DiskMB = 16 }
	for what, c := range map[string]struct {
		script string
		cause  step.Cause
		code   int
	}{
		"bytes":              {"head -c 64000000 /dev/zero >/workspace/big", step.CauseDisk, 1},
		"inodes":             {"i=0; while :; do : >/workspace/$i; i=$((i+1)); done", step.CauseDisk, 2},
		"enough":             {"head -c 4000000 /dev/zero >/workspace/big", step.CauseExit, 0},
		"cleaned up":         {"head -c 64000000 /dev/zero >/workspace/big; rm /workspace/big", step.CauseExit, 0},
		"another reason":     {"exit 5", step.CauseExit, 5},
		"not in the root":    {"head -c 1000 /dev/zero >/big", step.CauseExit, 2},
		"nothing beside it":  {"cd /; find / -xdev -type d -writable 2>/dev/null | grep -v -E '^/(workspace|tmp|home/step|proc|dev)' && exit 9; exit 0", step.CauseExit, 0},
		"a device's own way": {"cat /proc/self/mountinfo | grep -c ' /workspace .* - ext4 ' | grep -qx 1", step.CauseExit, 0},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newBox(t, newDriver(t), limit).sh(t, c.script)
			if r.exit.Cause != c.cause || r.exit.Code != c.code || r.exit.Usage.DiskBytes == 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// What is told later, as when the host has been down, is of the workspace and
// not of the disk that its mount has uncovered.
func TestDiskCapLater(t *testing.T) {
	t.Parallel()
	b := newBox(t, newDriver(t), func(s *driver.Spec) { s.Resources.DiskMB = 16 })
	if r := b.sh(t, "exit 5"); r.exit.Usage.DiskBytes == 0 || r.exit.Usage.DiskBytes > 16<<20 {
		t.Errorf("%+v", r.exit)
	}
	if err := unix.Unmount(b.s.Host.Workspace, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	state, err := b.d.Recover(t.Context(), b.h)
	if err != nil || len(state.Execs) != 1 || state.Execs[0].Exit == nil {
		t.Fatalf("%+v, %v", state, err)
	}
	if x := state.Execs[0].Exit; x.Usage.DiskBytes != 0 || x.Code != 5 {
		t.Errorf("%+v", x)
	}
}

// What a step reads and writes past the cache takes as long as its cap says.
func TestBlockIO(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	const write = "dd if=/dev/zero of=/workspace/f bs=1M count=6 oflag=direct 2>/dev/null"
	for _, disk := range []int64{0, 16} {
		r := newBox(t, d, func(s *driver.Spec) { s.Resources.IOMBs, s.Resources.DiskMB = 2, disk }).sh(t, write)
		if r.exit.Code != 0 || r.exit.Usage.WallMS < 1500 {
			t.Errorf("6 MiB at 2 MiB a second, disk cap %d: %+v", disk, r)
		}
	}
	if r := newBox(t, d).sh(t, write); r.exit.Code != 0 {
		t.Errorf("without a cap: %+v", r)
	}
	s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Network: step.NetworkNone}
	newHost().Fill(t, &s)
	s.Resources.IOMBs = 2 // and no group that enforces it
	if _, err := d.Create(t.Context(), s); !step.Is(err, step.KindInvalid) {
		t.Errorf("a cap that nobody enforces: %v", err)
	}
}

func TestDiskCapRefused(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	for what, workspace := range map[string]string{"private": "", "a plain folder": t.TempDir()} {
		s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Network: step.NetworkNone}
		newHost().Fill(t, &s)
		s.Resources.DiskMB, s.Host.Workspace, s.Host.WorkspaceUID = 16, workspace, s.Host.UIDBase+1
		if _, err := d.Create(t.Context(), s); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
