package api_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A record that cannot be stored is named; what is before it, and what other
// attempts have in the same request, is stored. The attempt then ends by the
// verdict that its worker puts in that record's place.
func TestRefusedRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	const command = `"tool":"bash","inputs":{"command":"true"}`
	run := r.submit(`[{"name":"a",` + command + `,"artifacts":["x"]},{"name":"b",` + command + `},{"name":"c",` + command + `}]`)
	leases := map[string]wire.Lease{}
	for len(leases) < 3 {
		l := w.one()
		leases[l.StepName] = l
	}
	v := exit(0)
	v.Artifacts = []step.Artifact{{Name: "x", SHA256: sum("one"), Size: 3}, {Name: "y", SHA256: sum("two"), Size: 3}}
	if err := w.PutArtifact(t.Context(), w.id, w.incarnation, leases["a"].Fence, sum("two"), 3, strings.NewReader("two")); err != nil {
		t.Fatal(err)
	}
	gap := records(exit(0), "c's")
	gap = append(gap[:2:2], wire.Record{N: 3, Type: wire.RecordOutput, Output: &wire.OutputRecord{Stream: wire.Stdout, Offset: 99, Data: []byte("x")}},
		wire.Record{N: 4, Type: wire.RecordVerdict, Verdict: gap[2].Verdict})
	in := wire.JournalRequest{WorkerID: w.id, Incarnation: w.incarnation, Batches: []wire.JournalBatch{
		{Fence: leases["a"].Fence, Records: records(v, "a's")},
		{Fence: leases["b"].Fence, Records: records(exit(0), "b's")},
		{Fence: leases["c"].Fence, Records: gap},
	}}
	if _, err := w.Journal(t.Context(), in); !step.Is(err, step.KindInvalid) { // of a worker that knows no refusals
		t.Errorf("without refusals: %v", err)
	}
	in.Refusals = true
	got, err := w.Journal(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := leases["a"].AttemptID, leases["b"].AttemptID, leases["c"].AttemptID
	want := []wire.JournalAck{{AttemptID: a, N: 2}, {AttemptID: b, N: 3, Ended: true}, {AttemptID: c, N: 2}}
	if diff := cmp.Diff(want, got.Acks); diff != "" || len(got.Refused) != 2 || len(got.Discard) != 0 {
		t.Fatalf("%s %+v", diff, got)
	}
	if x := got.Refused[0]; x.AttemptID != a || x.N != 3 || x.Kind != step.KindInvalid || len(x.Missing) != 1 || x.Missing[0] != sum("one") || !strings.Contains(x.Message, "x of attempt") {
		t.Errorf("%+v", x)
	}
	if x := got.Refused[1]; x.AttemptID != c || x.N != 3 || x.Kind != step.KindInvalid || len(x.Missing) != 0 || !strings.Contains(x.Message, "3 bytes of output") {
		t.Errorf("%+v", x)
	}

	// The bytes come after all; the other attempt ends by another verdict.
	if err := w.PutArtifact(t.Context(), w.id, w.incarnation, leases["a"].Fence, sum("one"), 3, strings.NewReader("one")); err != nil {
		t.Fatal(err)
	}
	instead := cause(step.CausePolicy)
	in.Batches[2].Records = []wire.Record{{N: 3, Type: wire.RecordVerdict, Verdict: &instead}}
	if got, err = w.Journal(t.Context(), in); err != nil || len(got.Refused) != 0 {
		t.Fatalf("%+v %v", got, err)
	}
	for _, ack := range got.Acks {
		if !ack.Ended {
			t.Errorf("%+v", ack)
		}
	}
	for _, s := range r.run(run.ID).Steps {
		if s.Verdict == nil || (s.Verdict.Cause == step.CausePolicy) != (s.Name == "c") {
			t.Errorf("%s: %+v", s.Name, s.Verdict)
		}
	}
}

// Output that cannot be stored now, for a reason of its own, holds up no other
// attempt, and is neither lost nor refused.
func TestRecordThatIsNotStoredYet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a",` + alone + `},{"name":"b",` + alone + `}]`)
	leases := map[string]wire.Lease{}
	for len(leases) < 2 {
		l := w.one()
		leases[l.StepName] = l
	}
	a, b := leases["a"], leases["b"]
	segment := filepath.Join(r.cfg.BlobDir, "output", "acme", a.AttemptID[len(a.AttemptID)-2:], a.AttemptID)
	if err := os.MkdirAll(segment, 0o700); err != nil { // where a file is to be
		t.Fatal(err)
	}
	much := strings.Repeat("x", 50_000)
	in := wire.JournalRequest{WorkerID: w.id, Incarnation: w.incarnation, Refusals: true, Batches: []wire.JournalBatch{
		{Fence: a.Fence, Records: records(exit(0), much, much)}, {Fence: b.Fence, Records: records(exit(0), "short")},
	}}
	for range 2 {
		got, err := w.Journal(t.Context(), in)
		want := []wire.JournalAck{{AttemptID: a.AttemptID, N: 2}, {AttemptID: b.AttemptID, N: 3, Ended: true}}
		if diff := cmp.Diff(want, got.Acks); err != nil || diff != "" || len(got.Refused)+len(got.Discard) > 0 {
			t.Fatalf("%v %s %+v", err, diff, got)
		}
	}
	alone := in
	alone.Batches = []wire.JournalBatch{{Fence: a.Fence, Records: in.Batches[0].Records[2:]}}
	if got, err := w.Journal(t.Context(), alone); !step.Is(err, step.KindInternal) {
		t.Errorf("nothing of it can be stored: %+v %v", got, err)
	}
	if err := os.Remove(segment); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Journal(t.Context(), in); err != nil || len(got.Acks) != 2 || !got.Acks[0].Ended {
		t.Errorf("%+v %v", got, err)
	}
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
}
