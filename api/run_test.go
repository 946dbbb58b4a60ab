package api_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A worker takes a run from its queue to its end, over HTTPS.
func TestLineCheck(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"echo","tool":"test:echo","inputs":{"msg":"hello from preview","n":3}}]`)
	if run.Status != step.RunQueued || run.ProjectID != "default" {
		t.Errorf("%+v", run)
	}
	l := w.one()
	if l.RunID != run.ID || l.StepName != "echo" || l.Attempt != 1 || l.Epoch != 1 || l.LeaseMS < 50_000 || string(l.Command.Stdin) != `{"msg":"hello from preview","n":3}` {
		t.Errorf("%+v", l)
	}
	w.finish(l, exit(0), `{"msg":"hello from preview","n":3}`)
	d := r.run(run.ID)
	if d.Run.Status != step.RunSucceeded || d.Steps[0].Status != step.StepSucceeded || string(d.Steps[0].Outputs) != `{"msg":"hello from preview","n":3}` ||
		d.Steps[0].StartedAt == nil || d.Steps[0].EndedAt == nil || d.Run.EndedAt == nil || d.Run.Title != "test" {
		t.Errorf("%+v", d)
	}
	want := []step.EventType{"run.created", "step.enqueued", "run.started", "step.started", "step.finished", "step.succeeded", "run.succeeded"}
	if diff := cmp.Diff(want, r.types(run.ID)); diff != "" {
		t.Error(diff)
	}
	page, err := r.user.Output(t.Context(), run.ID, d.Steps[0].ID, 5)
	if err != nil || !page.Done || page.NextOffset != 34 || len(page.Chunks) != 1 || page.Chunks[0].Offset != 5 {
		t.Errorf("%+v %v", page, err)
	}
}

// A replica whose clock was set back lists what the database says is there.
func TestListAfterAClockStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	r.sql("UPDATE nofx.run SET created_at = now() + interval '48 hours'")
	list, err := r.user.Runs(t.Context(), 0, "")
	if err != nil || len(list.Runs) != 1 || list.Runs[0].ID != run.ID {
		t.Errorf("%+v %v", list, err)
	}
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]},
		{"name":"c","tool":"test:echo","depends_on":["a","b"]},{"name":"d","tool":"test:echo"}]`)
	first := w.claim(10, 0)
	if len(first) != 2 || first[0].StepName == first[1].StepName {
		t.Fatalf("%+v", first)
	}
	if more := w.claim(10, 0); len(more) != 0 {
		t.Fatalf("%+v", more)
	}
	for _, l := range first {
		w.finish(l, exit(0))
	}
	b := w.one()
	if b.StepName != "b" {
		t.Fatalf("%+v", b)
	}
	w.finish(b, exit(3), "", "broken")
	d := r.run(run.ID)
	status := map[string]step.Status{}
	for _, s := range d.Steps {
		status[s.Name] = s.Status
	}
	want := map[string]step.Status{"a": step.StepSucceeded, "b": step.StepFailed, "c": step.StepCancelled, "d": step.StepSucceeded}
	if diff := cmp.Diff(want, status); diff != "" || d.Run.Status != step.RunFailed {
		t.Error(diff, d.Run.Status)
	}
}

// The step's own retry policy: red twice, then into the DLQ.
func TestRetry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:fail","retry":{"attempts":2,"backoff_ms":100}}]`)
	w.finish(w.one(), exit(1))
	if d := r.run(run.ID); d.Run.Status != step.RunRunning || d.Steps[0].Status != step.StepQueued {
		t.Errorf("while it is tried again: %+v", d)
	}
	l := w.one()
	if l.Attempt != 2 || l.Epoch != 2 {
		t.Errorf("%+v", l)
	}
	w.finish(l, exit(1))
	if d := r.run(run.ID); d.Run.Status != step.RunFailed || d.Steps[0].Attempt != 2 {
		t.Errorf("%+v", d)
	}
	want := []step.EventType{"run.created", "step.enqueued", "run.started", "step.started", "step.finished", "step.retry",
		"step.started", "step.finished", "step.failed", "step.dead", "run.failed"}
	if diff := cmp.Diff(want, r.types(run.ID)); diff != "" {
		t.Error(diff)
	}
}

func TestPolicyDenies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"env"},"tools_allowed":["gate:lint"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	d := r.run(run.ID)
	if run.Status != step.RunFailed || d.Run.Status != step.RunFailed || d.Steps[0].Verdict.Cause != step.CausePolicy || d.Steps[0].Attempt != 0 || d.Steps[1].Status != step.StepCancelled {
		t.Errorf("%+v", d)
	}
	want := []step.EventType{"run.created", "policy.denied", "step.failed", "step.cancelled", "run.failed"}
	if diff := cmp.Diff(want, r.types(run.ID)); diff != "" {
		t.Error(diff)
	}
	if leases := w.claim(1, 0); len(leases) != 0 {
		t.Errorf("%+v", leases)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	l := w.one()
	if _, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(0))[:1]}); err != nil {
		t.Fatal(err)
	}
	got := make(chan wire.HeartbeatAnswer, 1)
	go func() {
		a, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Held: []wire.Fence{l.Fence}, WaitMS: 20_000})
		if err != nil {
			t.Error(err)
		}
		got <- a
	}()
	res, err := r.user.Cancel(t.Context(), run.ID)
	if err != nil || res.Status != step.RunRunning {
		t.Errorf("%+v %v", res, err)
	}
	begin := time.Now()
	a := <-got
	if len(a.Cancel) != 1 || a.Cancel[0].AttemptID != l.AttemptID || a.Cancel[0].GraceMS <= 0 || time.Since(begin) > 5*time.Second {
		t.Errorf("%+v", a)
	}
	w.finish2(l, cause(step.CauseCancelled))
	d := r.run(run.ID)
	if d.Run.Status != step.RunCancelled || d.Steps[0].Status != step.StepCancelled || d.Steps[1].Status != step.StepCancelled {
		t.Errorf("%+v", d)
	}
	if _, err := r.user.Cancel(t.Context(), run.ID); !step.Is(err, step.KindConflict) {
		t.Errorf("cancel of an ended run: %v", err)
	}
}

// finish2 ends an attempt whose start is stored already.
func (w *worker) finish2(l wire.Lease, v wire.VerdictRecord) {
	w.r.t.Helper()
	a, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: []wire.Record{{N: 2, Type: wire.RecordVerdict, Verdict: &v}}})
	if err != nil || len(a.Acks) != 1 || a.Acks[0].N != 2 || !a.Acks[0].Ended {
		w.r.t.Fatalf("%+v %v", a, err)
	}
}
