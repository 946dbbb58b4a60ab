package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/api/internal/retention"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	tickToken = "a-token-that-is-long-enough"
	day       = 24 * time.Hour
)

// keeping is an API that keeps runs for 30 days and can be asked to do its
// background work.
func keeping(t testing.TB, change ...func(*api.Config)) *rig {
	t.Helper()
	return newRig(t, append([]func(*api.Config){withoutBreakers(t), func(c *api.Config) {
		c.TickToken, c.Retain = tickToken, retention.Keep{Runs: 30 * day}
	}}, change...)...)
}

// work does the background work once.
func (r *rig) work() {
	r.t.Helper()
	if resp, raw := r.call("POST", "/api/tick", tickToken, nil); resp.StatusCode != http.StatusNoContent {
		r.t.Fatalf("tick: %d %s", resp.StatusCode, raw)
	}
}

// ended has a run end, with two steps, output and an artifact.
func (r *rig) ended(w *worker) wire.RunDetail {
	r.t.Helper()
	run := r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"true"},"artifacts":["report.json"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	l := w.one()
	body := "report of " + run.ID
	if err := w.PutArtifact(r.t.Context(), w.id, w.incarnation, l.Fence, sum(body), int64(len(body)), strings.NewReader(body)); err != nil {
		r.t.Fatal(err)
	}
	v := exit(0)
	v.Artifacts = []step.Artifact{{Name: "report.json", SHA256: sum(body), Size: int64(len(body))}}
	v.Layer = w.save(l, 1, true, "workspace of "+run.ID).Layer
	v.Verdict.Usage.WallMS = 1500
	w.finish(l, v, "all is well\n")
	w.finish(w.one(), exit(0), "{}")
	return r.run(run.ID)
}

// age moves the end of a run, and all that came before, into the past.
func (r *rig) age(id string, by time.Duration) {
	r.t.Helper()
	r.sql("UPDATE nofx.run SET created_at = created_at - $2::interval, ended_at = ended_at - $2::interval WHERE id = $1", id, by.String())
	r.sql("UPDATE nofx.attempt SET ended_at = ended_at - $2::interval WHERE run_id = $1", id, by.String())
}

// rowsOf counts what tables still have of a run.
func (r *rig) rowsOf(id string) map[string]string {
	r.t.Helper()
	out := map[string]string{}
	for _, table := range []string{"run", "step", "attempt", "artifact", "workspace_layer", "event", "event_log", "outbox", "step_dlq"} {
		column := "run_id"
		if table == "run" {
			column = "id"
		}
		if n := r.column(fmt.Sprintf("SELECT count(*)::text FROM nofx.%s WHERE %s = '%s'", table, column, id))[0]; n != "0" {
			out[table] = n
		}
	}
	return out
}

// A run whose time is over is gone whole; what is younger, has not ended, is
// another tenant's or waits for an operator stays.
func TestRunsAreRemoved(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	w := r.worker("host")
	old, young := r.ended(w), r.ended(w)
	dead := r.die(w, failing)
	open := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	r.age(old.Run.ID, 31*day)
	r.age(young.Run.ID, 29*day)
	r.age(dead.ID, 31*day)
	r.sql("UPDATE nofx.run SET created_at = created_at - interval '100 days' WHERE id = $1", open.ID)
	events := r.types(old.Run.ID)
	before, err := r.user.Usage(t.Context(), time.Now().Add(-60*day), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	audited := r.column("SELECT count(*)::text FROM nofx.audit_log")
	var seen bytes.Buffer
	if err := api.PreviewRetention(t.Context(), r.db.System, &seen); err != nil {
		t.Fatal(err)
	}
	if text := seen.String(); !strings.Contains(text, "1 run with 2 steps") || !strings.Contains(text, "kept for an open entry in the DLQ: 1 run\n") || !strings.Contains(text, "30d") {
		t.Errorf("dry run: %s", text)
	}
	if got := r.rowsOf(old.Run.ID); len(got) == 0 {
		t.Fatal("the dry run removed something")
	}

	r.work()

	if got := r.rowsOf(old.Run.ID); len(got) > 0 {
		t.Errorf("left of the run: %v", got)
	}
	if got := r.column("SELECT count(*)::text FROM nofx.output_index o WHERE NOT EXISTS (SELECT 1 FROM nofx.attempt a WHERE a.id = o.attempt_id)"); got[0] != "0" {
		t.Errorf("%s pieces of output are nobody's", got[0])
	}
	for what, path := range map[string]string{"run": "", "timeline": "/timeline", "stream": "/stream", "output": "/steps/" + old.Steps[0].ID + "/output"} {
		header := []string{}
		if what == "stream" { // a reader that comes back to where it was
			header = []string{"Last-Event-ID", fmt.Sprintf("%s.%d", old.Run.ID, len(events)-1)}
		}
		for id, want := range map[string]int{old.Run.ID: http.StatusNotFound, young.Run.ID: http.StatusOK} {
			path, header := strings.ReplaceAll(path, old.Steps[0].ID, map[bool]string{true: old.Steps[0].ID, false: young.Steps[0].ID}[id == old.Run.ID]), slices.Clone(header)
			if len(header) > 0 {
				header[1] = strings.ReplaceAll(header[1], old.Run.ID, id)
			}
			if resp, raw := r.call("GET", "/api/runs/"+id+path, r.keys["acme user"], nil, header...); resp.StatusCode != want {
				t.Errorf("%s of %s: %d %s", what, id, resp.StatusCode, raw)
			}
		}
	}
	if resp, _ := r.call("GET", "/api/artifacts/"+old.Artifacts[0].Path, r.keys["acme user"], nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("its artifact: %d", resp.StatusCode)
	}
	for _, id := range []string{young.Run.ID, dead.ID, open.ID} {
		r.run(id)
	}
	if entries := r.dead(wire.DeadFilter{}); len(entries) != 1 || entries[0].RunID != dead.ID {
		t.Errorf("the DLQ: %+v", entries)
	}
	after, err := r.user.Usage(t.Context(), time.Now().Add(-60*day), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.Rows, after.Rows); diff != "" {
		t.Errorf("what was used: %s", diff)
	}
	if got := r.column("SELECT count(*)::text FROM nofx.audit_log"); got[0] != audited[0] {
		t.Errorf("%s audit rows of %s", got[0], audited[0])
	}
	if resp, raw := r.call("GET", "/metrics", "", nil); resp.StatusCode != http.StatusOK || !strings.Contains(string(raw), `nofx_retention_removed_total{what="runs"} 1`) ||
		!strings.Contains(string(raw), `nofx_retention_removed_total{what="steps"} 2`) || !strings.Contains(string(raw), "nofx_retention_lag_seconds 0") {
		t.Errorf("metrics: %d\n%s", resp.StatusCode, raw)
	}

	// Once an operator has decided, its run goes: at the next look, a day later.
	if _, err := r.user.DiscardDead(t.Context(), r.dead(wire.DeadFilter{})[0].ID, ""); err != nil {
		t.Fatal(err)
	}
	r.work()
	r.run(dead.ID)
	r.sql("UPDATE nofx.run SET kept_from = kept_from - interval '1 day' WHERE id = $1", dead.ID)
	r.work()
	if got := r.rowsOf(dead.ID); len(got) > 0 {
		t.Errorf("left of the discarded one's run: %v", got)
	}
	if n := len(r.audited("dlq.discard")); n != 1 {
		t.Errorf("%d audit rows of the discard", n)
	}
}

// A tenant's own time counts in place of the API's, longer or shorter.
func TestTenantsKeepAsTheyLike(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	w := r.worker("host")
	for _, c := range []struct {
		runs  api.KeepFor
		age   time.Duration
		stays bool
	}{
		{api.KeepFor{Default: true}, 29 * day, true},
		{api.KeepFor{Default: true}, 31 * day, false},
		{api.KeepFor{For: 2 * day}, day, true},
		{api.KeepFor{For: 2 * day}, 3 * day, false},
		{api.KeepFor{For: 90 * day}, 31 * day, true},
		{api.KeepFor{For: 90 * day}, 91 * day, false},
		{api.KeepFor{}, 4000 * day, true},
	} {
		if err := api.SetTenantRetention(t.Context(), r.db.Admin, api.TenantRetention{Tenant: "acme", Runs: &c.runs}); err != nil {
			t.Fatal(err)
		}
		run := r.ended(w)
		r.age(run.Run.ID, c.age)
		r.work()
		_, err := r.user.Run(t.Context(), run.Run.ID)
		if stays := err == nil; stays != c.stays || err != nil && !step.Is(err, step.KindNotFound) {
			t.Errorf("%+v, ended %v ago: %v", c.runs, c.age, err)
		}
		if c.stays {
			r.sql("UPDATE nofx.run SET ended_at = now() WHERE id = $1", run.Run.ID)
		}
	}
	if n := len(r.audited("tenant.retention")); n != 7 {
		t.Errorf("%d audit rows", n)
	}
	if got := r.column("SELECT detail::text FROM nofx.audit_log WHERE action = 'tenant.retention' ORDER BY id")[2]; got != `{"max_run_retention_days":2}` {
		t.Errorf("audited: %s", got)
	}
	hour := api.KeepFor{For: time.Hour}
	for name, bad := range map[string]api.TenantRetention{
		"24h":       {Tenant: "acme", Runs: &hour},
		"87600h":    {Tenant: "acme", Artifacts: &api.KeepFor{For: 11 * 365 * day}},
		"no tenant": {Tenant: "nobody", Runs: &api.KeepFor{For: 2 * day}},
	} {
		if err := api.SetTenantRetention(t.Context(), r.db.Admin, bad); err == nil || name != "no tenant" && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*api.Config)
	}{
		{"NOFX_RETAIN_RUNS", func(c *api.Config) { c.Retain.Runs = time.Hour }},
		{"NOFX_RETAIN_ARTIFACTS", func(c *api.Config) { c.Retain.Artifacts = -day }},
		{"NOFX_QUEUE_PRESSURE", func(c *api.Config) { c.QueuePressure = time.Millisecond }},
	} {
		cfg := r.cfg
		c.change(&cfg)
		if _, err := api.New(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// An artifact whose own time is over is gone with a word, and its row stays; of
// a run that has not ended it stays.
func TestArtifactsAreRemoved(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	w := r.worker("host")
	week := api.KeepFor{For: 7 * day}
	if err := api.SetTenantRetention(t.Context(), r.db.Admin, api.TenantRetention{Tenant: "acme", Artifacts: &week}); err != nil {
		t.Fatal(err)
	}
	old, young, open := r.ended(w), r.ended(w), r.ended(w)
	r.sql("UPDATE nofx.artifact SET created_at = now() - interval '8 days' WHERE run_id IN ($1, $2)", old.Run.ID, open.Run.ID)
	r.sql("UPDATE nofx.run SET status = 'running', ended_at = NULL, steps_left = 1 WHERE id = $1", open.Run.ID)
	var seen bytes.Buffer
	if err := api.PreviewRetention(t.Context(), r.db.System, &seen); err != nil || !strings.Contains(seen.String(), "artifacts 7d  1 artifact with ") {
		t.Errorf("dry run: %v %s", err, seen.String())
	}
	r.work()
	for _, c := range []struct {
		run  wire.RunDetail
		want int
	}{{old, http.StatusGone}, {young, http.StatusOK}, {open, http.StatusOK}} {
		resp, raw := r.call("GET", "/api/artifacts/"+c.run.Artifacts[0].Path, r.keys["acme user"], nil)
		if resp.StatusCode != c.want {
			t.Errorf("%d, want %d: %s", resp.StatusCode, c.want, raw)
		}
		listed := r.run(c.run.Run.ID).Artifacts
		if len(listed) != 1 || (listed[0].RemovedAt != nil) != (c.want == http.StatusGone) {
			t.Errorf("listed: %+v", listed)
			continue
		}
		if c.want == http.StatusGone && (resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(raw), "urn:nofx:problem:gone") ||
			!strings.Contains(string(raw), listed[0].RemovedAt.Format(time.RFC3339))) {
			t.Errorf("%v %s", resp.Header, raw)
		}
	}
	if _, err := r.user.Artifact(t.Context(), old.Artifacts[0].Path); !step.Is(err, step.KindGone) {
		t.Errorf("the client says %v", err)
	}
	// Another attempt's later artifact of the name is there.
	r.sql("UPDATE nofx.artifact SET removed_at = NULL WHERE run_id = $1", old.Run.ID)
	if resp, _ := r.call("GET", "/api/artifacts/"+old.Artifacts[0].Path, r.keys["acme user"], nil); resp.StatusCode != http.StatusOK {
		t.Errorf("positive control: %d", resp.StatusCode)
	}
}

// A run that is larger than a slice goes, one that was left half way does, too;
// and from the mark on its tenant can neither see it nor have it tried again.
func TestRemovalInSlices(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	w := r.worker("host")
	big, half := r.ended(w), r.die(w, failing)
	r.sql(`INSERT INTO nofx.event (tenant_id, run_id, seq, type) SELECT 'acme', $1::text, n, 'step.note' FROM generate_series(1000, 12999) n`, big.Run.ID)
	r.sql(`INSERT INTO nofx.output_index (tenant_id, attempt_id, start, length, frames) SELECT 'acme', a.id, n, 1, 'x' FROM nofx.attempt a, generate_series(1000, 11999) n WHERE a.run_id = $1`, big.Run.ID)
	r.sql("UPDATE nofx.run SET next_seq = 13000 WHERE id = $1", big.Run.ID)
	r.age(big.Run.ID, 31*day)
	if _, err := r.user.RetryRun(t.Context(), half.ID, wire.RetryRun{}, ""); err != nil { // positive control
		t.Fatal(err)
	}
	for r.run(half.ID).Run.EndedAt == nil {
		w.finish(w.one(), exit(1))
	}
	r.sql("UPDATE nofx.run SET removing_at = now() WHERE id = $1", half.ID)
	if _, err := r.user.Run(t.Context(), half.ID); !step.Is(err, step.KindNotFound) {
		t.Errorf("it is seen: %v", err)
	}
	if _, err := r.user.RetryRun(t.Context(), half.ID, wire.RetryRun{}, ""); !step.Is(err, step.KindNotFound) {
		t.Errorf("it is tried again: %v", err)
	}
	r.work()
	for _, id := range []string{big.Run.ID, half.ID} {
		if got := r.rowsOf(id); len(got) > 0 {
			t.Errorf("left: %v", got)
		}
	}
	if got := r.column("SELECT count(*)::text FROM nofx.output_index"); got[0] != "0" {
		t.Errorf("%s pieces of output", got[0])
	}
}

// A worker that comes late to a run that is gone is told to drop what it has.
func TestLateWorkerOfARemovedRun(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	w.finish(l, exit(0))
	r.age(run.ID, 31*day)
	r.work()
	answer, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(0))})
	if err != nil || !slices.Equal(answer.Discard, []string{l.AttemptID}) {
		t.Errorf("%+v %v", answer, err)
	}
}

// Several at once remove each run once, and answers do not break.
func TestRemovalByMany(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	w := r.worker("host")
	const runs = 12
	for range runs {
		r.age(r.ended(w).Run.ID, 31*day)
	}
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/api/tick", nil)
			if err == nil {
				req.Header.Set("Authorization", "Bearer "+tickToken)
				var resp *http.Response
				if resp, err = r.http().Do(req); err == nil {
					err = resp.Body.Close()
				}
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	r.work()
	if got := r.column("SELECT count(*)::text FROM nofx.run"); got[0] != "0" {
		t.Errorf("%s runs are left", got[0])
	}
	if got := r.column("SELECT sum(attempts)::text FROM nofx.usage_day"); got[0] != fmt.Sprint(2*runs) {
		t.Errorf("%s attempts were kept in the sums, of %d", got[0], 2*runs)
	}
	if _, raw := r.call("GET", "/metrics", "", nil); !strings.Contains(string(raw), fmt.Sprintf(`nofx_retention_removed_total{what="runs"} %d`, runs)) {
		t.Error("the metrics do not say how many")
	}
}

// Idempotency keys and sums of use do not pile up.
func TestOldKeysAndSumsAreForgotten(t *testing.T) {
	t.Parallel()
	r := keeping(t)
	r.sql(`INSERT INTO nofx.idempotency (tenant_id, route, key, fingerprint, status, body, expires_at)
		SELECT 'acme', 'r', 'key-' || n, '', 201, '', now() + CASE WHEN n = 1 THEN interval '1 hour' ELSE interval '-1 hour' END FROM generate_series(1, 3500) n`)
	r.sql(`INSERT INTO nofx.month_usage (tenant_id, month, part, attempts, compute_ms) SELECT 'acme', (now() - m * interval '1 month')::date, 0, 1, 1 FROM unnest(ARRAY[2, 40]) m`)
	r.sql(`INSERT INTO nofx.usage_day (tenant_id, day, tool, driver, attempts, lost, wall_ms, cpu_usec, memory_peak_bytes, io_read_bytes, io_write_bytes, net_rx_bytes, net_tx_bytes, output_bytes)
		SELECT 'acme', (now() - m * interval '1 month')::date, 't', 'd', 1, 0, 1, 1, 1, 1, 1, 1, 1, 1 FROM unnest(ARRAY[2, 40]) m`)
	r.work()
	for _, table := range []string{"idempotency", "month_usage", "usage_day"} {
		if got := r.column("SELECT count(*)::text FROM nofx." + table); got[0] != "1" {
			t.Errorf("%s rows of %s are left", got[0], table)
		}
	}
}
