package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// plan posts a plan with these fields of its own.
func (r *rig) plan(fields, steps string) wire.RunCreated {
	r.t.Helper()
	return r.submit(steps + fields)
}

func (r *rig) concurrency(tenant string, runs, steps int32) {
	r.t.Helper()
	if err := api.SetTenantConcurrency(r.t.Context(), r.db.Admin, tenant, &runs, &steps); err != nil {
		r.t.Fatal(err)
	}
}

func names(leases []wire.Lease) []string {
	out := make([]string, len(leases))
	for i, l := range leases {
		out[i] = l.StepName
	}
	return out
}

// drain has four workers run steps until so many have ended, and gives how many
// of those that count ran at once.
func (r *rig) drain(total int, counts func(wire.Lease) bool) (most int) {
	r.t.Helper()
	var mu sync.Mutex
	running, ended := 0, 0
	begin := func(leases []wire.Lease) {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range leases {
			if counts(l) {
				running++
			}
		}
		most = max(most, running)
	}
	end := func(l wire.Lease) {
		mu.Lock()
		defer mu.Unlock()
		if counts(l) {
			running--
		}
		ended++
	}
	done := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return ended == total
	}
	var wg sync.WaitGroup
	for i := range 4 {
		w := r.worker(fmt.Sprint("host-", i))
		wg.Go(func() {
			for !done() {
				leases := w.claim(3, time.Second)
				begin(leases)
				for _, l := range leases {
					end(l) // before the API hears of it
					w.finish(l, exit(0))
				}
			}
		})
	}
	wg.Wait()
	return most
}

const alone = `"tool":"test:echo","workspace":"step"`

// Of what waits the highest priority goes first, then the oldest; a step's own
// goes before its plan's.
func TestPriority(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.submit(`[{"name":"old",` + alone + `}]`)
	r.plan(`,"priority":-3`, `[{"name":"low",`+alone+`},{"name":"low but raised",`+alone+`,"priority":9}]`)
	r.plan(`,"priority":5`, `[{"name":"high",`+alone+`},{"name":"back to normal",`+alone+`,"priority":0}]`)
	last := r.submit(`[{"name":"new",` + alone + `}]`)
	var got []string
	for range 3 {
		got = append(got, names(w.claim(2, 0))...)
	}
	want := []string{"low but raised", "high", "old", "back to normal", "new", "low"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if d := r.run(last.ID); d.Run.Priority != 0 || d.Steps[0].Priority != 0 {
		t.Errorf("%+v", d)
	}
}

// A tenant with a backlog does not keep out one that comes after it, also where
// one step is claimed at a time: who has least running goes first.
func TestFairness(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprintf(`{"name":"a%d",%s,"priority":10}`, i, alone))
	}
	r.submit("[" + strings.Join(many, ",") + "]")
	r.client("beta", "user")
	r.call("POST", "/api/runs", r.keys["beta user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"b",`+alone+`}]}}`))
	got := append(names(w.claim(1, 0)), names(w.claim(1, 0))...)
	if !slices.Contains(got, "b") {
		t.Errorf("two claims of one step each got %v", got)
	}
}

// No more steps with a key run than may, whoever claims and however; those that
// may not are set aside, and do not keep others out.
func TestConcurrencyKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var steps []string
	for i := range 30 {
		steps = append(steps, fmt.Sprintf(`{"name":"k%02d",%s,"concurrency":{"key":"deploy","limit":3}}`, i, alone))
	}
	run := r.submit("[" + strings.Join(append(steps, `{"name":"free",`+alone+`}`), ",") + "]")
	other := r.submit(`[{"name":"other",` + alone + `,"concurrency":{"key":"else"}}]`)
	most := r.drain(32, func(l wire.Lease) bool { return strings.HasPrefix(l.StepName, "k") })
	for _, id := range []string{run.ID, other.ID} {
		if d := r.run(id); d.Run.Status != step.RunSucceeded {
			t.Errorf("%+v", d.Run)
		}
	}
	if most > 3 || most == 0 {
		t.Errorf("%d ran at once", most)
	}
}

// A step that waits for its key says so; what ends, however, makes room.
func TestKeyMakesRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	const key = `,"concurrency":{"key":"one"}`
	first := r.submit(`[{"name":"a",` + alone + key + `}]`)
	a := w.one()
	second := r.submit(`[{"name":"b",` + alone + key + `},{"name":"c",` + alone + `}]`)
	if got := names(w.claim(4, 0)); !slices.Equal(got, []string{"c"}) {
		t.Fatalf("claimed %v", got)
	}
	if d := r.run(second.ID); d.Steps[0].WaitingFor != `its turn: 1 at once of the steps with the key "one"` || d.Steps[0].Status != step.StepQueued {
		t.Errorf("%+v", d.Steps[0])
	}
	// Given back, it may be claimed again, and by its age goes first.
	if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{a.Fence}}); err != nil {
		t.Fatal(err)
	}
	got := w.claim(4, 10*time.Second)
	if len(got) != 1 {
		t.Fatalf("claimed %v", names(got))
	}
	// While a retry waits the key is free.
	w.finish(got[0], cause(step.CauseLost))
	next := w.claim(4, 10*time.Second)
	if len(next) != 1 || next[0].StepName == got[0].StepName {
		t.Fatalf("claimed %v after %v", names(next), names(got))
	}
	w.finish(next[0], exit(1))
	w.finish(w.one(), exit(0))
	for _, id := range []string{first.ID, second.ID} {
		if d := r.run(id); d.Steps[0].Status != step.StepSucceeded && d.Steps[0].Status != step.StepFailed {
			t.Errorf("%+v", d.Steps[0])
		}
	}
}

// A step that is set aside can be cancelled, and what is cancelled keeps no
// place.
func TestCancelOfParked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	const key = `,"concurrency":{"key":"one"}`
	r.submit(`[{"name":"a",` + alone + key + `}]`)
	a := w.one()
	gone, left := r.submit(`[{"name":"b",`+alone+key+`}]`), r.submit(`[{"name":"c",`+alone+key+`}]`)
	if got := w.claim(4, 0); len(got) != 0 {
		t.Fatalf("claimed %v", names(got))
	}
	if _, err := r.user.Cancel(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	w.finish(a, exit(0))
	w.finish(w.one(), exit(0))
	if d := r.run(left.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
	// In a new generation it waits for its turn like a new one.
	if _, raw := r.call("POST", "/api/runs/"+gone.ID+"/retry", r.keys["acme user"], []byte(`{"all":true}`)); !strings.Contains(string(raw), `"queued"`) {
		t.Fatalf("%s", raw)
	}
	w.finish(w.one(), exit(0))
}

// A tenant's quota of steps holds against claims side by side; what it keeps
// back says so, and goes on when there is room.
func TestStepQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.concurrency("acme", 0, 5)
	var steps []string
	for i := range 40 {
		steps = append(steps, fmt.Sprintf(`{"name":"s%02d",%s}`, i, alone))
	}
	run := r.submit("[" + strings.Join(steps, ",") + "]")
	most := r.drain(40, func(wire.Lease) bool { return true })
	if most > 5 || most == 0 {
		t.Errorf("%d ran at once", most)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d.Run)
	}
	w := r.worker("last")
	next := r.submit("[" + strings.Join(steps[:6], ",") + "]")
	got := w.claim(8, 0)
	if len(got) != 5 {
		t.Fatalf("claimed %v", names(got))
	}
	if d := r.run(next.ID); d.Steps[5].WaitingFor != "its turn: 5 steps of the tenant at once (quota max_concurrent_steps)" {
		t.Errorf("%+v", d.Steps[5])
	}
	r.concurrency("acme", 0, 0) // no quota any more
	if rest := w.claim(8, 0); len(rest) != 1 {
		t.Errorf("claimed %v", names(rest))
	}
}

// Runs beyond a tenant's quota wait, the highest priority first; one that ends
// lets the next go. Another tenant's are not held.
func TestRunQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.concurrency("acme", 2, 0)
	w := r.worker("host")
	runs := map[string]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		runs[name] = r.submit(`[{"name":"` + name + `1",` + alone + `},{"name":"` + name + `2",` + alone + `,"depends_on":["` + name + `1"]}]`).ID
	}
	runs["e"] = r.plan(`,"priority":1`, `[{"name":"e1",`+alone+`}]`).ID
	r.client("beta", "user")
	r.call("POST", "/api/runs", r.keys["beta user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"z1",`+alone+`}]}}`))
	got := w.claim(8, 0)
	if n := names(got); !slices.Equal(slices.Sorted(slices.Values(n)), []string{"a1", "b1", "z1"}) {
		t.Fatalf("claimed %v", n)
	}
	d := r.run(runs["c"])
	if want := "its turn: 2 runs of the tenant at once (quota max_concurrent_runs)"; d.Run.Status != step.RunQueued || d.Run.WaitingFor != want ||
		d.Steps[0].Status != step.StepWaiting || d.Steps[0].WaitingFor != want || d.Steps[1].WaitingFor != "" {
		t.Errorf("%+v", d)
	}
	if _, err := r.user.Cancel(t.Context(), runs["d"]); err != nil { // before it was let go
		t.Fatal(err)
	}
	var order []string
	for len(got) > 0 || len(order) < 7 {
		for _, l := range got {
			order = append(order, l.StepName)
			w.finish(l, exit(0))
		}
		got = w.claim(8, 2*time.Second)
	}
	for i, name := range []string{"e1", "c1", "c2"} {
		if at := slices.Index(order, name); at < 3 || i > 0 && at < slices.Index(order, "e1") {
			t.Errorf("order %v", order)
		}
	}
	want := []step.EventType{step.EventRunCreated, step.EventStepEnqueued, step.EventRunStarted, step.EventStepStarted, step.EventStepFinished,
		step.EventStepSucceeded, step.EventRunSucceeded}
	if diff := cmp.Diff(want, r.types(runs["e"])); diff != "" {
		t.Error(diff)
	}
	if d := r.run(runs["d"]); d.Run.Status != step.RunCancelled {
		t.Errorf("%+v", d.Run)
	}
	// What is opened again waits for its turn, too.
	x, y := r.submit(`[{"name":"x",`+alone+`}]`), r.submit(`[{"name":"y",`+alone+`}]`)
	if _, raw := r.call("POST", "/api/runs/"+runs["d"]+"/retry", r.keys["acme user"], []byte(`{"all":true}`)); !strings.Contains(string(raw), `"waiting"`) {
		t.Errorf("%s", raw)
	}
	if n := names(w.claim(8, 0)); !slices.Equal(n, []string{"x", "y"}) {
		t.Errorf("claimed %v", n)
	}
	for _, run := range []wire.RunCreated{x, y} {
		if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// A run for later begins then, not before.
func TestDelayedRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	begin := time.Now()
	soon := r.plan(`,"delay_ms":1500`, `[{"name":"soon",`+alone+`}]`)
	at := begin.Add(time.Hour).UTC().Format(time.RFC3339)
	late := r.plan(`,"start_at":"`+at+`"`, `[{"name":"late",`+alone+`}]`)
	past := r.plan(`,"start_at":"`+begin.Add(-time.Hour).UTC().Format(time.RFC3339)+`"`, `[{"name":"past",`+alone+`}]`)
	if l := w.one(); l.RunID != past.ID {
		t.Errorf("%+v", l)
	}
	d := r.run(late.ID)
	if d.Run.WaitingFor != "its time, "+at || d.Run.StartAt == nil || d.Steps[0].Status != step.StepWaiting {
		t.Errorf("%+v", d)
	}
	l := w.one()
	if took := time.Since(begin); l.RunID != soon.ID || took < 1500*time.Millisecond {
		t.Errorf("after %v: %+v", took, l)
	}
	w.finish(l, exit(0))
	if _, err := r.user.Cancel(t.Context(), late.ID); err != nil {
		t.Fatal(err)
	}
	if d := r.run(late.ID); d.Run.Status != step.RunCancelled || d.Run.WaitingFor != "" {
		t.Errorf("%+v", d.Run)
	}
}

// Of runs with a key only so many run at once, whole; a step tried again in one
// that has ended waits for its turn.
func TestRunsWithAKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	const key = `,"concurrency":{"key":"prod"}`
	two := func(name string) string {
		return `[{"name":"` + name + `1",` + alone + `},{"name":"` + name + `2",` + alone + `,"depends_on":["` + name + `1"]}]`
	}
	a, b := r.plan(key, two("a")), r.plan(key, two("b"))
	r.plan(`,"concurrency":{"key":"other","limit":2}`, two("c"))
	got := w.claim(8, 0)
	if n := names(got); !slices.Equal(slices.Sorted(slices.Values(n)), []string{"a1", "c1"}) {
		t.Fatalf("claimed %v", n)
	}
	if d := r.run(b.ID); d.Run.WaitingFor != `its turn: 1 at once of the runs with the key "prod"` {
		t.Errorf("%+v", d.Run)
	}
	for _, l := range got {
		if l.RunID == a.ID {
			w.finish(l, exit(1)) // its second step is cancelled: the run ends
		}
	}
	l := w.one()
	if l.StepName != "b1" {
		t.Fatalf("claimed %s", l.StepName)
	}
	if _, raw := r.call("POST", "/api/runs/"+a.ID+"/retry", r.keys["acme user"], nil); !strings.Contains(string(raw), `"waiting"`) {
		t.Errorf("%s", raw)
	}
	if d := r.run(a.ID); d.Run.Status != step.RunQueued || d.Run.WaitingFor == "" {
		t.Errorf("%+v", d.Run)
	}
	w.finish(l, exit(0))
	if l = w.one(); l.StepName != "b2" {
		t.Fatalf("claimed %s", l.StepName)
	}
	w.finish(l, exit(0))
	if l = w.one(); l.StepName != "a1" || l.Generation != 2 {
		t.Fatalf("claimed %+v", l)
	}
	w.finish(l, exit(0))
	w.finish(w.one(), exit(0))
	if d := r.run(a.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d.Run)
	}
}

// What is tried again comes after what waits already: a run for its turn, and a
// step for its key.
func TestAgainComesLast(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	one := func(name, more string) string {
		return `[{"name":"` + name + `",` + alone + more + `,"retry":{"attempts":1,"on":["driver_error"]}}]`
	}
	for name, submit := range map[string]func(name string) wire.RunCreated{
		"run":  func(name string) wire.RunCreated { return r.plan(`,"concurrency":{"key":"prod"}`, one(name, "")) },
		"step": func(name string) wire.RunCreated { return r.submit(one(name, `,"concurrency":{"key":"db"}`)) },
	} {
		for how, again := range map[string]func(run string) error{
			"retry": func(run string) error { _, err := r.user.RetryRun(t.Context(), run, wire.RetryRun{}, ""); return err },
			"rerun": func(run string) error {
				_, err := r.user.RetryRun(t.Context(), run, wire.RetryRun{All: true}, "")
				return err
			},
			"from the DLQ": func(run string) error {
				entries := r.dead(wire.DeadFilter{})
				i := slices.IndexFunc(entries, func(e wire.DeadStep) bool { return e.RunID == run })
				if i < 0 {
					t.Fatalf("%s is not in it: %+v", run, entries)
				}
				_, err := r.user.RequeueDead(t.Context(), entries[i].ID, wire.RequeueDead{}, "")
				return err
			},
			"a step": func(run string) error {
				_, err := r.user.RetryStep(t.Context(), run, r.run(run).Steps[0].ID, "")
				return err
			},
		} {
			first := submit("first")
			l := w.one()
			for _, name := range []string{"second", "third"} {
				submit(name)
			}
			w.finish(l, cause(step.CauseDriverError))
			l = w.one()
			if err := again(first.ID); err != nil {
				t.Fatalf("%s %s: %v", name, how, err)
			}
			var order []string
			for {
				order = append(order, l.StepName)
				w.finish(l, exit(0))
				if len(order) == 3 {
					break
				}
				l = w.one()
			}
			if want := []string{"second", "third", "first"}; !slices.Equal(order, want) {
				t.Errorf("%s, %s: %v, want %v", name, how, order, want)
			}
		}
	}
}

// Keys whose rows were dropped, or never made, are mended.
func TestKeysAreMended(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 10 * time.Second })
	r.concurrency("acme", 0, 1)
	w := r.worker("host")
	r.submit(`[{"name":"a",` + alone + `,"concurrency":{"key":"k"}}]`)
	r.sql("DELETE FROM nofx.concurrency")
	w.finish(w.one(), exit(0))
}

func TestTurnsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.worker("host")
	for what, c := range map[string]struct{ plan, step, where string }{
		"a priority beyond":      {plan: `,"priority":11`, where: "body.plan.priority"},
		"a step's beyond":        {step: `,"priority":-11`, where: "body.plan.steps[0].priority"},
		"no key":                 {plan: `,"concurrency":{"limit":2}`, where: "body.plan.concurrency"},
		"an empty key":           {plan: `,"concurrency":{"key":""}`, where: "body.plan.concurrency.key"},
		"a key of two lines":     {step: `,"concurrency":{"key":"a\nb"}`, where: "body.plan.steps[0].concurrency.key"},
		"a negative limit":       {step: `,"concurrency":{"key":"a","limit":-1}`, where: "body.plan.steps[0].concurrency.limit"},
		"both times":             {plan: `,"start_at":"2030-01-01T00:00:00Z","delay_ms":5`, where: "body.plan.delay_ms"},
		"a negative delay":       {plan: `,"delay_ms":-5`, where: "body.plan.delay_ms"},
		"a time too far":         {plan: `,"start_at":"2099-01-01T00:00:00Z"`, where: "body.plan.start_at"},
		"a field that is no key": {step: `,"concurrency":{"key":"a","most":1}`, where: "body.plan.steps[0].concurrency"},
	} {
		body := `{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"` + c.step + `}]` + c.plan + `}}`
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(body))
		if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), c.where) {
			t.Errorf("%s: %d %s", what, resp.StatusCode, raw)
		}
	}
	if n := int32(-1); api.SetTenantConcurrency(t.Context(), r.db.Admin, "acme", &n, nil) == nil {
		t.Error("a quota of no runs was taken")
	}
	if api.SetTenantConcurrency(t.Context(), r.db.Admin, "nobody", nil, nil) == nil {
		t.Error("a quota of nobody's was taken")
	}
}
