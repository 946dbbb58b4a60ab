package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// die has steps of one run fail for good: each has the tool test:fail.
func (r *rig) die(w *worker, steps string) wire.RunCreated {
	r.t.Helper()
	run := r.submit(steps)
	for r.run(run.ID).Run.EndedAt == nil {
		w.finish(w.one(), exit(1), "", "no such feed\n")
	}
	return run
}

// dead is all that is in the DLQ.
func (r *rig) dead(f wire.DeadFilter) []wire.DeadStep {
	r.t.Helper()
	list, err := r.user.Dead(r.t.Context(), f, 200, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return list.Entries
}

const failing = `[{"name":"a","tool":"test:fail","inputs":{"feed":"warehouse-7"},"retry":{"attempts":2,"backoff_ms":1}}]`

// A step that has failed for good has one entry, with what one needs to know.
func TestDeadStep(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	before := time.Now().Add(-time.Minute)
	run := r.die(w, failing)
	green := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	w.finish(w.one(), exit(0))
	red := r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"exit 7"}}]`)
	w.finish(w.one(), exit(7))
	if d := r.run(red.ID); d.Run.Status != step.RunFailed {
		t.Errorf("%s %+v", green.ID, d)
	}
	list := r.dead(wire.DeadFilter{})
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	e := list[0]
	s := r.run(run.ID).Steps[0]
	if e.RunID != run.ID || e.StepID != s.ID || e.StepName != "a" || e.Generation != 1 || e.Tool != "test:fail" || e.Driver != "local" || e.WorkerID != w.id ||
		e.Cause != step.CauseExit || e.Reason != "all of its 2 attempts failed" || e.Attempts != 2 || e.State != wire.DeadOpen || e.CreatedAt.Before(before) || e.ResolvedAt != nil {
		t.Errorf("%+v", e)
	}
	events := r.eventsOf(run.ID, step.EventStepDead)
	if len(events) != 1 || events[0].Payload["entry"] != e.ID {
		t.Errorf("%+v", events)
	}
	d, err := r.user.DeadStep(t.Context(), e.ID)
	if err != nil || string(d.Inputs) != `{"feed":"warehouse-7"}` || len(d.History) != 2 {
		t.Fatalf("%+v %v", d, err)
	}
	for i, a := range d.History {
		if a.Attempt != i+1 || a.WorkerID != w.id || a.DriverVersion != "1" || a.StartedAt == nil || a.EndedAt == nil || a.Verdict == nil || *a.Verdict.ExitCode != 1 {
			t.Errorf("%+v", a)
		}
	}
}

// The list is filtered and comes in pages; the export has the same.
func TestDeadListAndExport(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	for range 3 {
		r.die(w, failing)
	}
	lost := r.submit(`[{"name":"b","tool":"test:echo","network":"none","retry":{"never_on":["driver_error"]}}]`)
	w.finish(w.one(), cause(step.CauseDriverError))
	for name, tc := range map[string]struct {
		f    wire.DeadFilter
		want int
	}{
		"all":            {wire.DeadFilter{}, 4},
		"tool":           {wire.DeadFilter{Tool: "test:fail"}, 3},
		"another tool":   {wire.DeadFilter{Tool: "test:*"}, 0},
		"cause":          {wire.DeadFilter{Cause: step.CauseDriverError}, 1},
		"driver":         {wire.DeadFilter{Driver: "local"}, 4},
		"another driver": {wire.DeadFilter{Driver: "container"}, 0},
		"since":          {wire.DeadFilter{Since: time.Now().Add(-time.Hour)}, 4},
		"since later":    {wire.DeadFilter{Since: time.Now().Add(time.Hour)}, 0},
		"resolved":       {wire.DeadFilter{State: wire.DeadRequeued}, 0},
		"any":            {wire.DeadFilter{State: client.AnyState}, 4},
	} {
		if got := r.dead(tc.f); len(got) != tc.want {
			t.Errorf("%s: %d entries, want %d", name, len(got), tc.want)
		}
		var exported []wire.DeadStepDetail
		if err := r.user.ExportDead(t.Context(), tc.f, func(e wire.DeadStepDetail) error { exported = append(exported, e); return nil }); err != nil || len(exported) != tc.want {
			t.Errorf("%s: %d exported, want %d, %v", name, len(exported), tc.want, err)
		}
		for _, e := range exported {
			if len(e.History) == 0 || len(e.Inputs) == 0 {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
	var ids []string
	for cursor, pages := "", 0; pages < 5; pages++ {
		page, err := r.user.Dead(t.Context(), wire.DeadFilter{}, 3, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			ids = append(ids, e.ID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(ids) != 4 || len(slices.Compact(slices.Sorted(slices.Values(ids)))) != 4 || ids[0] != r.dead(wire.DeadFilter{Cause: step.CauseDriverError})[0].ID {
		t.Errorf("%s: %v", lost.ID, ids)
	}
	resp, raw := r.call("GET", "/dlq/export", r.keys["acme user"], nil)
	if resp.Header.Get("Content-Type") != "application/x-ndjson" || strings.Count(string(raw), "\n") != 4 {
		t.Errorf("%v %s", resp.Header, raw)
	}
}

// An export that is longer than a page has everything once.
func TestLongExport(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	steps := make([]string, 250)
	for i := range steps {
		steps[i] = `{"name":"s` + strings.Repeat("x", i%100) + string(rune('a'+i/100)) + `","tool":"test:echo","retry":{"never_on":["driver_error"]}}`
	}
	run := r.submit("[" + strings.Join(steps, ",") + "]")
	for r.run(run.ID).Run.EndedAt == nil {
		var batches []wire.JournalBatch
		for _, l := range w.claim(64, 0) {
			batches = append(batches, wire.JournalBatch{Fence: l.Fence, Records: records(cause(step.CauseDriverError))})
		}
		if _, err := w.ship(batches...); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	if err := r.user.ExportDead(t.Context(), wire.DeadFilter{}, func(e wire.DeadStepDetail) error { seen[e.ID] = true; return nil }); err != nil || len(seen) != 250 {
		t.Errorf("%d of 250, %v", len(seen), err)
	}
}

func TestDeadRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/api/dlq?cause=hunger":      {422, "query.cause"},
		"/api/dlq?state=gone":        {422, "query.state"},
		"/api/dlq?limit=201":         {422, "query.limit"},
		"/api/dlq?cursor=x":          {422, "query.cursor"},
		"/api/dlq?since=yesterday":   {422, "query.since"},
		"/api/dlq/export?cause=gone": {422, "query.cause"},
		"/api/dlq/dead_x":            {404, "no entry dead_x in the DLQ"},
		"/dlq/dead_x":                {404, "no entry dead_x in the DLQ"},
	} {
		resp, raw := r.call("GET", path, r.keys["acme user"], nil)
		if resp.StatusCode != want.status || !strings.Contains(string(raw), want.text) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, raw)
		}
	}
	if resp, raw := r.call("GET", "/dlq", r.keys["acme user"], nil); resp.StatusCode != http.StatusOK || strings.TrimSpace(string(raw)) != `{"entries":[]}` {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
}
