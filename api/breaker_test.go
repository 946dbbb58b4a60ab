package api_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// handlersWith is a folder of manifests: the tool calm, whose breaker never
// opens here, and one called flaky with these further lines.
func handlersWith(t testing.TB, lines string) func(*api.Config) {
	t.Helper()
	dir := t.TempDir()
	for tool, more := range map[string]string{"flaky": lines, "calm": "breaker: {off: true}"} {
		text := "tool: " + tool + "\ndescription: x\ndriver: local\nresources: {cpu: 1, memory_mb: 128, pids: 32, output_kb: 4096}\n" +
			"timeout_ms: 30000\ninputs: {type: object}\ncommand: {argv: [\"true\"]}\nshown: x\noutputs: shell\n" + more + "\n"
		if err := os.WriteFile(filepath.Join(dir, tool+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *api.Config) { c.HandlersDir = dir }
}

// sql runs a statement as the database's owner, for what only time brings.
func (r *rig) sql(text string, args ...any) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.db.Admin)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tag, err := conn.Exec(r.t.Context(), text, args...)
	if err != nil || tag.RowsAffected() == 0 {
		r.t.Fatalf("%s: %d rows, %v", text, tag.RowsAffected(), err)
	}
}

// column is one column of a query's rows.
func (r *rig) column(text string) []string {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.db.Admin)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(r.t.Context(), text)
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// cooled ends the cool-down, or the probe's lease, of every breaker.
func (r *rig) cooled() {
	r.sql("UPDATE nofx.handler_health SET ready_at = now() WHERE state <> 'closed'")
}

// breaker is the one of a tool on a driver, as a tenant sees it.
func (r *rig) breaker(tool, driver string) wire.BreakerInfo {
	r.t.Helper()
	list, err := r.user.Handlers(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range list.Handlers {
		for _, b := range h.Breakers {
			if h.Tool == tool && b.Driver == driver {
				return b
			}
		}
	}
	r.t.Fatalf("no breaker of %s on %s in %+v", tool, driver, list)
	return wire.BreakerInfo{}
}

// breakerEvents are the types of the breakers' events, the oldest first.
func (r *rig) breakerEvents() []step.EventType {
	r.t.Helper()
	list, err := r.user.BreakerEvents(r.t.Context(), 100)
	if err != nil {
		r.t.Fatal(err)
	}
	types := []step.EventType{}
	for _, e := range slices.Backward(list.Events) {
		types = append(types, e.Type)
	}
	return types
}

func failingWith(kind step.Kind) wire.VerdictRecord {
	return wire.VerdictRecord{Verdict: step.Verdict{Cause: step.CauseDriverError, ErrorKind: kind, Attested: step.AttestedKernel, Message: "it does not work"}}
}

// end gives an attempt its verdict without ever having started it.
func (w *worker) end(l wire.Lease, v wire.VerdictRecord) {
	w.r.t.Helper()
	answer, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: []wire.Record{{N: 1, Type: wire.RecordVerdict, Verdict: &v}}})
	if err != nil || len(answer.Acks) != 1 || !answer.Acks[0].Ended {
		w.r.t.Fatalf("%+v, %v", answer, err)
	}
}

const flaky = `[{"name":"a","tool":"flaky"}]`

// opened is a rig whose breaker of flaky on local has just opened, after three
// failures; straggler was let through before.
func opened(t *testing.T, lines string) (r *rig, w *worker, straggler wire.Lease) {
	t.Helper()
	r = newRig(t, handlersWith(t, lines))
	w = r.worker("host")
	r.submit(flaky)
	straggler = w.one()
	for range 3 {
		if b := r.breaker("flaky", "local"); b.State != "closed" {
			t.Fatalf("opened early: %+v", b)
		}
		r.submit(flaky)
		w.finish(w.one(), exit(1))
	}
	if b := r.breaker("flaky", "local"); b.State != "open" || b.Reason != "3 failures in a row" || b.Opens != 1 || b.ReadyAt == nil {
		t.Fatalf("after three failures: %+v", b)
	}
	return r, w, straggler
}

const counting = "breaker: {counts: [exit], consecutive: 3, cooldown_ms: 3600000, cooldown_max_ms: 36000000}"

// The life of a breaker: failures open it, what comes then waits and says for
// what while others go by, a straggler does not close it, one probe goes after
// the cool-down and no second, and its success closes it.
func TestBreaker(t *testing.T) {
	t.Parallel()
	r, w, straggler := opened(t, counting)
	waiting, behind := r.submit(flaky), r.submit(flaky)
	calm := r.submit(`[{"name":"a","tool":"calm"}]`)
	if l := w.one(); l.RunID != calm.ID {
		t.Fatalf("claimed %+v", l)
	} else {
		w.finish(l, exit(0))
	}
	if got := w.claim(8, 0); len(got) != 0 {
		t.Fatalf("claimed %+v behind an open breaker", got)
	}
	if why := r.run(waiting.ID).Steps[0].WaitingFor; !strings.HasPrefix(why, "the breaker of flaky on local, open until 2") || !strings.HasSuffix(why, ": 3 failures in a row") {
		t.Errorf("waits for %q", why)
	}
	if straggler.Lane != "flaky" || straggler.BreakerGeneration != 0 {
		t.Errorf("the straggler's lease: %+v", straggler)
	}
	answer, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Held: []wire.Fence{straggler.Fence}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]wire.Barrier{{Lane: "flaky", Driver: "local", Generation: 1}}, answer.Barriers); diff != "" {
		t.Errorf("with the heartbeat: %s", diff)
	}
	w.finish(straggler, exit(0))
	if b := r.breaker("flaky", "local"); b.State != "open" {
		t.Fatalf("after a straggler's success: %+v", b)
	}

	r.cooled()
	if why := r.run(waiting.ID).Steps[0].WaitingFor; why != "" {
		t.Errorf("a probe may go, but it waits for %q", why)
	}
	var mu sync.Mutex
	var got []wire.Lease
	var group sync.WaitGroup
	others := []*worker{r.worker("two"), r.worker("three"), r.worker("four")}
	for _, x := range append(others, w) {
		group.Go(func() {
			l := x.claim(8, 0)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, l...)
		})
	}
	group.Wait()
	if len(got) > 1 {
		t.Fatalf("%d probes at once: %+v", len(got), got)
	}
	if len(got) == 0 { // all of them met each other's locks
		got = w.claim(8, 0)
	}
	if len(got) != 1 || got[0].RunID != waiting.ID {
		t.Fatalf("the probe is %+v", got)
	}
	if again := w.claim(8, 0); len(again) != 0 {
		t.Fatalf("a second probe: %+v", again)
	}
	if got[0].BreakerGeneration != 2 {
		t.Errorf("the probe's lease: %+v", got[0])
	}
	if why := r.run(behind.ID).Steps[0].WaitingFor; why != "the breaker of flaky on local, which tries another step first" {
		t.Errorf("waits for %q", why)
	}
	for _, x := range append(others, w) { // whoever has it
		_, _ = x.ship(wire.JournalBatch{Fence: got[0].Fence, Records: records(exit(0))})
	}
	if b := r.breaker("flaky", "local"); b.State != "closed" || b.Reason != "a probe was good" || b.Opens != 0 {
		t.Fatalf("after a good probe: %+v", b)
	}
	w.finish(w.one(), exit(0))
	want := []step.EventType{step.EventBreakerOpened, step.EventBreakerHalfOpen, step.EventBreakerClosed}
	if diff := cmp.Diff(want, r.breakerEvents()); diff != "" {
		t.Error(diff)
	}
	_, metrics := r.call("GET", "/metrics", "", nil)
	for _, line := range []string{`nofx_breakers{state="closed"} 1`, `nofx_breaker_changes_total{driver="local",handler="flaky",state="open"} 1`} {
		if !strings.Contains(string(metrics), line+"\n") {
			t.Errorf("no metric %s", line)
		}
	}
}

// A failed probe opens it for longer; one that is given back, or whose lease
// has passed, makes room for the next, and its late result changes nothing.
func TestProbes(t *testing.T) {
	t.Parallel()
	r, w, _ := opened(t, counting)
	lasts := func() time.Duration {
		b := r.breaker("flaky", "local")
		if b.State != "open" {
			t.Fatalf("%+v", b)
		}
		return b.ReadyAt.Sub(*b.ChangedAt).Round(time.Minute)
	}
	if got := lasts(); got != time.Hour {
		t.Errorf("the first cool-down is %v", got)
	}
	for range 4 {
		r.submit(flaky)
	}
	r.cooled()
	w.finish(w.one(), exit(1))
	if got := lasts(); got != 2*time.Hour {
		t.Errorf("the second cool-down is %v", got)
	}

	r.cooled()
	l := w.one()
	released, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{l.Fence}})
	if err != nil || len(released.Released) != 1 {
		t.Fatalf("%+v, %v", released, err)
	}
	late := w.one() // the next
	r.cooled()      // its lease has passed
	next := w.one()
	if late.StepID == next.StepID {
		t.Fatalf("%+v is let through twice", next)
	}
	w.finish(late, exit(0))
	if b := r.breaker("flaky", "local"); b.State != "half_open" {
		t.Errorf("after the late result: %+v", b)
	}
	w.finish(next, exit(0))
	if b := r.breaker("flaky", "local"); b.State != "closed" {
		t.Errorf("after the probe's: %+v", b)
	}
}

// However many workers ask at once, each time that a probe may go, one goes.
func TestOneProbeAtATime(t *testing.T) {
	t.Parallel()
	r, w, _ := opened(t, counting)
	workers := []*worker{w, r.worker("two"), r.worker("three"), r.worker("four")}
	for range 40 {
		r.submit(flaky)
	}
	var probes []wire.Lease
	for range 20 {
		r.cooled()
		got := make([][]wire.Lease, len(workers))
		var group sync.WaitGroup
		for i, x := range workers {
			group.Go(func() { got[i] = x.claim(4, 0) })
		}
		group.Wait()
		n := 0
		for _, leases := range got {
			n += len(leases)
			probes = append(probes, leases...)
		}
		if n > 1 {
			t.Fatalf("%d probes at once", n)
		}
	}
	if len(probes) < 10 { // a claim that meets the others' locks takes none
		t.Errorf("only %d probes of 20", len(probes))
	}
	seen := map[int64]bool{}
	for _, l := range probes {
		if seen[l.BreakerGeneration] {
			t.Errorf("two probes of generation %d", l.BreakerGeneration)
		}
		seen[l.BreakerGeneration] = true
	}
}

// A probe that is lost with its worker makes room for the next one, long before
// its own lease is over.
func TestLostProbe(t *testing.T) {
	t.Parallel()
	// After a pause the reaper waits for a lease before it takes any back.
	r := newRig(t, handlersWith(t, "breaker: {counts: [exit], consecutive: 1, cooldown_ms: 3600000}"), func(c *api.Config) { c.Lease = 5 * time.Second })
	w := r.worker("host")
	r.submit(flaky)
	w.finish(w.one(), exit(1))
	r.submit(flaky)
	r.submit(flaky)
	r.cooled()
	lost := w.one()
	r.sql("UPDATE nofx.attempt SET lease_until = now() - interval '1 second' WHERE status = 'running'")
	if next := w.one(); next.BreakerGeneration != lost.BreakerGeneration+2 || next.StepID == lost.StepID && next.Epoch == lost.Epoch {
		t.Errorf("after %+v came %+v", lost, next)
	}
}

// Only errors of the driver's own count, and a success between starts anew.
func TestWhatCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, "breaker: {consecutive: 2, cooldown_ms: 3600000, cooldown_max_ms: 3600000}"))
	all := offering("local", append([]string{"net.open"}, able...)...) // so that nothing is tried again
	w := r.worker("host", all)
	for name, results := range map[string][]wire.VerdictRecord{
		"the step's own":        {exit(1), cause(step.CauseTimeout), cause(step.CauseOOM)},
		"a bad request":         {failingWith(step.KindInvalid), failingWith(step.KindInvalid), failingWith(step.KindUnsupported)},
		"with a success within": {failingWith(step.KindUnavailable), exit(0), failingWith(step.KindInternal), exit(0)},
	} {
		for _, v := range results {
			r.submit(`[{"name":"a","tool":"flaky","network":"open"}]`)
			w.finish(w.one(), v)
		}
		if b := r.breaker("flaky", "local"); b.State != "closed" {
			t.Errorf("%s: %+v", name, b)
		}
	}
	other := r.worker("other", all) // another shard of the same breaker, most likely
	for _, x := range []*worker{w, other} {
		r.submit(`[{"name":"a","tool":"flaky","network":"open"}]`)
		x.finish(x.one(), failingWith(step.KindUnavailable))
	}
	if b := r.breaker("flaky", "local"); b.State != "open" {
		t.Errorf("after two in a row on two workers: %+v", b)
	}
}

// A kind of error is one that there is, and goes with infrastructure.
func TestErrorKindIsChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	own := exit(1)
	own.Verdict.ErrorKind = step.KindInternal
	for _, v := range []wire.VerdictRecord{failingWith("odd"), own} {
		_, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: []wire.Record{{N: 1, Type: wire.RecordVerdict, Verdict: &v}}})
		if !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "error_kind") {
			t.Errorf("%+v: %v", v.Verdict, err)
		}
	}
	w.end(l, failingWith(step.KindInternal))
}

// The rate opens it once there is enough to judge by.
func TestFailureRate(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, "breaker: {counts: [exit], consecutive: 0, min_volume: 6, failure_percent: 50, window_ms: 3600000}"))
	w := r.worker("host")
	for i, code := range []int{1, 0, 1, 0, 0, 1} {
		if b := r.breaker("flaky", "local"); b.State != "closed" {
			t.Fatalf("after %d: %+v", i, b)
		}
		r.submit(flaky)
		w.finish(w.one(), exit(code))
	}
	if b := r.breaker("flaky", "local"); b.State != "open" || b.Reason != "3 of 6 failed within 1h0m0s" {
		t.Errorf("%+v", b)
	}
}

// A step that says so fails before an open breaker, whether it comes then, was
// waiting for another step, or was there already. The others wait.
func TestFailFast(t *testing.T) {
	t.Parallel()
	r := newRig(t, handlersWith(t, counting))
	w := r.worker("host")
	const fast = `{"name":"a","tool":"flaky","on_open":"fail"}`
	var leases []wire.Lease
	for range 3 {
		r.submit(flaky)
	}
	leases = w.claim(3, 0)
	there := r.submit(`[` + fast + `,{"name":"b","tool":"calm","depends_on":["a"]}]`)
	for _, l := range leases {
		w.finish(l, exit(1))
	}
	d := r.run(there.ID)
	const why = "the breaker of flaky on local is open: 3 failures in a row"
	if a := d.Steps[0]; d.Run.Status != step.RunFailed || a.Verdict == nil || a.Verdict.Cause != step.CauseDriverError || a.Verdict.Message != why || a.Attempt != 0 ||
		d.Steps[1].Status != step.StepCancelled {
		t.Errorf("one that was there: %+v", d)
	}
	if d := r.run(r.submit(`[` + fast + `]`).ID); d.Run.Status != step.RunFailed {
		t.Errorf("one that comes: %+v", d)
	}
	later := r.submit(`[{"name":"first","tool":"calm"},{"name":"a","tool":"flaky","on_open":"fail","depends_on":["first"]}]`)
	w.finish(w.one(), exit(0))
	if d := r.until(later.ID, func(d wire.RunDetail) bool { return d.Run.Status.Terminal() }); d.Steps[1].Verdict.Message != why {
		t.Errorf("one that waited for another: %+v", d)
	}
	if d := r.run(r.submit(flaky).ID); d.Run.Status != step.RunQueued {
		t.Errorf("one that waits: %+v", d)
	}
	r.cooled()
	open := r.submit(`[` + fast + `]`)
	w.finish(w.one(), exit(0)) // the one that waited is the probe
	w.finish(w.one(), exit(0))
	if d := r.run(open.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("after the cool-down: %+v", d)
	}
}

// Where each tenant has a breaker of its own, one tenant's failures bar nobody
// else, and nobody else sees them.
func TestBreakerOfOneTenant(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lines  string
		driver string
		caps   []string
	}{
		"by the manifest": {"breaker: {per_tenant: true, counts: [exit], consecutive: 2, cooldown_ms: 3600000}", "local", able},
		"by the driver":   {"breaker: {counts: [exit], consecutive: 2, cooldown_ms: 3600000}", "vendor", append([]string{"tenant"}, able...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, handlersWith(t, tc.lines))
			rival := r.client("rival", "user")
			w := r.worker("host", offering(tc.driver, tc.caps...))
			steps := `[{"name":"a","tool":"flaky","driver":"` + tc.driver + `"}]`
			for range 2 {
				r.submit(steps)
				w.finish(w.one(), exit(1))
			}
			if b := r.breaker("flaky", tc.driver); b.State != "open" || !b.PerTenant {
				t.Fatalf("%+v", b)
			}
			r.submit(steps)
			theirs, err := rival.Submit(t.Context(), wire.SubmitRun{Plan: wire.Plan{Steps: []wire.PlanStep{{Name: "a", Tool: "flaky", Driver: tc.driver}}}}, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := w.claim(8, 0); len(got) != 1 || got[0].RunID != theirs.ID {
				t.Errorf("claimed %+v", got)
			}
			r.user = rival
			list, err := rival.Handlers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range list.Handlers {
				for _, b := range h.Breakers {
					if b.State != "closed" || b.Reason != "" {
						t.Errorf("the rival sees %+v", b)
					}
				}
			}
			if got := r.breakerEvents(); len(got) != 0 {
				t.Errorf("the rival sees %v", got)
			}
		})
	}
}
