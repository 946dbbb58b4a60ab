package api_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
)

// oldest is the metric.
func (r *rig) oldest() float64 {
	r.t.Helper()
	_, raw := r.call("GET", "/metrics", "", nil)
	m := regexp.MustCompile(`(?m)^nofx_queue_oldest_age_seconds ([0-9.e+]+)$`).FindSubmatch(raw)
	if m == nil {
		r.t.Fatalf("no such metric in\n%s", raw)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// The run of a queue's oldest step tells once that the queue stands, and again
// only after it has moved.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	r := keeping(t, func(c *api.Config) { c.QueuePressure = 10 * time.Minute })
	other := r.client("calm", "user")
	if _, err := other.Runs(t.Context(), 1, ""); err != nil {
		t.Fatal(err)
	}
	first, second := r.submit(`[{"name":"a","tool":"test:echo"}]`), r.submit(`[{"name":"b","tool":"test:echo"},{"name":"c","tool":"test:echo"}]`)
	waits := func(run, name string, seconds int) {
		t.Helper()
		r.sql("UPDATE nofx.step SET due_at = now() - make_interval(secs => $3) WHERE run_id = $1 AND name = $2", run, name, seconds)
	}
	told := func(run string) int { return len(r.eventsOf(run, step.EventQueuePressure)) }
	expect := func(what string, a, b int) {
		t.Helper()
		for range 2 { // a repeat changes nothing
			r.work()
			if got := [2]int{told(first.ID), told(second.ID)}; got != [2]int{a, b} {
				t.Fatalf("%s: %v events, want %d and %d", what, got, a, b)
			}
		}
	}
	expect("nothing waits for long", 0, 0)
	waits(first.ID, "a", 590)
	expect("just below", 0, 0)
	waits(second.ID, "c", -3600) // not due yet
	expect("one that is not due", 0, 0)
	waits(first.ID, "a", 605)
	expect("above", 1, 0)
	e := r.eventsOf(first.ID, step.EventQueuePressure)[0]
	age, _ := e.Payload["age_seconds"].(float64)
	if age < 605 || age > 700 {
		t.Errorf("age %v", e.Payload)
	}
	delete(e.Payload, "age_seconds")
	if diff := cmp.Diff(map[string]any{"threshold_seconds": 600.0, "depth": 2.0}, e.Payload); diff != "" || e.StepName != "a" || e.StepID == "" {
		t.Errorf("%+v %s", e, diff)
	}
	if got := r.oldest(); got < 605 || got > 700 {
		t.Errorf("oldest %v", got)
	}
	waits(second.ID, "b", 2000)
	expect("the same episode, of another's oldest step", 1, 0)
	waits(second.ID, "b", 0)
	waits(first.ID, "a", 330)
	expect("not below the half", 1, 0)
	waits(first.ID, "a", 605)
	expect("above again in the same episode", 1, 0)
	waits(first.ID, "a", 200)
	expect("below the half", 1, 0)
	if got := r.column("SELECT count(*)::text FROM nofx.queue_pressure"); got[0] != "0" {
		t.Errorf("%s episodes are open", got[0])
	}
	waits(second.ID, "b", 700)
	expect("the next episode", 1, 1)

	w := r.worker("host")
	for range 2 {
		w.finish(w.one(), exit(0))
	}
	expect("the queue is empty", 1, 1)
	if got := r.oldest(); got != 0 {
		t.Errorf("oldest %v of an empty queue", got)
	}
	if got := r.types(first.ID); got[len(got)-1] != step.EventRunSucceeded {
		t.Errorf("%v", got)
	}
}

// Each tenant has its own episodes, and none without a threshold.
func TestBackpressureByTenant(t *testing.T) {
	t.Parallel()
	for _, threshold := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprint(threshold), func(t *testing.T) {
			t.Parallel()
			r := keeping(t, func(c *api.Config) { c.QueuePressure = threshold })
			run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
			r.client("beta", "user")
			resp, raw := r.call("POST", "/api/runs", r.keys["beta user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]}}`))
			if resp.StatusCode != http.StatusCreated {
				t.Fatalf("%d %s", resp.StatusCode, raw)
			}
			r.sql("UPDATE nofx.step SET due_at = now() - interval '5 minutes'")
			r.work()
			want := []string{"acme", "beta"}
			if threshold == 0 {
				want = []string{}
			}
			if diff := cmp.Diff(want, append([]string{}, r.column("SELECT tenant_id FROM nofx.event WHERE type = 'queue.backpressure' ORDER BY 1")...)); diff != "" {
				t.Error(diff)
			}
			r.run(run.ID)
		})
	}
}

// A tenant whose own quota keeps its steps back is not told that the fleet is too
// small, nor is its operator; one that has room is, with what its quota is.
func TestQuotaIsNoBackpressure(t *testing.T) {
	t.Parallel()
	r := keeping(t, func(c *api.Config) { c.QueuePressure = time.Minute })
	w := r.worker("host")
	run := r.submit(`[{"name":"runs",` + alone + `},{"name":"waits",` + alone + `}]`)
	r.concurrency("acme", 0, 1)
	l := w.one()
	r.sql("UPDATE nofx.step SET due_at = now() - interval '5 minutes'")
	told := func() []step.Event { r.work(); return r.eventsOf(run.ID, step.EventQueuePressure) }
	if got := told(); len(got) > 0 || r.oldest() > 0 {
		t.Errorf("as many run as may: %+v, oldest %v", got, r.oldest())
	}
	quota := func(compute any) {
		r.sql("UPDATE nofx.tenant SET month_compute_ms = $1 WHERE tenant_id = 'acme'", compute)
	}
	r.concurrency("acme", 0, 2)
	quota(0)
	if got := told(); len(got) > 0 || r.oldest() > 0 {
		t.Errorf("the month is used up: %+v, oldest %v", got, r.oldest())
	}
	quota(nil)
	got := told()
	if len(got) != 1 || got[0].Payload["running"] != 1.0 || got[0].Payload["max_concurrent_steps"] != 2.0 || r.oldest() < 300 {
		t.Errorf("with room: %+v, oldest %v", got, r.oldest())
	}
	r.concurrency("acme", 0, 1) // an episode that is open does not begin again
	told()
	r.concurrency("acme", 0, 2)
	if got := told(); len(got) != 1 {
		t.Errorf("the same episode: %+v", got)
	}
	w.finish(l, exit(0))
}
