package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Who has used up the month opens no new generation either: what would wait
// for weeks is refused at once, like a run, and nothing of it is changed.
func TestQuotaRefusesNewGenerations(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, failing)
	e := r.dead(wire.DeadFilter{})[0]
	none := 0.0
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", &none); err != nil {
		t.Fatal(err)
	}
	calls := map[string]string{
		"/api/dlq/" + e.ID + "/requeue":                         `{}`,
		"/api/dlq/requeue":                                      `{"ids":["` + e.ID + `"]}`,
		"/api/dlq/requeue?dry":                                  `{"ids":["` + e.ID + `"],"dry_run":true}`,
		"/api/runs/" + run.ID + "/retry":                        `{}`,
		"/api/runs/" + run.ID + "/retry?all":                    `{"all":true}`,
		"/api/runs/" + run.ID + "/steps/" + e.StepID + "/retry": ``,
	}
	for path, body := range calls {
		at, _, _ := strings.Cut(path, "?")
		resp, raw := r.call(http.MethodPost, at, r.keys["acme user"], []byte(body))
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(raw), "max_compute_minutes_per_month is used up") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, raw)
		}
	}
	if got, want := statuses(r.run(run.ID)), "failed a=failed/1"; got != want || r.dead(wire.DeadFilter{})[0].State != wire.DeadOpen {
		t.Errorf("%s, want %s", got, want)
	}
	if resp, raw := r.call(http.MethodPost, "/api/runs/run_none/retry", r.keys["acme user"], []byte(`{}`)); resp.StatusCode != http.StatusNotFound {
		t.Errorf("of no run: %d %s", resp.StatusCode, raw)
	}
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, ""); err != nil {
		t.Error(err)
	}
}

// A step that fails fast before an open breaker is dead without an attempt: one
// entry for each generation, which can be looked at and requeued like others.
func TestFailFastIsDead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	operator := r.client("acme", "operator")
	set := func(action wire.BreakerAction) {
		t.Helper()
		if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: action, Tool: "test:echo"}); err != nil {
			t.Fatal(err)
		}
	}
	set(wire.BreakerForceOpen)
	run := r.submit(`[{"name":"a","tool":"test:echo","on_open":"fail"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	list := r.dead(wire.DeadFilter{})
	if len(list) != 1 || list[0].Attempts != 0 || list[0].WorkerID != "" || list[0].Cause != step.CauseDriverError || !strings.Contains(list[0].Reason, "is open") {
		t.Fatalf("%+v", list)
	}
	d, err := r.user.DeadStep(t.Context(), list[0].ID)
	if err != nil || d.History == nil || len(d.History) != 0 {
		t.Errorf("%+v %v", d, err)
	}
	if got := r.eventsOf(run.ID, step.EventStepDead); len(got) != 1 || got[0].Payload["entry"] != list[0].ID {
		t.Errorf("%+v", got)
	}
	if _, err := r.user.RequeueDead(t.Context(), list[0].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	r.until(run.ID, func(d wire.RunDetail) bool { return d.Run.EndedAt != nil })
	if list = r.dead(wire.DeadFilter{State: "all"}); len(list) != 2 || list[0].Generation != 2 || list[0].State != wire.DeadOpen || list[1].State != wire.DeadRequeued {
		t.Fatalf("%+v", list)
	}
	set(wire.BreakerReset)
	if _, err := r.user.RequeueDead(t.Context(), list[0].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.finish(w.one(), exit(0))
	}
	if got, want := statuses(r.run(run.ID)), "succeeded a=succeeded/3 b=succeeded/3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A breaker's probe is not left with a tenant that may not begin anything: what
// waits of that tenant does not hold up another's probe. A probe that is out
// when its tenant's month ends up goes on, and its result counts.
func TestProbeAndQuota(t *testing.T) {
	t.Parallel()
	r, w, straggler := opened(t, counting)
	w.finish(straggler, exit(0))
	mine := r.submit(flaky) // the oldest
	none := 0.0
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", &none); err != nil {
		t.Fatal(err)
	}
	calm := func() bool { // whether the API knows of it
		return len(w.claim(1, 0)) == 0
	}
	r.sql("UPDATE nofx.step SET lane = 'calm' WHERE run_id = $1", mine.ID)
	r.eventually("nothing of a spent tenant is claimed", func() bool {
		got := w.claim(1, 0)
		if len(got) == 1 {
			if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{got[0].Fence}}); err != nil {
				t.Fatal(err)
			}
		}
		return len(got) == 0
	})
	r.sql("UPDATE nofx.step SET lane = 'flaky' WHERE run_id = $1", mine.ID)
	r.cooled()
	if !calm() || r.breaker("flaky", "local").State != "open" {
		t.Errorf("%+v", r.breaker("flaky", "local"))
	}
	r.client("rival", "user")
	resp, raw := r.call(http.MethodPost, "/api/runs", r.keys["rival user"], []byte(`{"plan":{"goal":"g","steps":`+flaky+`}}`))
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	l := w.one()
	if l.TenantID != "rival" || r.breaker("flaky", "local").State != "half_open" {
		t.Fatalf("%+v %+v", l, r.breaker("flaky", "local"))
	}
	if why := r.run(mine.ID).Steps[0].WaitingFor; !strings.Contains(why, "max_compute_minutes_per_month") {
		t.Errorf("it waits for %q", why)
	}
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "rival", &none); err != nil {
		t.Fatal(err)
	}
	w.finish(l, exit(0))
	if b := r.breaker("flaky", "local"); b.State != "closed" {
		t.Errorf("%+v", b)
	}
}

// A probe whose run is cancelled makes room, whether it had begun or was given
// back; a dead step that is requeued before an open breaker waits there and can
// be the next probe.
func TestProbeOfRequeuedAndCancelled(t *testing.T) {
	t.Parallel()
	r, w, straggler := opened(t, counting)
	w.finish(straggler, exit(0))
	cancel := func(id string) {
		t.Helper()
		if _, err := r.user.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	roomy := func(what string) {
		t.Helper()
		if b := r.breaker("flaky", "local"); b.State != "half_open" || b.Reason != "a probe ended without a result" {
			t.Errorf("%s: %+v", what, b)
		}
	}
	begun, back := r.submit(flaky), r.submit(flaky)
	r.cooled()
	l := w.one()
	if l.RunID != begun.ID {
		t.Fatalf("%+v", l)
	}
	cancel(begun.ID)
	w.finish(l, cause(step.CauseCancelled))
	roomy("cancelled")
	l = w.one()
	if l.RunID != back.ID {
		t.Fatalf("%+v", l)
	}
	cancel(back.ID)
	if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{l.Fence}}); err != nil {
		t.Fatal(err)
	}
	roomy("given back")
	if d := r.run(back.ID); d.Run.Status != step.RunCancelled {
		t.Errorf("%+v", d)
	}
	// One that failed and is tried again by hand is the next probe.
	failed := r.submit(flaky)
	l = w.one()
	w.finish(l, exit(1))
	if b := r.breaker("flaky", "local"); b.State != "open" || b.Opens != 2 {
		t.Fatalf("%+v", b)
	}
	if _, err := r.user.RetryRun(t.Context(), failed.ID, wire.RetryRun{}, ""); err != nil {
		t.Fatal(err)
	}
	if got := w.claim(4, 0); len(got) != 0 {
		t.Fatalf("claimed %+v before the open breaker", got)
	}
	r.cooled()
	w.finish(w.one(), exit(0))
	if b := r.breaker("flaky", "local"); b.State != "closed" || b.Opens != 0 {
		t.Errorf("%+v", b)
	}
	if d := r.run(failed.ID); d.Run.Status != step.RunSucceeded || d.Steps[0].Generation != 2 {
		t.Errorf("%+v", d)
	}
}

// An attempt is charged once: not for a repeat of its journal, not when it was
// given back, and not for what comes after its lease was lost; what was
// cancelled after it had begun is charged.
func TestChargedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	month := func() string {
		t.Helper()
		return strings.Join(r.column("SELECT coalesce(sum(attempts), 0) || ' ' || coalesce(sum(compute_ms), 0) FROM nofx.month_usage"), "")
	}
	one := func() wire.Lease { r.submit(`[{"name":"a","tool":"test:echo"}]`); return w.one() }
	took := func(v wire.VerdictRecord, ms int64) wire.VerdictRecord { v.Verdict.Usage.WallMS = ms; return v }
	l := one()
	batch := wire.JournalBatch{Fence: l.Fence, Records: records(took(exit(0), 1000))}
	for range 3 {
		if _, err := w.ship(batch, batch); err != nil {
			t.Fatal(err)
		}
	}
	if got := month(); got != "1 1000" {
		t.Errorf("after a repeat: %s", got)
	}
	w.finish(one(), took(exit(0), -5000))
	if got := month(); got != "2 1000" {
		t.Errorf("after less than nothing: %s", got)
	}
	l = one()
	if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{l.Fence}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(took(exit(0), 1000))}); err != nil || month() != "2 1000" {
		t.Errorf("after a late word of one given back: %s %v", month(), err)
	}
	l = w.one()
	if _, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(0))[:1]}); err != nil {
		t.Fatal(err)
	}
	r.sql("UPDATE nofx.attempt SET lease_until = now() - interval '1 second' WHERE id = $1", l.AttemptID)
	r.until(l.RunID, func(d wire.RunDetail) bool { return d.Steps[0].Status != step.StepRunning })
	a, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(took(exit(0), 1000))[1:]})
	if err != nil || len(a.Discard) != 1 || month() != "2 1000" {
		t.Errorf("after a late word of one that is lost: %s %+v %v", month(), a, err)
	}
	l = one()
	for l.Attempt != 1 { // the lost one comes again
		w.finish(l, took(exit(0), 0))
		l = w.one()
	}
	if _, err := r.user.Cancel(t.Context(), l.RunID); err != nil {
		t.Fatal(err)
	}
	before := month()
	w.finish(l, took(cause(step.CauseCancelled), 1000))
	if got := month(); got == before || !strings.HasSuffix(got, " 2000") {
		t.Errorf("cancelled: %s, then %s", before, got)
	}
}

// What an attempt used is its own driver's, also when its step has gone on to
// another since, or was requeued on one.
func TestUsageAfterFallback(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", two()...)
	r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,"idempotent":true}]`)
	for _, v := range []wire.VerdictRecord{failingWith(step.KindUnavailable), exit(0)} {
		v.Verdict.Usage.WallMS = 1000
		w.finish(w.one(), v)
	}
	u, err := r.user.Usage(t.Context(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, row := range u.Rows {
		got[row.Driver] = row.WallMS
	}
	if diff := cmp.Diff(map[string]int64{"first": 1000, "second": 1000}, got); diff != "" {
		t.Error(diff)
	}
}

// The history of a dead step says on which driver each attempt was, and why.
func TestDeadAfterFallback(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host", two()...)
	run := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `,"retry":{"attempts":2,"on":["driver_error"],"backoff_ms":0}}]`)
	for r.run(run.ID).Run.EndedAt == nil {
		w.end(w.one(), failingWith(step.KindUnavailable))
	}
	list := r.dead(wire.DeadFilter{})
	if len(list) != 1 || list[0].Driver != "second" {
		t.Fatalf("%+v", list)
	}
	d, err := r.user.DeadStep(t.Context(), list[0].ID)
	if err != nil || len(d.History) < 2 {
		t.Fatalf("%+v %v", d, err)
	}
	if a, b := d.History[0], d.History[1]; a.Driver != "first" || a.Fallback != "" || b.Driver != "second" || b.Fallback != "driver first: it does not work" {
		t.Errorf("%+v", d.History)
	}
}
