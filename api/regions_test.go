package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// workerIn is a worker in a region, with the driver local when none are given.
func (r *rig) workerIn(region string, drivers ...wire.DriverInfo) *worker {
	r.t.Helper()
	if len(drivers) == 0 {
		drivers = []wire.DriverInfo{offering("local", able...)}
	}
	w := &worker{Client: r.client("acme", "worker"), r: r, incarnation: "host-" + region + "-1", region: region, drivers: drivers}
	w.register("host-" + region)
	return w
}

// elsewhere is a driver with its sandboxes in another region than its worker.
func elsewhere(region string, d wire.DriverInfo) wire.DriverInfo {
	d.Region = region
	return d
}

func (r *rig) reside(regions ...string) {
	r.t.Helper()
	if err := api.SetTenantResidency(r.t.Context(), r.db.Admin, "acme", regions); err != nil {
		r.t.Fatal(err)
	}
}

// moves are the reasons of a run's events of steps that went to another region.
func (r *rig) moves(id string) []string {
	r.t.Helper()
	events, err := r.user.Timeline(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	out := []string{}
	for _, e := range events {
		if e.Type == step.EventStepMoved {
			out = append(out, e.StepName+": "+e.Payload["from"].(string)+" -> "+e.Payload["to"].(string)+": "+e.Payload["reason"].(string))
		}
	}
	return out
}

// hasty is a configuration in which waits are short.
func hasty(c *api.Config) {
	c.Lease, c.RegionWait, c.DriverWait = 10*time.Second, time.Second, 4*time.Second
}

// A step goes to the first region of its order that has its driver; where its
// attempt was is in the step's details and in the attempt's events.
func TestRegionOrderIsHonoured(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.workerIn("eu-1"), r.workerIn("eu-2")
	for _, tc := range []struct {
		steps   string
		takes   *worker
		other   *worker
		regions []string
	}{
		{`[{"name":"a","tool":"test:echo","region":"eu-2"}]`, two, one, []string{"eu-2"}},
		{`[{"name":"a","tool":"test:echo","region":"eu-1"}]`, one, two, []string{"eu-1"}},
		{`[{"name":"a","tool":"test:echo","regions":["eu-2","eu-1"]}]`, two, one, []string{"eu-2", "eu-1"}},
		{`[{"name":"a","tool":"test:echo","regions":["mars","eu-1","eu-2"]}]`, one, two, []string{"mars", "eu-1", "eu-2"}},
	} {
		run := r.submit(tc.steps)
		if got := tc.other.claim(1, 0); len(got) != 0 {
			t.Fatalf("%s: claimed in %s", tc.steps, tc.other.region)
		}
		if d := r.run(run.ID).Steps[0]; d.Region != tc.takes.region || !slices.Equal(d.Regions, tc.regions) || d.WaitingFor != "" {
			t.Errorf("%s: %+v", tc.steps, d)
		}
		tc.takes.finish(tc.takes.one(), exit(0))
		events, err := r.user.Timeline(t.Context(), run.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			want := "test"
			if e.Attempt > 0 {
				want = tc.takes.region
			}
			if e.Region != want {
				t.Errorf("%s has the region %s, want %s", e.Type, e.Region, want)
			}
		}
	}
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	if d := r.run(run.ID).Steps[0]; d.Region != "" || d.Regions != nil {
		t.Errorf("%+v", d)
	}
	one.finish(one.one(), exit(0))
	if d := r.run(run.ID).Steps[0]; d.Region != "eu-1" {
		t.Errorf("%+v", d)
	}
	workers, err := r.user.Workers(t.Context())
	if err != nil || len(workers.Workers) != 2 || workers.Workers[0].Region != "eu-1" {
		t.Errorf("%+v %v", workers, err)
	}
}

// When the only worker of its region is lost, a step goes on to the next of its
// regions that has its driver, with the others that share its run's workspace;
// one that names no other waits and says so.
func TestStepMovesToItsNextRegion(t *testing.T) {
	t.Parallel()
	r := newRig(t, hasty)
	gone, two := r.workerIn("eu-1"), r.workerIn("eu-2")
	run := r.submit(`[{"name":"a","tool":"test:echo","regions":["eu-1","us-1","eu-2"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	stays := r.submit(`[{"name":"a","tool":"test:echo","region":"eu-1"}]`)
	if d := r.run(run.ID); d.Steps[0].Region != "eu-1" || d.Steps[1].Region != "eu-1" {
		t.Fatalf("%+v", d.Steps)
	}
	gone.silence()
	if d := r.untilBeating(two, run.ID, func(d wire.RunDetail) bool { return d.Steps[0].Region == "eu-2" }); d.Steps[1].Region != "eu-2" {
		t.Errorf("the other step is left in %s", d.Steps[1].Region)
	}
	if diff := cmp.Diff([]string{"a: eu-1 -> eu-2: no worker in eu-1 has the driver local healthy"}, r.moves(run.ID)); diff != "" {
		t.Error(diff)
	}
	d := r.untilBeating(two, stays.ID, func(d wire.RunDetail) bool { return d.Steps[0].WaitingFor != "" })
	if s := d.Steps[0]; s.Region != "eu-1" || s.WaitingFor != "a worker in eu-1 with the driver local: no live one has it healthy" {
		t.Errorf("%+v", s)
	}
	for _, name := range []string{"a", "b"} {
		l := two.one()
		if l.RunID != run.ID || l.StepName != name {
			t.Fatalf("claimed %+v", l)
		}
		two.finish(l, exit(0))
	}
	d = r.untilBeating(two, stays.ID, func(d wire.RunDetail) bool { return d.Run.Status == step.RunFailed })
	if v := d.Steps[0].Verdict; v.Cause != step.CauseDriverError || v.Message != "no worker in eu-1 has the driver local" {
		t.Errorf("%+v", v)
	}
}

// A step whose run's workspace is on a worker stays there, however long that has
// its driver not, and whatever other regions it may be in.
func TestWorkspaceKeepsItsRegion(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.RegionWait = 10*time.Second, time.Second })
	one, two := r.workerIn("eu-1"), r.workerIn("eu-2")
	const order = `"regions":["eu-1","eu-2"]`
	run := r.submit(`[{"name":"a","tool":"test:echo",` + order + `},{"name":"b","tool":"test:echo",` + order + `,"depends_on":["a"]}]`)
	one.finish(one.one(), exit(0))
	one.drivers[0].Healthy = false
	free := r.submit(`[{"name":"a","tool":"test:echo",` + order + `,"workspace":"step"}]`)
	r.untilBeating(one, free.ID, func(d wire.RunDetail) bool { two.beat(); return d.Steps[0].Region == "eu-2" })
	d := r.untilBeating(one, run.ID, func(d wire.RunDetail) bool { two.beat(); return d.Steps[1].WaitingFor != "" })
	if s := d.Steps[1]; s.Region != "eu-1" || s.WaitingFor != "the driver local on the worker that has the run's workspace" || len(r.moves(run.ID)) != 0 {
		t.Errorf("%+v", s)
	}
	if l := two.one(); l.RunID != free.ID {
		t.Errorf("claimed %+v", l)
	}
	one.drivers[0].Healthy = true
	one.beat()
	one.finish(one.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
}

// With no worker in any of its regions a step waits, says for what, and ends in
// time with a message that names them.
func TestNoRegionHasTheDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t, hasty)
	w := r.workerIn("eu-1", offering("local", able...), elsewhere("us-1", offering("far", able...)))
	run := r.submit(`[{"name":"a","tool":"test:echo","regions":["us-1","us-2"]}]`)
	wrong := r.submit(`[{"name":"a","tool":"test:echo","driver":"far","region":"eu-1"}]`)
	right := r.submit(`[{"name":"a","tool":"test:echo","driver":"far","region":"us-1"}]`)
	if d := r.run(run.ID).Steps[0]; d.WaitingFor != "a worker in us-1 with the driver local: no live one has it healthy, there or elsewhere in us-1, us-2" {
		t.Errorf("waits for %q", d.WaitingFor)
	}
	l := w.one()
	if l.RunID != right.ID {
		t.Fatalf("claimed %+v", l)
	}
	w.finish(l, exit(0))
	if d := r.run(right.ID).Steps[0]; d.Region != "us-1" {
		t.Errorf("%+v", d)
	}
	for id, want := range map[string]string{run.ID: "no worker in us-1, us-2 has the driver local", wrong.ID: "no worker in eu-1 has the driver far"} {
		d := r.untilBeating(w, id, func(d wire.RunDetail) bool { return d.Run.Status == step.RunFailed })
		if v := d.Steps[0].Verdict; v.Cause != step.CauseDriverError || v.Message != want {
			t.Errorf("%+v", v)
		}
	}
}

// A region outside the tenant's residency is refused with both lists; who names
// none has the residency as the order.
func TestResidencyAtSubmission(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.workerIn("eu-2")
	r.reside("eu-1", "eu-2")
	for plan, want := range map[string]string{
		`"steps":[{"name":"a","tool":"test:echo","region":"us-1"}]`:                                                 "body.plan.steps[0].region: is outside the tenant's residency: of us-1, only eu-1, eu-2 may be named",
		`"steps":[{"name":"a","tool":"test:echo","regions":["eu-1","us-1"]}]`:                                       "body.plan.steps[0].regions[1]: is outside the tenant's residency: of eu-1, us-1, only eu-1, eu-2 may be named",
		`"region":"us-1","steps":[{"name":"a","tool":"test:echo"}]`:                                                 "body.plan.region: is outside",
		`"regions":["us-1","eu-1"],"steps":[{"name":"a","tool":"test:echo"}]`:                                       "body.plan.regions[0]: is outside",
		`"region":"us-1","steps":[{"name":"a","tool":"test:echo","region":"eu-2"}]`:                                 "",
		`"steps":[{"name":"a","tool":"test:echo","regions":["eu-2","eu-1"]}]`:                                       "",
		`"steps":[{"name":"a","tool":"test:echo","region":"Eu"}]`:                                                   "body.plan.steps[0].region: must be the name of a region",
		`"steps":[{"name":"a","tool":"test:echo","region":"eu-1"},{"name":"b","tool":"test:echo","region":"eu-2"}]`: "body.plan.steps[1].region: the step shares the run's workspace with \\\"a\\\", for which eu-1 is left",
	} {
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"g",`+plan+`}}`))
		if want == "" {
			if resp.StatusCode != http.StatusCreated {
				t.Errorf("%s: %d %s", plan, resp.StatusCode, raw)
			}
		} else if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(raw), want) {
			t.Errorf("%s: %d %s", plan, resp.StatusCode, raw)
		}
	}
	if d := r.run(r.submit(`[{"name":"a","tool":"test:echo"}]`).ID).Steps[0]; d.Region != "eu-2" || !slices.Equal(d.Regions, []string{"eu-1", "eu-2"}) {
		t.Errorf("%+v", d)
	}
	if got := r.audited("tenant.residency"); !slices.Equal(got, []string{"acme"}) {
		t.Errorf("%v", got)
	}
	for _, bad := range [][]string{{"EU"}, {"a", "a"}, slices.Repeat([]string{"a"}, 17)} {
		if err := api.SetTenantResidency(t.Context(), r.db.Admin, "acme", bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if err := api.SetTenantResidency(t.Context(), r.db.Admin, "nobody", nil); !step.Is(err, step.KindNotFound) {
		t.Errorf("%v", err)
	}
}

// A tenant with a residency has no step on a worker outside of it, nor with a
// driver outside of it.
func TestResidencyIsNeverBroken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.reside("eu-1")
	var workers []*worker
	for _, w := range []struct{ host, driver string }{{"us-1", ""}, {"us-2", "eu-1"}, {"eu-1", "us-1"}} {
		workers = append(workers, r.workerIn(w.host, elsewhere(w.driver, offering("local", able...))))
	}
	named := r.submit(`[{"name":"a","tool":"test:echo","region":"eu-1"}]`)
	open := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	r.sql("UPDATE nofx.step SET region = '' WHERE run_id = '" + open.ID + "'") // of before the rule
	for _, w := range workers {
		if got := w.claim(4, 0); len(got) != 0 {
			t.Errorf("the worker in %s took %+v", w.region, got)
		}
	}
	for id, want := range map[string]string{named.ID: "a worker in eu-1 with the driver local: no live one has it healthy",
		open.ID: "a worker with the driver local in eu-1, the tenant's residency: no live one has it healthy there"} {
		if d := r.run(id).Steps[0]; d.WaitingFor != want {
			t.Errorf("waits for %q", d.WaitingFor)
		}
	}
	// Others may go there, and the rule is nobody else's.
	other := r.client("other", "user")
	if _, err := other.Submit(t.Context(), wire.SubmitRun{Plan: wire.Plan{Goal: "g", Steps: []wire.PlanStep{{Name: "a", Tool: "test:echo"}}}}, ""); err != nil {
		t.Fatal(err)
	}
	workers[0].finish(workers[0].one(), exit(0))
	home := &worker{Client: r.client("acme", "worker"), r: r, incarnation: "home-1", region: "eu-1", drivers: []wire.DriverInfo{offering("local", able...)}}
	home.register("home")
	if got := home.claim(4, 0); len(got) != 2 {
		t.Errorf("the worker inside took %+v", got)
	}
}

// When the residency becomes narrower, queued steps go to what is left of their
// regions, or fail and say why; what was at work in the wrong place does not go
// on elsewhere as if nothing were.
func TestResidencyIsTightened(t *testing.T) {
	t.Parallel()
	r := newRig(t, hasty, withoutBreakers(t))
	us, eu := r.workerIn("us-1"), r.workerIn("eu-1")
	both := r.submit(`[{"name":"a","tool":"test:echo","regions":["us-1","eu-1"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	only := r.submit(`[{"name":"a","tool":"test:echo","region":"us-1"}]`)
	free := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	us.claim(3, 0) // and gives back: their workspaces hold nothing
	r.sql("UPDATE nofx.attempt SET lease_until = now() - interval '1 second'")
	full := r.submit(`[{"name":"a","tool":"test:echo","region":"us-1"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	r.until(full.ID, func(wire.RunDetail) bool { // a of full is done, b is queued where that is
		us.beat()
		eu.beat()
		for _, l := range us.claim(1, 0) {
			if l.RunID == full.ID {
				us.finish(l, exit(0))
				return true
			}
			if _, err := us.Release(t.Context(), wire.ReleaseRequest{WorkerID: us.id, Incarnation: us.incarnation, Leases: []wire.Fence{l.Fence}}); err != nil {
				t.Fatal(err)
			}
		}
		return false
	})
	r.reside("eu-1")
	if got := us.claim(8, 0); len(got) != 0 {
		t.Fatalf("claimed outside: %+v", got)
	}
	beat := func(id string, ok func(wire.RunDetail) bool) wire.RunDetail {
		t.Helper()
		return r.untilBeating(us, id, func(d wire.RunDetail) bool { eu.beat(); return ok(d) })
	}
	for id, want := range map[string]string{
		only.ID: "no region that it may be in (us-1) is in the tenant's residency (eu-1)",
		full.ID: "the run's workspace is on a worker in us-1, outside the tenant's residency (eu-1)",
	} {
		d := beat(id, func(d wire.RunDetail) bool { return d.Run.Status == step.RunFailed })
		if v := d.Steps[len(d.Steps)-1].Verdict; v.Cause != step.CausePolicy || v.Message != want {
			t.Errorf("%+v", v)
		}
		if types := r.types(id); !slices.Contains(types, step.EventPolicyDenied) || !slices.Contains(types, step.EventStepDead) {
			t.Errorf("%v", types)
		}
	}
	if got := r.audited("step.start"); len(got) != 2 {
		t.Errorf("audited %v", got)
	}
	beat(both.ID, func(d wire.RunDetail) bool { return d.Steps[0].Region == "eu-1" && d.Steps[1].Region == "eu-1" })
	if diff := cmp.Diff([]string{"a: us-1 -> eu-1: us-1 is outside the tenant's residency (eu-1)"}, r.moves(both.ID)); diff != "" {
		t.Error(diff)
	}
	left := map[string]int{both.ID: 2, free.ID: 1}
	for range 3 {
		l := eu.one()
		left[l.RunID]--
		eu.finish(l, exit(0))
	}
	if left[both.ID] != 0 || left[free.ID] != 0 {
		t.Errorf("%v", left)
	}

	// Who tries again is told the same, until the rule is another.
	entries := map[string]wire.DeadStep{}
	for _, e := range r.dead(wire.DeadFilter{}) {
		entries[e.RunID] = e
	}
	for id, want := range map[string]string{only.ID: "of which none is in the tenant's residency (eu-1)", full.ID: "is on a worker in us-1, outside the tenant's residency (eu-1)"} {
		for name, try := range map[string]func() error{
			"requeue": func() error {
				_, err := r.user.RequeueDead(t.Context(), entries[id].ID, wire.RequeueDead{}, "")
				return err
			},
			"retry": func() error { _, err := r.user.RetryRun(t.Context(), id, wire.RetryRun{}, ""); return err },
		} {
			if err := try(); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := r.user.RetryRun(t.Context(), full.ID, wire.RetryRun{All: true}, ""); !step.Is(err, step.KindConflict) {
		t.Errorf("all: %v", err)
	}
	r.reside("eu-1", "us-1")
	for _, id := range []string{only.ID, full.ID} {
		if _, err := r.user.RequeueDead(t.Context(), entries[id].ID, wire.RequeueDead{}, ""); err != nil {
			t.Fatal(err)
		}
		l := us.one()
		if l.RunID != id {
			t.Fatalf("%+v", l)
		}
		us.finish(l, exit(0))
		if d := r.run(id); d.Run.Status != step.RunSucceeded {
			t.Errorf("%+v", d)
		}
	}
}

// A driver that a step falls back to is in one of the step's regions; the step
// keeps its driver while one of them has that.
func TestFallbackKeepsToTheRegions(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.RegionWait = 10*time.Second, time.Second })
	eu := r.workerIn("eu-1", two(false, false)...)
	us := r.workerIn("us-1", two(true, true)...)
	narrow := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,"region":"eu-1"}]`)
	wide := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,"regions":["eu-1","us-1"]}]`)
	beat := func(id string, ok func(wire.RunDetail) bool) wire.RunDetail {
		t.Helper()
		return r.untilBeating(us, id, func(d wire.RunDetail) bool { eu.beat(); return ok(d) })
	}
	if l := us.one(); l.RunID != wide.ID || l.Driver != "first" {
		t.Fatalf("%+v", l)
	} else {
		us.finish(l, exit(0))
	}
	later := time.Now().Add(1500 * time.Millisecond)
	d := beat(narrow.ID, func(wire.RunDetail) bool { return time.Now().After(later) })
	if d.Steps[0].Driver != "first" || len(r.fallbacks(narrow.ID)) != 0 {
		t.Errorf("%+v", d.Steps[0])
	}
	eu.drivers = two(false, true)
	beat(narrow.ID, func(d wire.RunDetail) bool { return d.Steps[0].Driver == "second" })
	if l := eu.one(); l.RunID != narrow.ID || l.Driver != "second" {
		t.Errorf("%+v", l)
	}
}

// What a worker says of where it is is checked.
func TestRegionsOfWorkersAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.workerIn("eu-1", offering("local", able...), elsewhere("us-1", offering("far", able...)))
	bad := elsewhere("US", offering("local", able...))
	_, err := w.Register(t.Context(), wire.RegisterWorker{Name: "x", Incarnation: "i", Region: "Eu"})
	if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "body.region") {
		t.Errorf("%v", err)
	}
	_, err = w.Register(t.Context(), wire.RegisterWorker{Name: "x", Incarnation: "i", Drivers: []wire.DriverInfo{bad}})
	if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "body.drivers[0].region") {
		t.Errorf("%v", err)
	}
	_, err = w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: []wire.DriverInfo{w.drivers[0], bad}})
	if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "body.drivers[1].region") {
		t.Errorf("%v", err)
	}
	w.beat()
	list, err := r.user.Workers(t.Context())
	if err != nil || len(list.Workers) != 1 || list.Workers[0].Drivers[1].Region != "us-1" || list.Workers[0].Drivers[0].Region != "" {
		t.Errorf("%+v %v", list, err)
	}
}
