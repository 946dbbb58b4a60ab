package worker

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A step of a run that is tried again does not begin in a workspace that is on
// its way out, and one that is here keeps its run's.
func TestWorkspaceOnItsWayOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := New(Config{Slots: 1})
		w.runs["run"] = ledger.Run{ID: "run"}
		w.attempts["att"] = &attempt{lease: wire.Lease{RunID: "run"}}
		if _, ok := w.letGo("run"); ok {
			t.Error("a run with a step here was let go")
		}
		delete(w.attempts, "att")
		if err := w.settled(t.Context(), "run"); err != nil {
			t.Error(err)
		}
		if _, ok := w.letGo("run"); !ok {
			t.Fatal("it was not let go")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.settled(ctx, "run"); err == nil {
			t.Error("did not wait")
		}
		began := make(chan error, 1)
		go func() { began <- w.settled(t.Context(), "run") }()
		synctest.Wait()
		select {
		case <-began:
			t.Error("began before the workspace was gone")
		default:
		}
		close(w.going["run"])
		if err := <-began; err != nil {
			t.Error(err)
		}
	})
}
