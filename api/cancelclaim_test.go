package api_test

import (
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A step that a claim is taking at the moment of the cancellation is cancelled,
// too: its worker is told.
func TestCancelMeetsAClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a",` + alone + `},{"name":"b",` + alone + `}]`)
	first := w.one()
	open := r.holding("LOCK TABLE nofx.workspace_layer") // which a claim reads after it has taken its steps
	claimed := make(chan []wire.Lease, 1)
	go func() { claimed <- w.claim(1, 0) }()
	r.eventually("the claim has taken a step", func() bool { return r.waiters() == "1" })
	cancelled := make(chan error, 1)
	go func() {
		_, err := r.user.Cancel(t.Context(), run.ID)
		cancelled <- err
	}()
	r.eventually("the cancellation meets it", func() bool { return r.waiters() == "2" })
	open()
	second := <-claimed
	if err := <-cancelled; err != nil || len(second) != 1 {
		t.Fatalf("%v %+v", err, second)
	}
	told := map[string]bool{}
	answer, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Held: []wire.Fence{first.Fence, second[0].Fence}})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range answer.Cancel {
		told[o.AttemptID] = true
	}
	for _, l := range []wire.Lease{first, second[0]} {
		if !told[l.AttemptID] {
			t.Errorf("step %s goes on: %+v", l.StepName, answer.Cancel)
		}
		w.finish(l, cause(step.CauseCancelled))
	}
	if got, want := statuses(r.run(run.ID)), "cancelled a=cancelled/1 b=cancelled/1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
