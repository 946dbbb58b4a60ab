package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// stepsOf is a plan's list of n steps.
func stepsOf(n int, fields string) string {
	steps := make([]string, n)
	for i := range steps {
		steps[i] = fmt.Sprintf(`{"name":"s%d",%s}`, i, fields)
	}
	return "[" + strings.Join(steps, ",") + "]"
}

// Workspaces outside a residency that hold nothing are given up, however many
// steps wait for them.
func TestManyWorkspacesOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 4 * time.Second })
	us, eu := r.workerIn("us-1"), r.workerIn("eu-1")
	begin := func(n, hours int) wire.RunCreated { // pins the run, and leaves its workspace empty
		run := r.submit(stepsOf(n, `"tool":"test:echo"`))
		leases := us.claim(1, 0)
		if len(leases) != 1 || leases[0].RunID != run.ID {
			t.Fatalf("%+v", leases)
		}
		if _, err := us.Release(t.Context(), wire.ReleaseRequest{WorkerID: us.id, Incarnation: us.incarnation, Leases: []wire.Fence{leases[0].Fence}}); err != nil {
			t.Fatal(err)
		}
		r.sql("UPDATE nofx.step SET due_at = now() + make_interval(hours => $2) WHERE run_id = $1", run.ID, hours)
		return run
	}
	begin(210, 1)
	few := begin(1, 2)
	r.reside("eu-1")
	got := r.untilBeating(us, few.ID, func(d wire.RunDetail) bool {
		eu.beat()
		return d.Run.EndedAt != nil || r.column("SELECT count(*)::text FROM nofx.step WHERE pin <> ''")[0] == "0"
	})
	if got.Run.EndedAt != nil {
		t.Errorf("%+v", got.Steps[0].Verdict)
	}
}

// What is parked at the head of a key and can be had by nobody does not keep
// what is behind it from a key that is free.
func TestParkedBehindTheUnserved(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 4 * time.Second }) // a tick each 200 ms
	w := r.worker("host")
	head := r.submit(stepsOf(100, alone+`,"concurrency":{"key":"k"},"priority":1`))
	r.sql("UPDATE nofx.step SET parked = true, driver = 'gone' WHERE run_id = $1", head.ID)
	tail := r.submit(`[{"name":"tail",` + alone + `,"concurrency":{"key":"k"}}]`)
	r.sql("UPDATE nofx.step SET parked = true WHERE run_id = $1", tail.ID)
	if got := names(w.claim(1, 5*time.Second)); len(got) != 1 {
		t.Errorf("nothing of a key that nothing runs of")
	}
}

// Runs of a tenant with many that can be let go do not wait for all of another's.
func TestTurnsAreFair(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.client("beta", "user")
	many := r.plan(`,"delay_ms":3600000`, `[{"name":"a",`+alone+`}]`)
	r.call("POST", "/api/runs", r.keys["beta user"], []byte(`{"plan":{"goal":"g","delay_ms":3600000,"steps":[{"name":"b",`+alone+`}]}}`))
	r.sql(`INSERT INTO nofx.run SELECT (jsonb_populate_record(r, jsonb_build_object('id', r.id || '-' || n))).* FROM nofx.run r, generate_series(1, 600) n WHERE r.id = $1`, many.ID)
	r.sql(`INSERT INTO nofx.step SELECT (jsonb_populate_record(s, jsonb_build_object('id', s.id || '-' || n, 'run_id', s.run_id || '-' || n))).* FROM nofx.step s, generate_series(1, 600) n WHERE s.run_id = $1`, many.ID)
	r.sql("UPDATE nofx.run SET start_at = now()")
	r.eventually("all are let go", func() bool {
		return r.column("SELECT count(*)::text FROM nofx.step WHERE status = 'queued'")[0] == "602"
	})
	before := r.column("SELECT count(*)::text FROM nofx.step s WHERE s.tenant_id = 'acme' AND s.due_at < (SELECT b.due_at FROM nofx.step b WHERE b.tenant_id = 'beta')")[0]
	if before != "0" && before != "100" {
		t.Errorf("%s of acme's were let go before the one of beta's", before)
	}
}

// A priority does not give a tenant another tenant's place at a breaker's probe.
func TestProbeAndPriority(t *testing.T) {
	t.Parallel()
	r, w, straggler := opened(t, counting)
	w.finish(straggler, exit(0))
	r.client("rival", "user")
	resp, raw := r.call("POST", "/api/runs", r.keys["rival user"], []byte(`{"plan":{"goal":"g","steps":`+flaky+`}}`))
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s", raw)
	}
	r.plan(`,"priority":10`, flaky)
	r.cooled()
	if l := w.one(); l.TenantID != "rival" {
		t.Errorf("the probe is %s's", l.TenantID)
	}
}

// holding runs statements in a transaction that stays open until done.
func (r *rig) holding(text string, args ...any) (done func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.db.Admin)
	if err != nil {
		r.t.Fatal(err)
	}
	tx, err := conn.Begin(r.t.Context())
	if err == nil {
		_, err = tx.Exec(r.t.Context(), text, args...)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return func() {
		if err := tx.Commit(context.Background()); err != nil {
			r.t.Error(err)
		}
		_ = conn.Close(context.Background())
	}
}

// waiters is how many statements wait for a lock of another.
func (r *rig) waiters() string {
	return r.column("SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")[0]
}

// A claim waits for no other claim, or two of them could wait for each other:
// what it cannot have of a run that another one begins it does not lock.
func TestClaimsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.worker("a"), r.worker("b")
	one, two := r.submit(stepsOf(3, `"tool":"test:echo"`)), r.submit(stepsOf(3, `"tool":"test:echo"`))
	for i, minutes := range []int{1, 9, 6} { // s1 of both, then s2 of both
		r.sql("UPDATE nofx.step SET due_at = now() - make_interval(mins => $3) WHERE run_id IN ($1, $2) AND idx = $4", one.ID, two.ID, minutes, i)
	}
	row := r.holding("SELECT 1 FROM nofx.step WHERE run_id = $1 AND idx = 0 FOR UPDATE", one.ID)
	run := r.holding("SELECT 1 FROM nofx.run WHERE id = $1 FOR UPDATE", two.ID)
	first := make(chan []wire.Lease, 1)
	go func() { first <- a.claim(2, 0) }()
	r.eventually("a claim pins the first run", func() bool { return r.waiters() == "1" })
	run()
	second := make(chan []wire.Lease, 1)
	go func() { second <- b.claim(2, 0) }()
	waits := false
	var got []wire.Lease
	r.eventually("the second claim goes on", func() bool {
		select {
		case got = <-second:
			return true
		default:
			waits = r.waiters() == "2"
			return waits
		}
	})
	row()
	if waits {
		t.Error("a claim waits for another one")
		got = <-second
	}
	if l := <-first; len(l) == 0 || len(got) == 0 {
		t.Errorf("claimed %v and %v", l, got)
	}
}

// Who has waited for a quota or a key is not sent to another driver because its
// own is not healthy for a moment.
func TestFallbackAfterALongWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.Heartbeat = 4*time.Second, 2*time.Second })
	w := r.worker("host", two()...)
	run := r.submit(`[{"name":"a","tool":"test:echo",` + listed + `}]`)
	r.sql("UPDATE nofx.step SET due_at = now() - interval '1 hour', parked = true WHERE run_id = $1", run.ID)
	ticks := func(n int) {
		for range n {
			last := r.column("SELECT ticked_at::text FROM nofx.lease_clock")[0]
			r.eventually("a tick", func() bool { w.beat(); return r.column("SELECT ticked_at::text FROM nofx.lease_clock")[0] != last })
		}
	}
	ticks(2)
	w.drivers = two(false, true)
	ticks(3)
	if got := r.run(run.ID).Steps[0]; got.Driver != "first" {
		t.Errorf("it went to %s: %s", got.Driver, got.Fallback)
	}
}

// A run that is cancelled while it is about to be let go does not keep back
// those that are with it.
func TestTurnOfACancelledRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.concurrency("acme", 1, 0)
	r.submit(`[{"name":"a",` + alone + `}]`)
	gone, next := r.submit(`[{"name":"a",`+alone+`}]`), r.submit(`[{"name":"a",`+alone+`}]`)
	cancelled := r.holding(`WITH x AS (UPDATE nofx.run SET status = 'cancelled', ended_at = now(), steps_left = 0, steps_cancelled = 1 WHERE id = $1)
		UPDATE nofx.step SET status = 'cancelled', ended_at = now() WHERE run_id = $1`, gone.ID)
	r.concurrency("acme", 9, 0)
	r.eventually("somebody lets them go", func() bool { return r.waiters() == "1" })
	cancelled()
	r.until(next.ID, func(d wire.RunDetail) bool { return d.Steps[0].Status == step.StepQueued })
	if strings.Contains(r.log.String(), "a run has ended already") {
		t.Error("the others were put off")
	}
}

// A tenant that has much running does not keep out another that has, with a quota
// or without: the age of what waits is no tenant's advantage.
func TestFairnessOfTheBig(t *testing.T) {
	t.Parallel()
	for _, quota := range []int32{0, 1000} {
		r := newRig(t)
		w := r.worker("host")
		r.submit(stepsOf(200, alone))
		r.client("beta", "user")
		r.concurrency("beta", 0, quota)
		resp, raw := r.call("POST", "/api/runs", r.keys["beta user"], []byte(`{"plan":{"goal":"g","steps":`+stepsOf(121, alone)+`}}`))
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s", raw)
		}
		r.sql("UPDATE nofx.step SET status = 'running' WHERE tenant_id = 'beta' AND idx < 120 OR tenant_id = 'acme' AND idx < 130")
		got := false
		for range 30 { // by lot
			got = got || w.one().TenantID == "beta"
		}
		if !got {
			t.Errorf("with a quota of %d, 30 claims gave beta nothing", quota)
		}
	}
}
