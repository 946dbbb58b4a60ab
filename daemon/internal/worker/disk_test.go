package worker

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const usualMB = 8

// fills has steps write so many MiB into their workspaces before they go on.
func fills(mb map[string]int) func(*rig) {
	return func(r *rig) {
		r.usual = step.Resources{DiskMB: usualMB}
		r.plugins.works = func(id, dir string) error {
			return os.WriteFile(filepath.Join(dir, id), make([]byte, mb[id]<<20), 0o644)
		}
	}
}

func inRun(run string, l wire.Lease) wire.Lease {
	l.RunID, l.Workspace = run, step.WorkspaceRun
	return l
}

func isDisk(t *testing.T, v step.Verdict, least int64, message string) {
	t.Helper()
	if v.Cause != step.CauseDisk || v.ExitCode != nil || v.Signal != "" || !strings.Contains(v.Message, message) || v.Usage.DiskBytes < least {
		t.Errorf("%s: %+v", v, v)
	}
}

// A step that writes more than the default ends, and its neighbour does not notice.
func TestDiskDefault(t *testing.T) {
	t.Parallel()
	for what, in := range map[string]func(run string, l wire.Lease) wire.Lease{
		"of a run": inRun, "of its own": func(_ string, l wire.Lease) wire.Lease { return l },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fills(map[string]int{"much": 12, "little": 2, "short": 3}))
			r.api.submit(in("run-2", lease("little", "sleep", "3600")))
			r.api.submit(in("run-1", lease("much", "sleep", "3600")))
			isDisk(t, r.api.verdict("much").verdict.Verdict, 8<<20, "more than the 8.0 MiB that a step without disk_mb has here")
			r.api.submit(in("run-3", lease("short", "true")))
			if v := r.api.verdict("short").verdict.Verdict; !v.Success() || v.Usage.DiskBytes < 3<<20 || v.Usage.DiskBytes > 4<<20 {
				t.Errorf("below it: %s: %+v", v, v)
			}
			r.api.change(func() { r.api.attempts["little"].cancel = true })
			if v := r.api.verdict("little").verdict.Verdict; v.Cause != step.CauseCancelled || v.Usage.DiskBytes < 2<<20 {
				t.Errorf("its neighbour: %s: %+v", v, v)
			}
			r.left()
		})
	}
}

// A step that is over before anybody has looked has put too much there all the same.
func TestDiskAtTheEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, fills(map[string]int{"a": 12}))
	r.api.submit(inRun("run-1", lease("a", "true")))
	isDisk(t, r.api.verdict("a").verdict.Verdict, 12<<20, "more than the 8.0 MiB")
	r.left()
}

// volumeDisk is this host's with volumes as a test says.
type volumeDisk struct {
	diskwatch.Host
	volume func() diskwatch.Volume
}

func (d *volumeDisk) Volume(string) (diskwatch.Volume, error) { return d.volume(), nil }

// Of a run all steps in the workspace end, and none begins there.
func TestDiskShared(t *testing.T) {
	t.Parallel()
	r := newRig(t, fills(map[string]int{"much": 12}))
	r.api.submit(inRun("run-1", lease("with", "sleep", "3600")))
	r.api.until("the first has begun", func() bool { return len(r.api.attempts["with"].records) > 0 })
	r.api.submit(inRun("run-1", lease("much", "sleep", "3600")))
	isDisk(t, r.api.verdict("much").verdict.Verdict, 8<<20, "more than the 8.0 MiB")
	isDisk(t, r.api.verdict("with").verdict.Verdict, 8<<20, "more than the 8.0 MiB")
	r.left()
	r.api.submit(inRun("run-1", lease("late", "true")))
	isDisk(t, r.api.verdict("late").verdict.Verdict, 12<<20, "more than the 8.0 MiB")
	if _, err := os.Stat(filepath.Join(r.dir, "work", "run-1", "late")); !os.IsNotExist(err) {
		t.Errorf("a step was at work in a workspace that is too large: %v", err)
	}
	r.api.submit(inRun("run-2", lease("elsewhere", "true")))
	if v := r.api.verdict("elsewhere").verdict.Verdict; !v.Success() {
		t.Errorf("another run's: %+v", v)
	}
	r.left()
}

// Why a step was told to end is known to the next process.
func TestDiskAfterRestart(t *testing.T) {
	t.Parallel()
	wrote := make(chan struct{})
	r := newRig(t, func(r *rig) {
		r.usual = step.Resources{DiskMB: usualMB}
		r.plugins.works = func(id, dir string) error {
			r.plugins.kill() // nothing can be stopped from now on
			defer close(wrote)
			return os.WriteFile(filepath.Join(dir, id), make([]byte, 12<<20), 0o644)
		}
	})
	r.api.submit(inRun("run-1", lease("a", "sleep", "3600")))
	<-wrote
	r.api.until("it is written down", func() bool {
		entries, err := r.ledger.Entries()
		return err == nil && len(entries) == 1 && entries[0].Disk != ""
	})
	r.kill()
	if err := os.WriteFile(filepath.Join(r.dir, "work", "run-1", "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.plugins.works = func(string, string) error { return nil }
	r.plugins.restart()
	r.start(4)
	isDisk(t, r.api.verdict("a").verdict.Verdict, 0, "more than the 8.0 MiB")
	r.left()
}

// A workspace with a size of its own that was full while the step ran is what it
// failed by, though it has room again; and nothing that a step succeeded by.
func TestVolumeWasFull(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	looked := make(chan bool, 1) // at a volume that is full, or at one that is not
	d := &volumeDisk{volume: func() diskwatch.Volume {
		is := full.Load()
		select {
		case looked <- is:
		default:
		}
		return diskwatch.Volume{Used: map[bool]int64{true: 16 << 20, false: 1 << 20}[is], Full: is}
	}}
	r := newRig(t, func(r *rig) {
		d.Host, r.disk = diskwatch.Host(r.dir), d
		r.plugins.works = func(string, string) error {
			for _, is := range []bool{true, false} {
				full.Store(is)
				for seen := 0; seen < 2; {
					select {
					case at := <-looked:
						if at == is {
							seen++
						}
					case <-time.After(20 * time.Second):
						t.Error("nobody looks")
						return nil
					}
				}
			}
			return nil
		}
	})
	for id, code := range map[string]string{"failed": "3", "well": "0"} {
		l := lease(id, "sh", "-c", "mem exit "+code)
		l.Resources.DiskMB = 16
		r.api.submit(l)
		v := r.api.verdict(id).verdict.Verdict
		if v.Usage.DiskBytes != 16<<20 {
			t.Errorf("%s: the most was %d", id, v.Usage.DiskBytes)
		}
		if id == "failed" {
			isDisk(t, v, 16<<20, "was full while it ran")
		} else if !v.Success() {
			t.Errorf("%s: %s: %+v", id, v, v)
		}
	}
	r.left()
}
