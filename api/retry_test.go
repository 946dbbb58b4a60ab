package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// events of one type in a run's timeline.
func (r *rig) eventsOf(id string, kind step.EventType) []step.Event {
	r.t.Helper()
	all, err := r.user.Timeline(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []step.Event
	for _, e := range all {
		if e.Type == kind {
			out = append(out, e)
		}
	}
	return out
}

// A handler's policy holds where a step says nothing, and the step's goes over
// it.
func TestHandlersRetryPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:fail","retry":{"backoff_ms":1}},{"name":"b","tool":"test:fail","retry":{"attempts":1}},
		{"name":"c","tool":"test:fail","retry":{"backoff_ms":1,"never_exit_codes":[1]}}]`)
	attempts := map[string]int{}
	for range 5 {
		l := w.one()
		attempts[l.StepName]++
		w.finish(l, exit(1))
	}
	if d := r.run(run.ID); d.Run.Status != step.RunFailed || attempts["a"] != 3 || attempts["b"] != 1 || attempts["c"] != 1 {
		t.Errorf("%v: %+v", attempts, d)
	}
	dead := r.eventsOf(run.ID, step.EventStepDead)
	if len(dead) != 1 || dead[0].StepName != "a" || dead[0].Payload["reason"] != "all of its 3 attempts failed" || dead[0].Payload["entry"] == "" {
		t.Errorf("%+v", dead)
	}
	list, err := r.user.Handlers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range list.Handlers {
		if h.Tool == "test:fail" && (h.Retry == nil || h.Retry.Attempts != 3) || h.Tool == "bash" && h.Retry != nil {
			t.Errorf("%+v", h)
		}
	}
}

// A step is tried again after the codes that it names and after no other.
func TestRetryOnExitCodes(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"true"},"retry":{"attempts":5,"exit_codes":[75],"on":["timeout"]}}]`)
	w.finish(w.one(), exit(75))
	w.finish(w.one(), cause(step.CauseTimeout))
	w.finish(w.one(), exit(1))
	if d := r.run(run.ID); d.Run.Status != step.RunFailed || d.Steps[0].Attempt != 3 {
		t.Errorf("%+v", d)
	}
	if dead := r.eventsOf(run.ID, step.EventStepDead); len(dead) != 1 || dead[0].Payload["reason"] != "its policy does not try exit 1 again" {
		t.Errorf("%+v", dead)
	}
}

// All steps of a run draw on one budget; the event says when it is used up.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","retry_budget":3,"steps":[
		{"name":"a","tool":"bash","inputs":{"command":"true"},"retry":{"attempts":9}},{"name":"b","tool":"bash","inputs":{"command":"true"},"retry":{"attempts":9}}]}}`))
	var run wire.RunCreated
	if err := json.Unmarshal(raw, &run); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	n := 0
	for ; r.run(run.ID).Run.EndedAt == nil; n++ {
		w.finish(w.one(), exit(1))
	}
	if retries := r.eventsOf(run.ID, step.EventStepRetry); n != 5 || len(retries) != 3 {
		t.Errorf("%d attempts, %d retries", n, len(retries))
	}
	for _, e := range r.eventsOf(run.ID, step.EventStepDead) {
		if e.Payload["reason"] != "the retry budget of the run is used up" {
			t.Errorf("%+v", e)
		}
	}
}

// What the driver asks for is waited for.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	v := cause(step.CauseDriverError)
	v.Verdict.RetryAfterMS = 3_600_000
	if _, err := w.ship(wire.JournalBatch{Fence: w.one().Fence, Records: []wire.Record{{N: 1, Type: wire.RecordVerdict, Verdict: &v}}}); err != nil {
		t.Fatal(err)
	}
	if e := r.eventsOf(run.ID, step.EventStepRetry); len(e) != 1 || e[0].Payload["wait_ms"] != float64(3_600_000) {
		t.Errorf("%+v", e)
	}
	if leases := w.claim(1, 0); len(leases) != 0 {
		t.Errorf("%+v", leases)
	}
	due := r.column("SELECT to_char(due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM nofx.step WHERE run_id = '" + run.ID + "'")[0]
	if got, want := r.run(run.ID).Steps[0].WaitingFor, "its next try, at "+due; got != want {
		t.Errorf("it waits for %q, want %q", got, want)
	}
	if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if got := r.run(run.ID).Steps[0]; got.Verdict == nil || got.Verdict.Message != "cancelled before its next try" || got.WaitingFor != "" {
		t.Errorf("cancelled between two tries: %+v", got)
	}
	other := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	bad := exit(0)
	bad.Verdict.RetryAfterMS = 1
	if _, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(bad)}); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "retry_after_ms") {
		t.Errorf("with another cause: %v", err)
	}
	w.finish(l, exit(0))
	r.until(other.ID, func(d wire.RunDetail) bool { return d.Run.Status == step.RunSucceeded })
}

func TestBadRetryPolicies(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	for retry, want := range map[string]string{
		`{"attempts":21}`:                           "body.plan.steps[0].retry.attempts",
		`{"backoff_ms":-1}`:                         "body.plan.steps[0].retry.backoff_ms",
		`{"backoff_ms":2,"max_backoff_ms":1}`:       "body.plan.steps[0].retry.max_backoff_ms",
		`{"on":["exit","hunger"]}`:                  "body.plan.steps[0].retry.on[1]",
		`{"on":["cancelled"]}`:                      "body.plan.steps[0].retry.on[0]",
		`{"exit_codes":[0]}`:                        "body.plan.steps[0].retry.exit_codes[0]",
		`{"exit_codes":[1],"never_exit_codes":[1]}`: "body.plan.steps[0].retry.never_exit_codes[0]",
		`{"times":3}`:                               "body.plan.steps[0].retry.times",
	} {
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo","retry":`+retry+`}]}}`))
		var p wire.Problem
		if err := json.Unmarshal(raw, &p); err != nil || resp.StatusCode != http.StatusUnprocessableEntity || len(p.Errors) == 0 || p.Errors[0].Location != want {
			t.Errorf("%s: %d %s", retry, resp.StatusCode, raw)
		}
	}
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","retry_budget":20001,"steps":[{"name":"a","tool":"test:echo"}]}}`))
	if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), "body.plan.retry_budget") {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	r.submit(`[{"name":"a","tool":"test:echo","retry":{"attempts":20,"backoff_ms":0,"max_backoff_ms":86400000,"on":["exit"],"never_on":["oom"]},"idempotent":true}]`)
}

// A step that may be repeated says so itself, or its handler does, and the step
// may say no.
func TestIdempotentStepsAreRunAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host", offering("local", append(slices.Clone(able), "net.open")...))
	for mark, again := range map[string]bool{`"idempotent":true`: true, `"idempotent":false`: false, `"artifacts":[]`: false} {
		run := r.submit(`[{"name":"a","tool":"test:echo","network":"open",` + mark + `}]`)
		w.finish(w.one(), cause(step.CauseDriverError))
		d := r.run(run.ID)
		if retried := d.Steps[0].Status == step.StepQueued; retried != again {
			t.Errorf("%s: %+v", mark, d.Steps[0])
		}
		if !again {
			continue
		}
		l := w.claim(1, 10*time.Second)
		if len(l) != 1 || l[0].Attempt != 2 {
			t.Fatalf("%+v", l)
		}
		w.finish(l[0], exit(0))
	}
}
