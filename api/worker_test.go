package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A repeated claim gives the same leases and takes no new ones.
func TestClaimIsIdempotent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo"}]`)
	first := w.claimAs("claim-x", 1, 0)
	again := w.claimAs("claim-x", 1, 0)
	if len(first) != 1 || len(again) != 1 || first[0].Fence != again[0].Fence {
		t.Fatalf("%+v, then %+v", first, again)
	}
	w.finish(first[0], exit(0))
	if more := w.claimAs("claim-x", 1, 0); len(more) != 0 {
		t.Errorf("a used claim id took %+v", more)
	}
}

// A daemon that died before it had written its leases down starts anew, and asks
// for them again. Until it has had the time to, what it does not list is not
// taken from it, however long it was away; after that it is.
func TestClaimOfADaemonThatStartsAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Heartbeat = 10 * time.Second })
	w := r.worker("host")
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	lost := w.claimAs("claim-x", 1, 0)
	if len(lost) != 1 {
		t.Fatalf("%+v", lost)
	}
	long := func(column, table string) {
		r.system("UPDATE nofx." + table + " SET " + column + " = now() - interval '40 seconds'")
	}
	beat := func() {
		if _, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers}); err != nil {
			t.Fatal(err)
		}
	}
	long("listed_at", "attempt")
	w.incarnation = "host-2"
	w.register("host")
	beat()
	r.system("DO $$ BEGIN IF NOT EXISTS (SELECT FROM nofx.attempt WHERE status = 'running' AND lease_until > now()) THEN RAISE 'the lease was taken away'; END IF; END $$")
	if again := w.claimAs("claim-x", 1, 0); len(again) != 1 || again[0].Fence != lost[0].Fence {
		t.Fatalf("%+v, then %+v", lost, again)
	}
	long("registered_at", "worker")
	beat()
	r.until(lost[0].RunID, func(d wire.RunDetail) bool { return d.Steps[0].Status == step.StepQueued })
}

// A claim that waits is answered as soon as there is a step.
func TestClaimWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	got := make(chan []wire.Lease, 1)
	go func() { got <- w.claim(4, 20*time.Second) }()
	select {
	case l := <-got:
		t.Fatalf("answered with %+v", l)
	case <-time.After(200 * time.Millisecond):
	}
	begin := time.Now()
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	if l := <-got; len(l) != 1 || time.Since(begin) > 2*time.Second {
		t.Errorf("%+v after %v", l, time.Since(begin))
	}
}

// Each part of the fence counts, in every write.
func TestStaleFence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	for name, f := range map[string]wire.Fence{
		"attempt id": {AttemptID: "att_x", Generation: l.Generation, Attempt: l.Attempt, Epoch: l.Epoch},
		"generation": {AttemptID: l.AttemptID, Generation: l.Generation + 1, Attempt: l.Attempt, Epoch: l.Epoch},
		"attempt":    {AttemptID: l.AttemptID, Generation: l.Generation, Attempt: l.Attempt + 1, Epoch: l.Epoch},
		"epoch":      {AttemptID: l.AttemptID, Generation: l.Generation, Attempt: l.Attempt, Epoch: l.Epoch + 1},
	} {
		a, err := w.ship(wire.JournalBatch{Fence: f, Records: records(exit(0))})
		if err != nil || len(a.Acks) != 0 || !cmp.Equal(a.Discard, []string{f.AttemptID}) {
			t.Errorf("%s: journal %+v %v", name, a, err)
		}
		beat, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Held: []wire.Fence{f}})
		if err != nil || len(beat.Renewed) != 0 || len(beat.Closed) != 1 {
			t.Errorf("%s: heartbeat %+v %v", name, beat, err)
		}
		rel, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{f}})
		if err != nil || len(rel.Released) != 0 {
			t.Errorf("%s: release %+v %v", name, rel, err)
		}
		if err := w.PutArtifact(t.Context(), w.id, w.incarnation, f, sum("x"), 1, strings.NewReader("x")); !step.Is(err, step.KindConflict) {
			t.Errorf("%s: artifact %v", name, err)
		}
	}
	// Another worker, and another incarnation of this one.
	other := r.worker("other")
	if a, err := other.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(0))}); err != nil || len(a.Discard) != 1 {
		t.Errorf("other worker: %+v %v", a, err)
	}
	old := *w
	w.incarnation = "host-2"
	w.register("host")
	if _, err := old.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(0))}); !step.Is(err, step.KindConflict) {
		t.Errorf("old incarnation: %v", err)
	}
	if d := r.run(run.ID); d.Steps[0].Status != step.StepRunning || d.Steps[0].StartedAt != nil {
		t.Errorf("a stale write changed something: %+v", d.Steps[0])
	}
	w.finish(l, exit(0)) // the new incarnation keeps the lease
}

// Records come in any cut, twice, and with gaps; what is stored is contiguous.
func TestJournalIsContiguous(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"x"}}]`)
	l := w.one()
	var output []string
	for i := range 40 {
		output = append(output, strings.Repeat(string(rune('a'+i%26)), 5000)) // beyond what stays in the database
	}
	all := records(exit(7), output...)
	ship := func(from, to, n int) {
		t.Helper()
		a, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: all[from:to]})
		if err != nil || len(a.Acks) != 1 || a.Acks[0].N != int64(n) {
			t.Errorf("records %d to %d: %+v %v, want ack %d", from+1, to, a, err, n)
		}
	}
	ship(0, 3, 3)
	ship(0, 5, 5)   // overlaps
	ship(8, 10, 5)  // after a gap
	ship(1, 4, 5)   // old
	ship(5, 25, 25) // on
	ship(20, len(all), len(all))
	ship(0, len(all), len(all)) // a repeat after the verdict
	d := r.run(run.ID)
	if d.Run.Status != step.RunFailed || *d.Steps[0].Verdict.ExitCode != 7 {
		t.Errorf("%+v", d)
	}
	var text strings.Builder
	for offset := int64(0); ; {
		page, err := r.user.Output(t.Context(), run.ID, d.Steps[0].ID, offset)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Chunks {
			if c.Offset != int64(text.Len()) {
				t.Fatalf("a piece at %d, want %d", c.Offset, text.Len())
			}
			text.Write(c.Data)
		}
		offset = page.NextOffset
		if page.Done {
			break
		}
	}
	if text.String() != strings.Join(output, "") {
		t.Errorf("%d bytes of output, want %d", text.Len(), 40*5000)
	}
	bad := all[1]
	bad.Output = &wire.OutputRecord{Stream: "stdin", Data: []byte("x")}
	if _, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: []wire.Record{bad}}); !step.Is(err, step.KindInvalid) {
		t.Errorf("bad stream: %v", err)
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	rel, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{l.Fence}})
	if err != nil || !cmp.Equal(rel.Released, []string{l.AttemptID}) {
		t.Fatalf("%+v %v", rel, err)
	}
	again := w.one()
	if again.Attempt != 1 || again.Epoch != 2 || again.AttemptID == l.AttemptID {
		t.Errorf("%+v", again)
	}
	if _, err := w.ship(wire.JournalBatch{Fence: again.Fence, Records: records(exit(0))[:1]}); err != nil {
		t.Fatal(err)
	}
	rel, err = w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{again.Fence}})
	if err != nil || len(rel.Released) != 0 {
		t.Errorf("a started lease was released: %+v %v", rel, err)
	}
	if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	// A lease that is released after its run was cancelled ends.
	run = r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l = w.one()
	if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{l.Fence}}); err != nil {
		t.Fatal(err)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunCancelled {
		t.Errorf("%+v", d)
	}
}

// A worker that falls silent loses its lease; another one does the step again,
// and the first one's late word changes nothing.
func TestLostWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 20 * time.Second }) // a tick each second
	first, second := r.worker("one"), r.worker("two")
	run := r.submit(`[{"name":"a","tool":"test:echo","workspace":"step"}]`)
	l := first.one()
	if _, err := first.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(0))[:1]}); err != nil {
		t.Fatal(err)
	}
	first.silence()
	r.until(run.ID, func(d wire.RunDetail) bool { return d.Steps[0].Status == step.StepQueued })
	again := second.one()
	if again.StepID != l.StepID || again.Attempt != 2 || again.Epoch != 2 {
		t.Fatalf("%+v", again)
	}
	late, err := first.ship(wire.JournalBatch{Fence: l.Fence, Records: records(exit(1))})
	if err != nil || !cmp.Equal(late.Discard, []string{l.AttemptID}) {
		t.Errorf("late word: %+v %v", late, err)
	}
	second.finish(again, exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
}

// After three losses a step is dead, with the cause that says so.
func TestLostForGood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	for range 3 {
		w.finish(w.one(), cause(step.CauseDriverError))
	}
	d := r.run(run.ID)
	if d.Run.Status != step.RunFailed || d.Steps[0].Attempt != 3 || d.Steps[0].Verdict.Cause != step.CauseDriverError {
		t.Errorf("%+v", d)
	}
}

// Renewed leases do not expire, and nothing does for a lease after an outage.
func TestHeartbeatKeepsLeases(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 4 * time.Second })
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	end := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) {
		a, err := w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, Held: []wire.Fence{l.Fence}, Runs: []string{run.ID, "run_gone"}})
		if err != nil || !cmp.Equal(a.Renewed, []string{l.AttemptID}) || !cmp.Equal(a.Ended, []string{"run_gone"}) {
			t.Fatalf("%+v %v", a, err)
		}
		<-tick.C
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	<-time.After(4200 * time.Millisecond) // the lease passes while nobody could renew it
	r.restart()
	w.Client = r.again("acme worker")
	w.finish(l, exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded || d.Steps[0].Attempt != 1 {
		t.Errorf("%+v", d)
	}
}

// A cancellation does not wait for the next heartbeat, also not that of a step
// that was claimed while this heartbeat was on its way.
func TestCancelReachesWaitingHeartbeat(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	for name, listed := range map[string]bool{"listed": true, "claimed since": false} {
		run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
		l := w.one()
		in := wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, WaitMS: 20_000}
		if listed {
			in.Held = []wire.Fence{l.Fence}
		}
		begin := time.Now()
		type result struct {
			wire.HeartbeatAnswer
			err error
		}
		answer := make(chan result, 1)
		go func() {
			got, err := w.Heartbeat(t.Context(), in)
			answer <- result{got, err}
		}()
		if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		got := <-answer
		if took := time.Since(begin); got.err != nil || len(got.Cancel) != 1 || got.Cancel[0].AttemptID != l.AttemptID || took > 5*time.Second {
			t.Errorf("%s: after %v %+v", name, took, got)
		}
		if !listed { // it was told to a worker that did not know it: it is told again at once
			in.Held, begin = []wire.Fence{l.Fence}, time.Now()
			again, err := w.Heartbeat(t.Context(), in)
			if took := time.Since(begin); err != nil || len(again.Cancel) != 1 || took > 5*time.Second {
				t.Errorf("%s: again after %v %+v %v", name, took, again, err)
			}
		}
		w.finish(l, cause(step.CauseCancelled))
	}
}

// Steps of a run that share its workspace stay on one worker.
func TestRunIsPinned(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.worker("one"), r.worker("two")
	r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","depends_on":["a"]},{"name":"c","tool":"test:echo"},{"name":"d","tool":"test:echo","workspace":"step"}]`)
	l := one.claim(1, 0)
	if len(l) != 1 {
		t.Fatalf("%+v", l)
	}
	shared := l[0].Workspace == step.WorkspaceRun
	var names []string
	for _, x := range two.claim(10, 0) {
		names = append(names, x.StepName)
	}
	if shared && !cmp.Equal(names, []string{"d"}) {
		t.Errorf("the other worker got %v", names)
	}
	one.finish(l[0], exit(0))
	if rest := one.claim(10, 0); len(rest) != 2 {
		t.Errorf("%+v", rest)
	}
}

// A worker that was lost gets no work until it says that it is back. Then it
// keeps the run whose first step it got: the others find in its workspace what
// that one left.
func TestRunStaysWithAWorkerThatIsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 4 * time.Second }) // the reaper comes often
	one, two := r.worker("one"), r.worker("two")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo"}]`)
	r.sql("UPDATE nofx.worker SET status = 'lost', last_seen = now() - interval '10 seconds' WHERE id = $1", one.id)
	_, err := one.Claim(t.Context(), wire.ClaimRequest{WorkerID: one.id, Incarnation: one.incarnation, ClaimID: "early", Max: 1, Drivers: []string{"local"}})
	if !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "register again") {
		t.Fatalf("a lost worker's claim: %v", err)
	}
	one.register("one")
	l := one.one()
	for range 2 { // the first one may have been on its way
		before := r.column("SELECT ticked_at::text FROM nofx.lease_clock")
		r.eventually("the reaper comes", func() bool { return !cmp.Equal(before, r.column("SELECT ticked_at::text FROM nofx.lease_clock")) })
	}
	if got := two.claim(8, 0); len(got) > 0 {
		t.Fatalf("%s runs on one, and two got %+v", l.StepName, got)
	}
	one.finish(l, exit(0))
	one.finish(one.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
}

func sum(s string) string { b := sha256.Sum256([]byte(s)); return hex.EncodeToString(b[:]) }

func TestArtifacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo","artifacts":["out/x y.txt"]}]`)
	l := w.one()
	const body = "the bytes"
	v := exit(0)
	v.Artifacts = []step.Artifact{{Name: "out/x y.txt", SHA256: sum(body), Size: int64(len(body))}}
	if _, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(v)}); !step.Is(err, step.KindInvalid) {
		t.Errorf("verdict before the upload: %v", err)
	}
	if err := w.PutArtifact(t.Context(), w.id, w.incarnation, l.Fence, sum("other"), int64(len(body)), strings.NewReader(body)); !step.Is(err, step.KindInvalid) {
		t.Errorf("wrong hash: %v", err)
	}
	for range 2 { // a repeat is harmless
		if err := w.PutArtifact(t.Context(), w.id, w.incarnation, l.Fence, sum(body), int64(len(body)), strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	w.finish(l, v)
	d := r.run(run.ID)
	if len(d.Artifacts) != 1 || d.Artifacts[0].StepName != "a" || d.Artifacts[0].Path != fmt.Sprintf("runs/%s/steps/%s/out/x y.txt", run.ID, l.StepID) {
		t.Fatalf("%+v", d.Artifacts)
	}
	resp, raw := r.call("GET", "/artifacts/"+strings.ReplaceAll(d.Artifacts[0].Path, " ", "%20"), r.keys["acme user"], nil, "Range", "bytes=9999-")
	if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable || resp.Header.Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(string(raw), "urn:nofx:problem:invalid") {
		t.Errorf("a range beyond the end: %d %v %s", resp.StatusCode, resp.Header, raw)
	}
	f, err := r.user.Artifact(t.Context(), d.Artifacts[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, []byte(body)) {
		t.Errorf("%q %v", got, err)
	}
	resp, part := r.call("GET", "/api/artifacts/"+strings.ReplaceAll(d.Artifacts[0].Path, " ", "%20"), r.keys["acme user"], nil, "Range", "bytes=4-")
	if resp.StatusCode != http.StatusPartialContent || string(part) != "bytes" || resp.Header.Get("Etag") != `"`+sum(body)+`"` {
		t.Errorf("%d %q %v", resp.StatusCode, part, resp.Header)
	}
}

// A reader that comes back with the last id gets the rest, once.
func TestStreamResumes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	enough := errors.New("enough")
	var seen []step.Event
	take := func(stop int) func([]step.Event) error {
		return func(batch []step.Event) error {
			seen = append(seen, batch...)
			if len(seen) >= stop {
				return enough
			}
			return nil
		}
	}
	if err := r.user.Events(t.Context(), run.ID, "", take(2)); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.user.Events(t.Context(), run.ID, seen[len(seen)-1].ID, take(1000)) }()
	w.finish(w.one(), exit(0))
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the stream does not end with its run")
	}
	if len(seen) != 7 {
		t.Errorf("%d events, want 7", len(seen))
	}
	for i, e := range seen {
		if e.Seq != int64(i+1) || e.ID == "" || e.ID != e.IdempotencyToken || e.EventType != e.Type || e.CorrelationID == "" || e.Region != "test" {
			t.Errorf("%d: %+v", i, e)
		}
	}
	for _, id := range []string{"nonsense", run.ID + ".0", "run_other.1"} {
		if resp, body := r.call("GET", "/runs/"+run.ID+"/stream", r.keys["acme user"], nil, "Last-Event-ID", id); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", id, resp.StatusCode, body)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.user.Events(ctx, run.ID, "", take(1000)); err == nil {
		t.Error("a cancelled reader got no error")
	}
}
