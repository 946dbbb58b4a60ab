package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// count is a program that takes some seconds, and what it writes.
const count = "i=1; while [ $i -le 200 ]; do echo $i; i=$((i+1)); sleep 0.1; done"

func counted() string {
	var b strings.Builder
	for i := range 200 {
		b.WriteString(strconv.Itoa(i+1) + "\n")
	}
	return b.String()
}

// begin runs count and returns when its third line has come.
func begin(t *testing.T, d *Driver, h driver.Handle) (result <-chan ran) {
	t.Helper()
	started, done := make(chan struct{}), make(chan ran, 1)
	go func() {
		var r ran
		open := true
		err := d.Exec(context.Background(), h, driver.ExecSpec{ID: "main", Argv: []string{"/bin/sh", "-c", count}, Env: []string{"PATH=/bin"}}, func(e driver.ExecEvent) error {
			err := r.sink(e)
			if open && strings.Contains(r.out, "3\n") {
				open = false
				close(started)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	select {
	case <-started:
	case r := <-done:
		t.Fatalf("it ended at once: %+v", r)
	case <-time.After(time.Minute):
		t.Fatal("it does not begin")
	}
	return done
}

// An engine that restarts and keeps its containers costs a step nothing,
// however it ends; one that does not keep them ends the step, and says so.
func TestEngineRestarts(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		args []string
		sig  syscall.Signal
		kept bool
	}{
		"killed live-restore":  {[]string{"--live-restore"}, syscall.SIGKILL, true},
		"stopped live-restore": {[]string{"--live-restore"}, syscall.SIGTERM, true},
		"stopped":              {nil, syscall.SIGTERM, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			e, err := testdocker.Start(t.Context(), t.TempDir(), tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := e.Stop(); err != nil {
					t.Error(err)
				}
			})
			d := configured(t, func(c *Config) { c.Host = e.Host() })
			h, _ := newBox(t, d)
			done := begin(t, d, h)
			if err := e.Restart(t.Context(), tc.sig); err != nil {
				t.Fatal(err)
			}
			r := <-done
			if tc.kept {
				if r.exit.Cause != step.CauseExit || r.exit.Code != 0 || r.out != counted() {
					t.Errorf("%+v", r)
				}
				// The engine still knows the container: it can be removed.
				return
			}
			if r.exit.Cause != step.CauseLost && r.exit.Cause != step.CauseSignal {
				t.Errorf("%+v", r.exit)
			}
			if !strings.HasPrefix(counted(), r.out) || r.out == "" {
				t.Errorf("its output is not the beginning of what it wrote: %q", r.out)
			}
		})
	}
}

// healthNow is the first that a driver says of its health.
func healthNow(t *testing.T, d *Driver) (h driver.Health) {
	t.Helper()
	enough := errors.New("that is enough")
	if err := d.Health(t.Context(), func(got driver.Health) error {
		h = got
		return enough
	}); !errors.Is(err, enough) {
		t.Error(err)
	}
	return h
}

// A driver that is configured before its engine is up takes it as it comes.
func TestEngineComesLater(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	d := configured(t, withGVisor, func(c *Config) { c.Host = "unix://" + socket })
	level := func() bool {
		t.Helper()
		desc, err := d.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return desc.Capabilities.Has(driver.CapIsolationGVisor)
	}
	if level() {
		t.Error("a level that nobody has tried is declared")
	}
	if h := healthNow(t, d); h.Healthy || !strings.Contains(h.Message, "engine") {
		t.Errorf("%+v", h)
	}
	if _, err := d.Create(t.Context(), newSpec(t)); !step.Is(err, step.KindUnavailable) {
		t.Errorf("%v", err)
	}
	config, err := engineConfig()
	if err != nil {
		t.Fatal(err)
	}
	e, err := testdocker.StartWith(t.Context(), t.TempDir(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Symlink(e.Socket(), socket); err != nil { // with its image: what is tried needs that
		t.Fatal(err)
	}
	well, enough := context.WithTimeout(t.Context(), time.Minute)
	defer enough()
	_ = d.Health(well, func(got driver.Health) error {
		if got.Healthy {
			enough()
		}
		return nil
	})
	if h := healthNow(t, d); !h.Healthy {
		t.Errorf("%+v", h)
	}
	if !level() {
		t.Error("healthy, and the level that was to be tried is not declared")
	}
	h, _ := newBox(t, d)
	if r := run(t, d, h, "echo there"); r.out != "there\n" {
		t.Errorf("%+v", r)
	}
}

// A container that is removed behind the driver's back: the step is lost, the
// sandbox can still be read and destroyed.
func TestRemovedFromOutside(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, s := newBox(t, d)
	done := begin(t, d, h)
	if err := docker.Do(t.Context(), "DELETE", "/containers/"+name(s.ID)+"?force=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.exit.Cause != step.CauseLost || !strings.Contains(r.exit.Message, "outside") {
		t.Errorf("%+v", r.exit)
	}
	st, err := d.Recover(t.Context(), h)
	if err != nil || st.Phase != driver.PhaseExited || len(st.Execs) != 1 || st.Execs[0].Exit.Cause != step.CauseLost {
		t.Errorf("%+v, %v", st, err)
	}
}

// When PID 1 is what the kernel kills, the engine's word decides.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, _ := newBox(t, d, func(s *driver.Spec) { s.Resources.MemoryMB = 32 })
	r := run(t, d, h, "head -c 200000000 /dev/zero | tail | wc -c")
	if r.exit.Cause != step.CauseOOM || r.exit.Attested != step.AttestedKernel || r.exit.Usage.MemoryPeakBytes > 33<<20 {
		t.Errorf("%+v", r.exit)
	}
}

// What has no folder any more is found through the engine, removed by Destroy
// and by the sweep; another installation's stays.
func TestOrphans(t *testing.T) {
	t.Parallel()
	d := configured(t)
	h, s := newBox(t, d)
	other, _ := newBox(t, d)
	dir, err := d.Folder(h)
	if err != nil {
		t.Fatal(err)
	}
	hidden := filepath.Join(t.TempDir(), "gone")
	if err := os.Rename(dir, hidden); err != nil {
		t.Fatal(err)
	}
	list, err := d.List(t.Context(), s.Tags.Owner)
	if err != nil || len(list) != 1 || list[0].Handle.ID != s.ID || list[0].Phase != driver.PhaseRunning || list[0].Tags != s.Tags {
		t.Errorf("%+v, %v", list, err)
	}
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.sweep(t.Context(), set, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if st, err := set.engine.inspect(t.Context(), name(s.ID)); err != nil || !st.running {
		t.Errorf("a young one was swept: %+v, %v", st, err)
	}
	if err := d.sweep(t.Context(), set, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := set.engine.inspect(t.Context(), name(s.ID)); !step.Is(err, step.KindNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if r := run(t, d, other, "echo here"); r.out != "here\n" {
		t.Errorf("the other: %+v", r)
	}
	if err := os.Rename(hidden, dir); err != nil { // for the clean-up, which ends its supervisor
		t.Fatal(err)
	}
}

// A container that got our labels from its image is whoever's made it: it is not
// listed, and no sweep removes it.
func TestLabelsOfAnImage(t *testing.T) {
	t.Parallel()
	d := configured(t)
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	var theirs struct{ Id string } //nolint:revive // the engine's spelling
	if err := docker.Do(t.Context(), "POST", "/containers/create?name=somebody-elses", map[string]any{
		"Image": testdocker.Image, "Cmd": []string{"true"},
		"Labels": map[string]string{labelOwner: "owner-of-labels", labelTag: "x", labelBox: "box", labelState: set.config.StateDir},
	}, &theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Do(context.Background(), "DELETE", "/containers/"+theirs.Id+"?force=1", nil, nil); err != nil {
			t.Errorf("it is not there any more: %v", err)
		}
	})
	if list, err := d.List(t.Context(), "owner-of-labels"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := d.sweep(t.Context(), set, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := set.engine.inspect(t.Context(), theirs.Id); err != nil {
		t.Errorf("it was swept: %v", err)
	}
}
