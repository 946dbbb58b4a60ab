package worker

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// An artifact that was uploaded and that the API has no more when the verdict
// comes is uploaded again, by whichever process has the verdict.
func TestArtifactIsMissed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lost, died := 0, false
	r.api.change(func() {
		r.api.refuse = func(_ wire.JournalBatch, rec wire.Record) *wire.JournalRefusal {
			if rec.Verdict == nil || len(rec.Verdict.Artifacts) == 0 {
				return nil
			}
			if lost < 2 {
				lost++
				clear(r.api.artifacts)
			}
			refusal := &wire.JournalRefusal{Kind: step.KindInvalid, Message: "not here"}
			for _, a := range rec.Verdict.Artifacts {
				if _, ok := r.api.artifacts[a.SHA256]; !ok {
					refusal.Missing = append(refusal.Missing, a.SHA256)
				}
			}
			if len(refusal.Missing) == 0 {
				return nil
			}
			r.api.noUploads = lost == 2 && !died // until another process comes
			return refusal
		}
	})
	l := lease("a", "sh", "-c", "echo out")
	l.Command.Files = []wire.CommandFile{{Path: "x", Data: []byte("content")}, {Path: "y", Data: []byte("more")}}
	l.Artifacts = []string{"x", "y"}
	r.api.submit(l)
	r.api.until("an upload is refused", func() bool { return lost == 2 && r.api.uploads > 4 })
	r.kill()
	r.api.change(func() { r.api.noUploads, died = false, true })
	r.start(4)
	a := r.api.verdict("a")
	if !a.verdict.Verdict.Success() || text(a) != "out" || len(a.verdict.Artifacts) != 2 || len(r.api.artifacts) != 2 {
		t.Errorf("%s, artifacts %v, stored %v", a.verdict.Verdict, a.verdict.Artifacts, r.api.artifacts)
	}
	r.left()
}

// What the API does not take is not sent for ever: the attempt ends, once, by a
// verdict that says so, and nobody else waits for it.
func TestRecordIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		argv    []string
		refuses func(wire.Record) bool
		missing bool
		types   []wire.RecordType
	}{
		"verdict": {
			argv: []string{"sh", "-c", "echo out"}, refuses: func(r wire.Record) bool { return r.Verdict != nil },
			types: []wire.RecordType{wire.RecordStarted, wire.RecordOutput, wire.RecordVerdict},
		},
		"artifacts that never come": {
			argv: []string{"sh", "-c", "echo out"}, refuses: func(r wire.Record) bool { return r.Verdict != nil }, missing: true,
			types: []wire.RecordType{wire.RecordStarted, wire.RecordOutput, wire.RecordVerdict},
		},
		"output of what still runs": {
			argv: []string{"sh", "-c", "echo out; sleep 3600"}, refuses: func(r wire.Record) bool { return r.Output != nil },
			types: []wire.RecordType{wire.RecordStarted, wire.RecordVerdict},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			times := 0
			r.api.change(func() {
				r.api.refuse = func(b wire.JournalBatch, rec wire.Record) *wire.JournalRefusal {
					if b.AttemptID != "bad" || !c.refuses(rec) || rec.Verdict != nil && rec.Verdict.Verdict.Cause == step.CauseDriverError {
						return nil
					}
					times++
					refusal := &wire.JournalRefusal{Kind: step.KindTooLarge, Message: "it will never do"}
					if c.missing {
						for _, a := range rec.Verdict.Artifacts {
							refusal.Missing = append(refusal.Missing, a.SHA256)
						}
					}
					return refusal
				}
			})
			bad := lease("bad", c.argv...)
			bad.Command.Files = []wire.CommandFile{{Path: "x", Data: []byte("content")}}
			bad.Artifacts = []string{"x"}
			r.api.submit(bad)
			r.api.submit(lease("good", "sh", "-c", "echo fine"))
			if a := r.api.verdict("good"); !a.verdict.Verdict.Success() {
				t.Errorf("good: %s", a.verdict.Verdict)
			}
			a := r.api.verdict("bad")
			v := a.verdict.Verdict
			if v.Cause != step.CauseDriverError || v.ErrorKind != step.KindTooLarge || !strings.Contains(v.Message, "it will never do") {
				t.Errorf("%+v", v)
			}
			if diff := cmp.Diff(c.types, types(a)); diff != "" {
				t.Error(diff)
			}
			r.left()
			r.api.mu.Lock()
			defer r.api.mu.Unlock()
			if want := 1 + mostMends; c.missing && times != want || !c.missing && times != 1 {
				t.Errorf("refused %d times", times)
			}
		})
	}
}

// A record may be refused when nothing of the step is left to be cleaned up:
// what is told in its place is then told at once, not when the rest is offered
// again.
func TestRecordIsRefusedAfterCleanup(t *testing.T) {
	t.Parallel()
	w := &Worker{dirty: make(chan struct{}, 1)}
	a := &attempt{w: w, log: slog.New(slog.DiscardHandler), refused: make(chan struct{}), cleaned: make(chan struct{}), acked: make(chan struct{})}
	close(a.cleaned)
	a.refuse(wire.JournalRefusal{N: 2, Kind: step.KindTooLarge, Message: "it will never do"})
	if len(w.dirty) == 0 || a.holdsBack() {
		t.Errorf("the shipper is not called: %d, held back %v", len(w.dirty), a.holdsBack())
	}
}

// Nor is a verdict in a refused record's place: the lease runs out.
func TestEveryRecordIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	times := 0
	r.api.change(func() {
		r.api.refuse = func(wire.JournalBatch, wire.Record) *wire.JournalRefusal {
			times++
			return &wire.JournalRefusal{Kind: step.KindInvalid, Message: "no"}
		}
	})
	r.api.submit(lease("a", "true"))
	r.api.until("refused twice", func() bool { return times == 2 })
	r.left()
	r.api.mu.Lock()
	defer r.api.mu.Unlock()
	if times != 2 || r.api.attempts["a"].verdict != nil {
		t.Errorf("refused %d times, verdict %+v", times, r.api.attempts["a"].verdict)
	}
}

// What the API cannot store now is offered again later, and not at once for ever;
// others do not wait for it.
func TestRecordsAreNotStoredYet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	times := 0
	r.api.change(func() {
		r.api.unstored = func(b wire.JournalBatch) bool {
			if b.AttemptID == "bad" {
				times++
			}
			return b.AttemptID == "bad"
		}
	})
	r.api.submit(lease("bad", "mem", "count", "200000"))
	r.api.until("it is offered", func() bool { return times > 0 })
	for _, id := range []string{"b", "c", "d"} {
		r.api.submit(lease(id, "sh", "-c", "echo fine"))
		if a := r.api.verdict(id); !a.verdict.Verdict.Success() || text(a) != "fine" {
			t.Errorf("%s: %s", id, a.verdict.Verdict)
		}
	}
	r.api.change(func() {
		if times > 1 {
			t.Errorf("it was offered %d times", times)
		}
		r.api.attempts["bad"].closed = true
	})
	r.left()
}

// An API that is one version older refuses the whole request: it is told apart,
// and the one at fault ends by the same verdict while the others go on.
func TestWholeRequestIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.change(func() {
		r.api.old = func(b wire.JournalBatch) bool {
			return b.AttemptID == "bad" && slices.ContainsFunc(b.Records, func(rec wire.Record) bool { return rec.Verdict != nil && rec.Verdict.Verdict.Cause == step.CauseExit })
		}
	})
	begun := time.Now()
	for _, id := range []string{"x", "y", "z"} {
		r.api.submit(lease(id, "mem", "count", "40", "0.05"))
	}
	r.api.submit(lease("bad", "mem", "count", "10", "0.05"))
	r.api.until("all have begun", func() bool {
		for _, a := range r.api.attempts {
			if len(a.records) == 0 {
				return false
			}
		}
		return true
	})
	r.api.change(func() { r.api.down = true }) // until one request tells of all
	bad := r.w.held("bad")
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !bad.journal.Position().Verdict && time.Since(begun) < shipLater {
		<-tick.C
	}
	r.api.change(func() { r.api.down = false })
	if v := r.api.verdict("bad").verdict.Verdict; v.Cause != step.CauseDriverError {
		t.Errorf("bad: %s", v)
	}
	for _, id := range []string{"x", "y", "z"} {
		if a := r.api.verdict(id); !a.verdict.Verdict.Success() || text(a) != counted(40) {
			t.Errorf("%s: %s", id, a.verdict.Verdict)
		}
	}
	if took := time.Since(begun); took > shipLater/2 {
		t.Errorf("the others waited: %v", took)
	}
	r.left()
}
