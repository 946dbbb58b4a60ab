package worker

import (
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// A step that can touch the outside begins only once the API knows: if this host
// fell silent before, nothing was done, and if it does after, nobody does it
// twice. What has no network need not wait.
func TestTheAPIKnowsBeforeTheOutsideIsTouched(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.plugins.open = true })
	r.api.change(func() { r.api.noJournal = true })
	open := lease("open", "sh", "-c", "echo hello")
	open.Network = step.NetworkOpen
	r.api.submit(open)
	r.api.until("its start is to be told", func() bool { return r.api.journals > 0 })
	if p := r.w.held("open").journal.Position(); !p.Started || p.Acked > 0 {
		t.Errorf("the first that the API hears of it: %+v", p)
	}
	r.api.submit(lease("none", "sh", "-c", "echo hello"))
	r.eventually("a step without a network ends", func() bool {
		a := r.w.held("none")
		return a != nil && a.journal.Position().Verdict
	})
	if p := r.w.held("open").journal.Position(); p.Last != 1 || len(r.execs(open.AttemptID)) > 0 {
		t.Errorf("it goes on without the API: %+v, %v", p, r.execs(open.AttemptID))
	}
	r.api.change(func() { r.api.noJournal = false })
	for _, id := range []string{"open", "none"} {
		if a := r.api.verdict(id); !a.verdict.Verdict.Success() || text(a) != "hello" {
			t.Errorf("%s: %s, %q", id, a.verdict.Verdict, text(a))
		}
	}
	r.left()
}

// What is cancelled while it waits for that does not begin.
func TestCancelledBeforeTheAPIKnows(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.plugins.open = true })
	r.api.change(func() { r.api.noJournal = true })
	open := lease("open", "sh", "-c", "echo hello")
	open.Network = step.NetworkOpen
	r.api.submit(open)
	r.api.until("its start is to be told", func() bool { return r.api.journals > 0 })
	r.api.change(func() { r.api.attempts["open"].cancel = true })
	r.eventually("it hears of it", func() bool { return r.w.held("open").cancelled() != nil })
	r.api.change(func() { r.api.noJournal = false })
	if a := r.api.verdict("open"); a.verdict.Verdict.Cause != step.CauseCancelled || text(a) != "" {
		t.Errorf("%s, %q", a.verdict.Verdict, text(a))
	}
	r.left()
}

// eventually looks until it has come about.
func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !f(); <-tick.C {
		if time.Now().After(end) {
			r.t.Fatalf("it did not come about: %s", what)
		}
	}
}

// execs are what runs, or has run, in an attempt's sandbox.
func (r *rig) execs(id string) []driver.ExecState {
	r.t.Helper()
	h := r.w.held(id).handle()
	if h == nil {
		return nil
	}
	state, err := r.plugins.Recover(r.t.Context(), *h)
	if err != nil {
		r.t.Fatal(err)
	}
	return state.Execs
}
