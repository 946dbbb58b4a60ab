package api_test

import (
	"testing"
	"time"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A step whose driver nobody has says what it waits for, and in the end why it
// did not begin. One whose driver is there waits for as long as it takes.
func TestNobodyHasTheDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.DriverWait = 10*time.Second, 3*time.Second })
	sick := offering("modal", able...)
	sick.Healthy = false
	w := r.worker("host", offering("local", able...), sick)
	busy := r.submit(`[{"name":"a","tool":"test:echo"}]`) // nobody claims it
	begin := time.Now()
	none := r.submit(`[{"name":"a","tool":"test:echo","driver":"container"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	unwell := r.submit(`[{"name":"a","tool":"test:echo","driver":"modal"}]`)
	for driver, run := range map[string]wire.RunCreated{"container": none, "modal": unwell} {
		d := r.until(run.ID, func(d wire.RunDetail) bool { return d.Steps[0].WaitingFor != "" })
		if want := "a worker with the driver " + driver + ": no live one has it healthy"; d.Steps[0].WaitingFor != want {
			t.Errorf("waits for %q, want %q", d.Steps[0].WaitingFor, want)
		}
	}
	for driver, run := range map[string]wire.RunCreated{"container": none, "modal": unwell} {
		d := r.untilBeating(w, run.ID, func(d wire.RunDetail) bool { return d.Run.Status == step.RunFailed })
		v := d.Steps[0].Verdict
		if v == nil || v.Cause != step.CauseDriverError || v.Message != "no worker has the driver "+driver || d.Steps[0].WaitingFor != "" {
			t.Errorf("%+v", d.Steps[0])
		}
	}
	if took := time.Since(begin); took < 2900*time.Millisecond {
		t.Errorf("gave up after %v", took)
	}
	if d := r.run(busy.ID); d.Steps[0].Status != step.StepQueued || d.Steps[0].WaitingFor != "" {
		t.Errorf("a step whose driver is there: %+v", d.Steps[0])
	}
	w.finish(w.one(), exit(0))
}

// The wait counts from when the driver was last there, not from when the step
// was queued.
func TestDriverWaitBeginsWithTheDriversEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.DriverWait = 2 * time.Second })
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	end := time.Now().Add(2500 * time.Millisecond)
	r.untilBeating(w, run.ID, func(wire.RunDetail) bool { return time.Now().After(end) })
	w.drivers[0].Healthy = false
	gone := time.Now()
	d := r.untilBeating(w, run.ID, func(d wire.RunDetail) bool { return d.Steps[0].Status.Terminal() })
	if took := time.Since(gone); took < time.Second || d.Steps[0].Verdict.Message != "no worker has the driver local" {
		t.Errorf("after %v: %+v", took, d.Steps[0].Verdict)
	}
}

// With no limit it waits on, and goes on when a worker comes.
func TestWaitsForADriverForEver(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.DriverWait = 10*time.Second, 0 })
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	end := time.Now().Add(3 * time.Second)
	r.until(run.ID, func(d wire.RunDetail) bool { return time.Now().After(end) && d.Steps[0].WaitingFor != "" })
	w := r.worker("host")
	w.finish(w.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
}

// A run's later step on a driver that the host of its workspace has not waits
// for that host alone, however many others have the driver.
func TestThePinnedWorkerHasNotTheDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.DriverWait = 10*time.Second, 2*time.Second })
	w := r.worker("host")
	other := r.worker("other", offering("container", able...))
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","driver":"container","depends_on":["a"]}]`)
	w.finish(w.one(), exit(0))
	d := r.until(run.ID, func(d wire.RunDetail) bool { return d.Steps[1].WaitingFor != "" })
	if want := "the driver container on the worker that has the run's workspace"; d.Steps[1].WaitingFor != want {
		t.Errorf("waits for %q", d.Steps[1].WaitingFor)
	}
	d = r.untilBeating(w, run.ID, func(d wire.RunDetail) bool { other.beat(); return d.Run.Status == step.RunFailed })
	if v := d.Steps[1].Verdict; v == nil || v.Message != "the worker that has the run's workspace has not the driver container" {
		t.Errorf("%+v", d.Steps[1])
	}
}

// beat says that the worker lives and what drivers it has.
func (w *worker) beat() {
	w.r.t.Helper()
	if _, err := w.Heartbeat(w.r.t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers}); err != nil {
		w.r.t.Fatal(err)
	}
}

// untilBeating polls the run until ok, with the worker alive.
func (r *rig) untilBeating(w *worker, id string, ok func(wire.RunDetail) bool) wire.RunDetail {
	r.t.Helper()
	return r.until(id, func(d wire.RunDetail) bool { w.beat(); return ok(d) })
}
