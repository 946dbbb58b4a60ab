package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// two are the drivers of these tests, of one kind.
func two(healthy ...bool) []wire.DriverInfo {
	all := []wire.DriverInfo{offering("first", able...), offering("second", able...)}
	for i, h := range healthy {
		all[i].Healthy = h
	}
	return all
}

const listed = `"drivers":["first","second"]`

// fallbacks are the reasons of a run's events of that kind.
func (r *rig) fallbacks(id string) []string {
	r.t.Helper()
	events, err := r.user.Timeline(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		if e.Type == step.EventStepFallback {
			out = append(out, e.Payload["from"].(string)+" -> "+e.Payload["to"].(string)+": "+e.Payload["reason"].(string))
		}
	}
	return out
}

// A driver that fails before the step has begun hands it to the next one, also
// when the vendor's quota is the reason, and the attempt says why it is there.
func TestFallbackAfterCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", two()...)
	for _, kind := range []step.Kind{step.KindUnavailable, step.KindRateLimited, step.KindInternal} {
		run := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
		l := w.one()
		if l.Driver != "first" {
			t.Fatalf("%+v", l)
		}
		w.end(l, failingWith(kind))
		l = w.one()
		if l.Driver != "second" || l.Attempt != 2 {
			t.Fatalf("%s: then %+v", kind, l)
		}
		w.finish(l, exit(0))
		const why = "driver first: it does not work"
		d := r.run(run.ID)
		if a := d.Steps[0]; a.Status != step.StepSucceeded || a.Driver != "second" || a.Fallback != why || !slices.Equal(a.Drivers, []string{"first", "second"}) {
			t.Errorf("%s: %+v", kind, d)
		}
		if diff := cmp.Diff([]string{"first -> second: " + why}, r.fallbacks(run.ID)); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
	}
	rows := r.column("SELECT DISTINCT number || ' ' || driver || ' ' || moved FROM nofx.attempt ORDER BY 1")
	if diff := cmp.Diff([]string{"1 first ", "2 second driver first: it does not work"}, rows); diff != "" {
		t.Error(diff)
	}
}

// After the step has begun only one that may be repeated goes elsewhere, for
// its driver's failure and not for its own.
func TestFallbackAfterStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	open := two()
	for i := range open {
		open[i].Capabilities = append(open[i].Capabilities, "net.open")
	}
	w := r.worker("host", open...)
	for name, tc := range map[string]struct {
		fields string
		v      wire.VerdictRecord
		want   string // driver of the second attempt; "" = there is none
	}{
		"once only":                  {`"network":"open"`, failingWith(step.KindUnavailable), ""},
		"once only, without network": {`"network":"none"`, failingWith(step.KindUnavailable), "first"},
		"may be repeated":            {`"network":"open","idempotent":true`, failingWith(step.KindUnavailable), "second"},
		"its own failure":            {`"idempotent":true,"retry":{"attempts":2}`, exit(1), "first"},
		"a lost lease":               {`"idempotent":true`, cause(step.CauseLost), "first"},
	} {
		run := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,` + tc.fields + `}]`)
		w.finish(w.one(), tc.v) // started and ended in one request
		if d := r.run(run.ID); tc.want == "" {
			if d.Run.Status != step.RunFailed || len(r.fallbacks(run.ID)) != 0 {
				t.Errorf("%s: %+v", name, d)
			}
			continue
		}
		l := w.one()
		if l.Driver != tc.want || (tc.want == "second") != (len(r.fallbacks(run.ID)) == 1) {
			t.Errorf("%s: then %+v, %v", name, l, r.fallbacks(run.ID))
		}
		w.finish(l, exit(0))
	}
}

// Before an open breaker a step goes on to the next driver whose breaker lets
// it through; with none it waits, and with on_open it does as it says.
func TestFallbackPastBreakers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", two()...)
	operator := r.client("acme", "operator")
	force := func(action wire.BreakerAction, driver string) {
		t.Helper()
		if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: action, Tool: "test:echo", Driver: driver}); err != nil {
			t.Fatal(err)
		}
	}
	there := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
	force(wire.BreakerForceOpen, "first")
	come := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
	waits := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,"on_open":"wait"}]`)
	fails := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,"on_open":"fail"}]`)
	const why = "the breaker of test:echo on first is open: an operator's force-open"
	for _, run := range []wire.RunCreated{there, come} {
		if diff := cmp.Diff([]string{"first -> second: " + why}, r.fallbacks(run.ID)); diff != "" {
			t.Error(diff)
		}
		l := w.one()
		if l.Driver != "second" {
			t.Errorf("claimed %+v", l)
		}
		w.finish(l, exit(0))
	}
	if d := r.run(fails.ID); d.Run.Status != step.RunFailed || d.Steps[0].Verdict.Message != why {
		t.Errorf("%+v", d)
	}
	if got := w.claim(4, 0); len(got) != 0 || r.run(waits.ID).Steps[0].Driver != "first" {
		t.Errorf("claimed %+v", got)
	}
	force(wire.BreakerForceOpen, "second")
	none := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
	if d := r.run(none.ID); d.Steps[0].Driver != "first" || d.Steps[0].WaitingFor == "" {
		t.Errorf("%+v", d)
	}
	force(wire.BreakerReset, "")
	for range 2 {
		l := w.one()
		if l.Driver != "first" {
			t.Errorf("claimed %+v", l)
		}
		w.finish(l, exit(0))
	}
}

// A step leaves a driver that no worker has healthy, after a moment, for one
// that some worker has.
func TestFallbackFromUnhealthy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", two(false, true)...)
	run := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
	lonely := r.submit(`[{"name":"a","tool":"test:echo","driver":"first"}]`)
	var l wire.Lease
	r.until(run.ID, func(wire.RunDetail) bool {
		_, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers})
		if got := w.claim(2, 0); err == nil && len(got) == 1 {
			l = got[0]
		}
		return l.Driver != ""
	})
	if l.Driver != "second" || l.RunID != run.ID {
		t.Errorf("claimed %+v", l)
	}
	if diff := cmp.Diff([]string{"first -> second: no worker has the driver first healthy"}, r.fallbacks(run.ID)); diff != "" {
		t.Error(diff)
	}
	w.finish(l, exit(0))
	if d := r.run(lonely.ID); d.Run.Status != step.RunQueued {
		t.Errorf("%+v", d)
	}
}

// What a list of drivers may be is checked when it is submitted, driver by
// driver.
func TestDriverListsAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.worker("host", append(two(), offering("lesser", "cap.walltime", "net.none", "host", "lease"), offering("far", slices.DeleteFunc(slices.Clone(able), func(c string) bool { return c == "host" })...))...)
	for fields, want := range map[string]string{
		`"drivers":["first","second"]`: "",
		`"drivers":["first"]`:          "",
		`"driver":"first","drivers":["first","second"],"on_open":"wait"`:  "",
		`"drivers":["first","far"],"workspace":"step"`:                    "",
		`"drivers":["first","nope"]`:                                      "body.plan.steps[0].drivers[1]: is neither a driver of NOFX nor one that a worker offers",
		`"drivers":["first",""]`:                                          "body.plan.steps[0].drivers[1]: is neither",
		`"drivers":["first","first"]`:                                     "body.plan.steps[0].drivers[1]: is there twice",
		`"driver":"second","drivers":["first","second"]`:                  "body.plan.steps[0].driver: is not the first of drivers",
		`"drivers":["first","lesser"]`:                                    "body.plan.steps[0].drivers[1]: lacks the capability cap.cpu",
		`"drivers":["first","far"]`:                                       "body.plan.steps[0].drivers[1]: keeps its workspace elsewhere than first",
		`"drivers":["a","b","c","d","e","f","g","h","i"]`:                 "body.plan.steps[0].drivers: at most 8",
		`"on_open":"fallback"`:                                            "body.plan.steps[0].on_open: needs a driver to go to",
		`"on_open":"explode"`:                                             "body.plan.steps[0].on_open: must be wait, fail or fallback",
		`"drivers":["first","second"],"resources":{"disk_mb":100}`:        "body.plan.steps[0].drivers[0]: lacks the capability cap.disk",
		`"drivers":["first","second"],"network":"open","on_open":"fail"`:  "body.plan.steps[0].drivers[0]: lacks the capability net.open",
		`"driver":"first","on_open":"fail","inputs":{"_driver":"second"}`: "body.plan.steps[0].inputs._driver: differs",
	} {
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo",`+fields+`}]}}`))
		if want == "" {
			if resp.StatusCode != http.StatusCreated {
				t.Errorf("%s: %d %s", fields, resp.StatusCode, raw)
			}
		} else if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), want) {
			t.Errorf("%s: %d %s", fields, resp.StatusCode, raw)
		}
	}
}

// A handler may list drivers, too; a step that names one means that one.
func TestHandlerListsDrivers(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, "drivers: [local, second]"))
	w := r.worker("host", offering("local", able...), offering("second", able...))
	run := r.submit(`[{"name":"a","tool":"flaky"},{"name":"b","tool":"flaky","driver":"local"}]`)
	for _, l := range w.claim(2, 0) {
		w.end(l, failingWith(step.KindUnavailable))
	}
	l := w.one()
	if l.Driver != "second" || l.StepName != "a" {
		t.Errorf("claimed %+v", l)
	}
	w.finish(l, exit(0))
	if d := r.run(run.ID); d.Steps[1].Driver != "local" || d.Steps[1].Drivers != nil {
		t.Errorf("%+v", d)
	}
}

// Before an open breaker a step whose run's workspace is on a worker goes only
// to a driver that this worker has; with none it waits where it is.
func TestFallbackStaysWithWorkspace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rich := r.worker("rich", two()...)
	poor := r.worker("poor", two()[0])
	run := r.submit(`[{"name":"a","tool":"test:echo","driver":"first"},{"name":"b","tool":"test:echo",` + listed + `,"depends_on":["a"]}]`)
	l := poor.one()
	operator := r.client("acme", "operator")
	if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: wire.BreakerForceOpen, Tool: "test:echo", Driver: "first"}); err != nil {
		t.Fatal(err)
	}
	poor.finish(l, exit(0))
	// One that is bound to no worker goes on, in the same look or a later one.
	free := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
	rich.finish(rich.one(), exit(0))
	if got := r.fallbacks(free.ID); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if d := r.run(run.ID); d.Steps[1].Driver != "first" || d.Steps[1].WaitingFor == "" || len(r.fallbacks(run.ID)) != 0 {
		t.Errorf("%+v", d.Steps[1])
	}
	poor.drivers = two()
	poor.register("poor")
	r.until(run.ID, func(d wire.RunDetail) bool { return d.Steps[1].Driver == "second" })
	poor.finish(poor.one(), exit(0))
}

// The same after a failed create: the worker that has the workspace has no
// other driver, so that the step is tried there again.
func TestFailedCreateStaysWithWorkspace(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	r.worker("rich", two()...) // takes nothing
	w := r.worker("host", two()[0])
	run := r.submit(`[{"name":"a","tool":"test:echo","driver":"first"},{"name":"b","tool":"test:echo",` + listed + `,"depends_on":["a"]}]`)
	w.finish(w.one(), exit(0))
	w.end(w.one(), failingWith(step.KindUnavailable))
	if l := w.one(); l.Driver != "first" || l.Attempt != 2 || len(r.fallbacks(run.ID)) != 0 {
		t.Fatalf("%+v", l)
	} else {
		w.drivers = two()
		w.register("host")
		w.end(l, failingWith(step.KindUnavailable))
	}
	l := w.one()
	if l.Driver != "second" || len(r.fallbacks(run.ID)) != 1 {
		t.Fatalf("%+v", l)
	}
	w.finish(l, exit(0))
}
