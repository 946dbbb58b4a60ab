package api_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// three is a run whose steps share its workspace, one after the other.
const three = `[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]},{"name":"c","tool":"test:echo","depends_on":["b"]}]`

// save uploads a layer of an attempt and gives the verdict that names it.
func (w *worker) save(l wire.Lease, seq int, full bool, body string) wire.VerdictRecord {
	w.r.t.Helper()
	if err := w.PutArtifact(w.r.t.Context(), w.id, w.incarnation, l.Fence, sum(body), int64(len(body)), strings.NewReader(body)); err != nil {
		w.r.t.Fatal(err)
	}
	v := exit(0)
	v.Layer = &wire.Layer{Seq: seq, SHA256: sum(body), Size: int64(len(body)), Bytes: 10, Full: full}
	return v
}

func (w *worker) fetch(l wire.Lease, seq int) (string, error) {
	body, err := w.Layer(w.r.t.Context(), w.id, w.incarnation, l.Fence, seq)
	if err != nil {
		return "", err
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	return string(raw), err
}

// notes are the events of a run that workers named, or that are named so.
func (r *rig) notes(run string) (out []string) {
	r.t.Helper()
	events, err := r.user.Timeline(r.t.Context(), run)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range events {
		if name, ok := e.Payload["name"].(string); ok && e.Type == "step.note" {
			out = append(out, name)
		}
	}
	return out
}

// A run whose worker is lost goes on with another one, from the layers of its
// workspace, and soon.
func TestRunMovesWithItsWorkspace(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	r := newRig(t, func(c *api.Config) { c.Lease = lease })
	one, two := r.worker("one"), r.worker("two")
	run := r.submit(three)
	a := one.one()
	if !a.Snapshot || a.WorkspaceNo != 1 || a.LastLayer != 0 || len(a.Layers) != 0 || a.Restore {
		t.Errorf("a: %+v", a)
	}
	one.finish(a, one.save(a, 1, true, "all of it"))
	b := one.one()
	first := wire.Layer{Seq: 1, SHA256: sum("all of it"), Size: 9, Bytes: 10, Full: true}
	if diff := cmp.Diff([]wire.Layer{first}, b.Layers); diff != "" || b.LastLayer != 1 || b.WorkspaceNo != 1 {
		t.Errorf("b: %+v: %s", b, diff)
	}
	one.finish(b, one.save(b, 2, false, "some more"))
	last := time.Now() // that the first worker was heard of
	var c wire.Lease
	for c.AttemptID == "" {
		if _, err := two.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: two.id, Incarnation: two.incarnation, Drivers: two.drivers}); err != nil {
			t.Fatal(err)
		}
		if got := two.claim(1, 500*time.Millisecond); len(got) > 0 {
			c = got[0]
		}
		if time.Since(last) > lease+5*time.Second {
			t.Fatal("it did not go on in time")
		}
	}
	second := wire.Layer{Seq: 2, SHA256: sum("some more"), Size: 9, Bytes: 10}
	if diff := cmp.Diff([]wire.Layer{first, second}, c.Layers); diff != "" || c.StepName != "c" || c.WorkspaceNo != 2 || c.LastLayer != 2 || c.Snapshot {
		t.Errorf("c: %+v: %s", c, diff)
	}
	for seq, want := range map[int]string{1: "all of it", 2: "some more"} {
		if got, err := two.fetch(c, seq); err != nil || got != want {
			t.Errorf("layer %d: %q, %v", seq, got, err)
		}
	}
	one.incarnation = "one-2"
	one.register("one") // it is back
	other := r.workerOf("umbrella", "other")
	for name, refused := range map[string]func() (string, error){
		"the worker before":    func() (string, error) { return one.fetch(b, 1) },
		"its lease":            func() (string, error) { return one.fetch(c, 1) },
		"another's key":        func() (string, error) { return other.fetch(c, 1) },
		"no such layer":        func() (string, error) { return two.fetch(c, 3) },
		"another epoch":        func() (string, error) { x := c; x.Epoch++; return two.fetch(x, 1) },
		"an earlier one's run": func() (string, error) { x := c; x.AttemptID = b.AttemptID; return two.fetch(x, 1) },
	} {
		if _, err := refused(); !step.Is(err, step.KindConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	beat := func(w *worker) []string {
		t.Helper()
		got, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Runs: []string{run.ID}, Held: []wire.Fence{c.Fence}})
		if err != nil {
			t.Fatal(err)
		}
		return got.Ended
	}
	if got := beat(one); !cmp.Equal(got, []string{run.ID}) {
		t.Errorf("the worker before keeps its copy: %v", got)
	}
	if got := beat(two); len(got) != 0 {
		t.Errorf("its worker is to remove it: %v", got)
	}
	two.finish(c, exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
	events, err := r.user.Timeline(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(events, func(e step.Event) bool { return e.Type == step.EventRunMoved })
	if at < 0 || events[at].Payload["layer"] != float64(2) || events[at].Payload["from"] != one.id {
		t.Errorf("%v", r.types(run.ID))
	}
	if left := r.column("SELECT seq::text FROM nofx.workspace_layer WHERE removed_at IS NULL"); len(left) != 0 {
		t.Errorf("layers that nobody needs: %v", left)
	}
}

// A worker that is older than layers would begin with an empty workspace: it does
// not get a run that has some, unless it has its workspace.
func TestOldWorkerGetsNoLayers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, old, two := r.worker("one"), r.worker("old"), r.worker("two")
	old.old = true
	r.submit(three)
	a := one.one()
	one.finish(a, one.save(a, 1, true, "all of it"))
	r.sql("UPDATE nofx.worker SET last_seen = now() - interval '61 seconds' WHERE id = $1", one.id)
	r.eventually("the run is let go", func() bool { return r.column("SELECT pin FROM nofx.run")[0] == "" })
	if got := old.claim(1, 0); len(got) != 0 {
		t.Errorf("it got %+v", got)
	}
	if b := two.one(); len(b.Layers) != 1 {
		t.Errorf("%+v", b)
	}
	r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	for range 2 {
		l := old.one()
		if l.RunID == a.RunID {
			t.Errorf("it got %+v", l)
		}
		old.finish(l, exit(0))
	}
}

// What is not saved binds the run to its worker.
func TestRunStaysWithWhatIsNotSaved(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		second func(*worker, wire.Lease) wire.VerdictRecord
		moves  bool
		notes  []string
	}{
		"nothing has changed": {second: func(*worker, wire.Lease) wire.VerdictRecord {
			v := exit(0)
			v.Layer = &wire.Layer{Seq: 1}
			return v
		}, moves: true},
		"not saved": {second: func(*worker, wire.Lease) wire.VerdictRecord { return exit(0) }},
		"on a layer that is not there": {second: func(w *worker, l wire.Lease) wire.VerdictRecord {
			return w.save(l, 3, false, "late")
		}, notes: []string{wire.NoteNotSaved}},
		"a layer that is there": {second: func(w *worker, l wire.Lease) wire.VerdictRecord {
			return w.save(l, 1, false, "early")
		}, notes: []string{wire.NoteNotSaved}},
		"a layer whose bytes are gone": {second: func(w *worker, l wire.Lease) wire.VerdictRecord {
			v := w.save(l, 2, false, "more")
			v.Layer.SHA256 = sum("another")
			return v
		}, notes: []string{wire.NoteNotSaved}},
		"a layer of another size": {second: func(w *worker, l wire.Lease) wire.VerdictRecord {
			v := w.save(l, 2, false, "more")
			v.Layer.Size++
			return v
		}, notes: []string{wire.NoteNotSaved}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			one, two := r.worker("one"), r.worker("two")
			run := r.submit(three)
			a := one.one()
			one.finish(a, one.save(a, 1, true, "all of it"))
			b := one.one()
			one.finish(b, tc.second(one, b))
			if got := r.notes(run.ID); !slices.Equal(got, tc.notes) {
				t.Errorf("told: %v", got)
			}
			r.sql("UPDATE nofx.worker SET last_seen = now() - interval '61 seconds' WHERE id = $1", one.id)
			r.eventually("it is lost", func() bool { return r.column("SELECT status FROM nofx.worker WHERE name = 'one'")[0] == "lost" })
			before := r.column("SELECT ticked_at::text FROM nofx.lease_clock")[0]
			r.eventually("the reaper comes again", func() bool { return r.column("SELECT ticked_at::text FROM nofx.lease_clock")[0] != before })
			if got := two.claim(1, 0); len(got) > 0 != tc.moves {
				t.Errorf("the other worker got %+v", got)
			}
		})
	}
}

// A later layer has what could not be saved before it, too.
func TestLaterLayerCovers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.worker("one")
	run := r.submit(three)
	one.finish(one.one(), exit(0))
	b := one.one()
	if len(b.Layers) != 0 || b.LastLayer != 0 {
		t.Errorf("%+v", b)
	}
	one.finish(b, one.save(b, 1, true, "all of it"))
	if c := one.one(); len(c.Layers) != 1 || c.LastLayer != 1 {
		t.Errorf("%+v", c)
	}
	if got := r.column(fmt.Sprintf("SELECT name FROM nofx.step WHERE run_id = '%s' AND saved ORDER BY name", run.ID)); !cmp.Equal(got, []string{"a", "b"}) {
		t.Errorf("saved: %v", got)
	}
}

// What a step left that was not saved does not count as saved because another one
// that ends with it had seen, earlier, that nothing had changed.
func TestLayerDoesNotCoverWhatEndsWithIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo"},{"name":"c","tool":"test:echo","depends_on":["a","b"]}]`)
	both := w.claim(2, 5*time.Second)
	if len(both) != 2 {
		t.Fatalf("%+v", both)
	}
	same, not := exit(0), exit(0)
	same.Layer = &wire.Layer{Seq: 0}
	if _, err := w.ship(wire.JournalBatch{Fence: both[0].Fence, Records: records(same)}, wire.JournalBatch{Fence: both[1].Fence, Records: records(not)}); err != nil {
		t.Fatal(err)
	}
	if got := r.column(fmt.Sprintf("SELECT name FROM nofx.step WHERE run_id = '%s' AND saved", run.ID)); !cmp.Equal(got, []string{both[0].StepName}) {
		t.Errorf("saved: %v, want %s alone", got, both[0].StepName)
	}
}

// A full layer is the first of a new chain.
func TestFullLayerBeginsAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.worker("one")
	r.submit(three)
	a := one.one()
	one.finish(a, one.save(a, 1, true, "all of it"))
	b := one.one()
	one.finish(b, one.save(b, 2, true, "all of it, again"))
	if c := one.one(); len(c.Layers) != 1 || c.Layers[0].Seq != 2 || c.LastLayer != 2 {
		t.Errorf("%+v", c)
	}
}

// A step that infrastructure ended in the middle begins where the steps before it
// had left off; one that failed by its own doing does not.
func TestRestoreAfterLoss(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	r.submit(`[{"name":"a","tool":"test:fail","retry":{"attempts":2}},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	for i, end := range []wire.VerdictRecord{exit(1), cause(step.CauseDriverError), exit(0)} {
		l := w.one()
		if l.Restore != (i == 2) {
			t.Errorf("try %d: %+v", i, l)
		}
		w.finish(l, end)
	}
	b := w.one()
	w.finish(b, cause(step.CauseDriverError))
	if again := w.one(); again.Restore {
		t.Errorf("it would lose what is not saved: %+v", again)
	}
}

// Of a run with one step nothing is saved, and of others not the last.
func TestNothingIsSavedInVain(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	for plan, want := range map[string]string{
		`[{"name":"a","tool":"test:echo"}]`:                                                                       "a",
		`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`:                    "A b",
		`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","workspace":"step"}]`:                    "a b",
		`[{"name":"a","tool":"test:echo","workspace":"step"},{"name":"b","tool":"test:echo"}]`:                    "a b",
		`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo"}]`:                                       "A b",
		`[{"name":"a","tool":"test:fail"},{"name":"b","tool":"test:echo"}]`:                                       "A B a a",
		`[{"name":"a","tool":"test:echo","workspace":"step"},{"name":"b","tool":"test:echo","workspace":"step"}]`: "a b",
	} {
		run := r.submit(plan)
		var got []string
		for r.run(run.ID).Run.EndedAt == nil {
			l := w.one()
			name, end := l.StepName, exit(0)
			if l.Snapshot {
				name = strings.ToUpper(name)
			}
			if l.Tool == "test:fail" {
				end = exit(1)
			}
			got = append(got, name)
			w.finish(l, end)
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s: %s", plan, text)
		}
	}
}

// After the run has ended, and whoever had its workspace has removed it, a step
// that is tried again finds what the others left.
func TestRetryFindsTheLayers(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t), func(c *api.Config) { c.WorkspaceKeep = 0 })
	one := r.worker("one")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:fail","depends_on":["a"]}]`)
	a := one.one()
	one.finish(a, one.save(a, 1, true, "all of it"))
	for r.run(run.ID).Run.EndedAt == nil {
		one.finish(one.one(), exit(1))
	}
	got, err := one.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: one.id, Incarnation: one.incarnation, Drivers: one.drivers, Runs: []string{run.ID}})
	if err != nil || !cmp.Equal(got.Ended, []string{run.ID}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{}, ""); err != nil {
		t.Fatal(err)
	}
	two := r.worker("two")
	b := two.one()
	if len(b.Layers) != 1 || b.WorkspaceNo != 2 || b.Restore {
		t.Errorf("%+v", b)
	}
	if body, err := two.fetch(b, 1); err != nil || body != "all of it" {
		t.Errorf("%q, %v", body, err)
	}
	two.finish(b, exit(1))
	for r.run(run.ID).Run.EndedAt == nil {
		two.finish(two.one(), exit(1))
	}
	if _, err := r.user.RetryRun(t.Context(), run.ID, wire.RetryRun{All: true}, ""); err != nil {
		t.Fatal(err)
	}
	if a := two.one(); len(a.Layers) != 0 || a.LastLayer != 1 {
		t.Errorf("a run that begins anew finds something: %+v", a)
	}
}

// What is not a layer is refused with the verdict.
func TestLayerIsChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.submit(three)
	a := w.one()
	good := w.save(a, 1, true, "all of it")
	for name, change := range map[string]func(*wire.VerdictRecord){
		"no sum":            func(v *wire.VerdictRecord) { v.Layer.SHA256 = "" },
		"upper case":        func(v *wire.VerdictRecord) { v.Layer.SHA256 = strings.ToUpper(v.Layer.SHA256) },
		"a number below 0":  func(v *wire.VerdictRecord) { v.Layer.Seq = -1 },
		"too big a number":  func(v *wire.VerdictRecord) { v.Layer.Seq = 1 << 40 },
		"no bytes":          func(v *wire.VerdictRecord) { v.Layer.Size = 0 },
		"fewer than none":   func(v *wire.VerdictRecord) { v.Layer.Bytes = -1 },
		"more than may be":  func(v *wire.VerdictRecord) { v.Layer.Bytes = wire.MaxArtifactBytes + 1 },
		"of what failed":    func(v *wire.VerdictRecord) { one := 1; v.Verdict.ExitCode = &one },
		"of what timed out": func(v *wire.VerdictRecord) { l := v.Layer; *v = cause(step.CauseTimeout); v.Layer = l },
	} {
		v := good
		l := *good.Layer
		v.Layer = &l
		change(&v)
		if _, err := w.ship(wire.JournalBatch{Fence: a.Fence, Records: records(v)}); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.finish(a, good)
}

// What is saved lets a step go to a worker that has its driver, when the one with
// the run's workspace has not.
func TestRunMovesToTheDriver(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease, c.DriverWait = 2*time.Second, 2*time.Second })
	w, other := r.worker("host"), r.worker("other", offering("container", able...))
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","driver":"container","depends_on":["a"]}]`)
	a := w.one()
	w.finish(a, w.save(a, 1, true, "all of it"))
	var b []wire.Lease
	r.untilBeating(w, run.ID, func(wire.RunDetail) bool {
		other.beat()
		b = other.claim(1, 0)
		return len(b) > 0
	})
	if len(b[0].Layers) != 1 || b[0].WorkspaceNo != 2 {
		t.Errorf("%+v", b[0])
	}
	other.finish(b[0], exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded || !slices.Contains(r.types(run.ID), step.EventRunMoved) {
		t.Errorf("%s: %v", d.Run.Status, r.types(run.ID))
	}
}

// Of a run that is cancelled nobody needs the workspace again.
func TestCancelledRunForgetsItsLayers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(three)
	a := w.one()
	w.finish(a, w.save(a, 1, true, "all of it"))
	if left := r.column("SELECT seq::text FROM nofx.workspace_layer WHERE removed_at IS NULL"); len(left) != 1 {
		t.Fatalf("%v", left)
	}
	if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	r.until(run.ID, func(d wire.RunDetail) bool { return d.Run.Status == step.RunCancelled })
	if left := r.column("SELECT seq::text FROM nofx.workspace_layer WHERE removed_at IS NULL"); len(left) != 0 {
		t.Errorf("%v", left)
	}
}

// A run is not let go while a claim is taking one of its steps.
func TestRunStaysWithAClaimUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 4 * time.Second })
	one := r.worker("one")
	run := r.submit(three)
	a := one.one()
	one.finish(a, one.save(a, 1, true, "all of it"))
	conn, err := pgx.Connect(t.Context(), r.db.Admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.sql("UPDATE nofx.worker SET last_seen = now() - interval '10 seconds', status = 'lost' WHERE id = $1", one.id)
	for _, text := range []string{"SELECT 1 FROM nofx.worker WHERE id = $1 FOR SHARE", "SELECT 1 FROM nofx.step WHERE pin = $1 AND name = 'b' FOR NO KEY UPDATE"} {
		if _, err := tx.Exec(t.Context(), text, one.id); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("somebody waits for the step", func() bool {
		return r.column("SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")[0] != "0"
	})
	if _, err := tx.Exec(t.Context(), "UPDATE nofx.step SET status = 'running' WHERE run_id = $1 AND name = 'b'", run.ID); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		before := r.column("SELECT ticked_at::text FROM nofx.lease_clock")[0]
		r.eventually("the reaper comes", func() bool { return r.column("SELECT ticked_at::text FROM nofx.lease_clock")[0] != before })
	}
	if pin := r.column("SELECT pin FROM nofx.run"); pin[0] != one.id {
		t.Errorf("it was let go: %q", pin)
	}
	// It is once nothing runs there.
	r.sql("UPDATE nofx.step SET status = 'queued' WHERE run_id = $1 AND name = 'b'", run.ID)
	r.eventually("it is let go", func() bool { return r.column("SELECT pin FROM nofx.run")[0] == "" })
}
