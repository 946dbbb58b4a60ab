package api_test

import (
	"net/http"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A step that went to another driver, died there and is tried again begins at
// its first driver, behind that one's breaker; going on to a driver takes
// nothing from the run's retry budget.
func TestAgainAfterFallback(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host", two()...)
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","retry_budget":1,"steps":[{"name":"a","tool":"test:echo","retry":{"never_on":["driver_error"]},`+listed+`}]}}`))
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	l := w.one()
	w.end(l, failingWith(step.KindUnavailable))
	l = w.one()
	if l.Driver != "second" {
		t.Fatalf("%+v", l)
	}
	if got := r.column("SELECT retries::text FROM nofx.run"); got[0] != "0" {
		t.Errorf("the move took %v of the budget", got)
	}
	w.end(l, failingWith(step.KindUnavailable))
	dead := r.dead(wire.DeadFilter{})
	if len(dead) != 1 || dead[0].Driver != "second" {
		t.Fatalf("%+v", dead)
	}
	if _, err := r.user.RequeueDead(t.Context(), dead[0].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	l = w.one()
	if l.Driver != "first" || l.Generation != 2 || l.Attempt != 1 {
		t.Errorf("requeued: %+v", l)
	}
	w.end(l, failingWith(step.KindUnavailable)) // to the second again
	w.end(w.one(), failingWith(step.KindUnavailable))
	dead = r.dead(wire.DeadFilter{})
	if len(dead) != 1 {
		t.Fatalf("%+v", dead)
	}
	// With a driver of the operator's choice there is only that one.
	if _, err := r.user.RequeueDead(t.Context(), dead[0].ID, wire.RequeueDead{Driver: "second"}, ""); err != nil {
		t.Fatal(err)
	}
	l = w.one()
	if l.Driver != "second" || l.Generation != 3 {
		t.Errorf("requeued on second: %+v", l)
	}
	w.finish(l, exit(0))
	d := r.run(l.RunID)
	if a := d.Steps[0]; a.Status != step.StepSucceeded || a.Driver != "second" || a.Fallback != "" || len(a.Drivers) > 1 {
		t.Errorf("%+v", a)
	}
	if got := r.column("SELECT lane || ' ' || place || ' ' || cardinality(drivers) || ' ' || on_open FROM nofx.step"); got[0] != "test:echo 1 0 wait" {
		t.Errorf("%v", got)
	}
}
