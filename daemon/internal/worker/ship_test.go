package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// What there is to ship waits for more only while more can come, and the end of
// a step that has been told of hurries nobody.
func TestGather(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		busy          bool
		ended         int // of two attempts
		before, while bool
		want          time.Duration
	}{
		{name: "idle", want: shipIdle},
		{name: "idle, a step ends", ended: 1, while: true, want: time.Millisecond},
		{name: "idle, after an end that is told of", ended: 1, before: true, want: shipIdle},
		{name: "busy", busy: true, want: shipGather},
		{name: "busy, a step ends of two", busy: true, ended: 1, while: true, want: shipGather},
		{name: "busy, the last step ends", busy: true, ended: 2, while: true, want: time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := New(Config{})
			for i, id := range []string{"a", "b"} {
				j, err := journal.Open(t.TempDir(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = j.Close() }()
				w.attempts[id] = &attempt{w: w, id: id, journal: j}
				if i < c.ended {
					code := 0
					end := wire.VerdictRecord{Verdict: step.Verdict{Cause: step.CauseExit, ExitCode: &code}}
					if _, err := j.Append(wire.Record{Type: wire.RecordVerdict, Verdict: &end}); err != nil {
						t.Fatal(err)
					}
				}
			}
			synctest.Test(t, func(t *testing.T) {
				w.ended = make(chan struct{}, 1)
				if c.before {
					poke(w.ended)
					if !w.gather(t.Context(), true) {
						t.Fatal("gave up")
					}
				}
				if c.while {
					time.AfterFunc(time.Millisecond, func() { poke(w.ended) })
				}
				begin := time.Now()
				if !w.gather(t.Context(), c.busy) {
					t.Fatal("gave up")
				}
				if took := time.Since(begin); took != c.want {
					t.Errorf("waited %v, not %v", took, c.want)
				}
			})
		})
	}
}

// A step that floods and is alone has whole requests for itself.
func TestAFloodAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.api.change(func() { r.api.noJournal = true })
	r.api.submit(lease("flood", "seq", "400000")) // 2.7 MB
	journal := func() (p journal.Position) {
		if a := r.w.held("flood"); a != nil {
			p = a.journal.Position()
		}
		return p
	}
	r.api.until("it has ended, and its journal has been tried", func() bool { return r.api.journals > 0 && journal().Verdict })
	before := 0
	r.api.change(func() { r.api.noJournal, before = false, r.api.journals })
	a := r.api.verdict("flood")
	if len(a.output) < 2_600_000 {
		t.Fatalf("%d bytes", len(a.output))
	}
	r.api.change(func() {
		if n := r.api.journals - before; n > 3 {
			t.Errorf("%d requests for %d bytes", n, len(a.output))
		}
	})
}
