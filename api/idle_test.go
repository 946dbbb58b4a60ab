package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Heartbeats of workers that have nothing to do are seen to together; what one
// of them has to tell, or must be told, is not lost for that.
func TestIdleHeartbeats(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const crowd = 8
	workers := make([]*worker, crowd)
	for i := range workers {
		workers[i] = r.worker(fmt.Sprintf("idle%d", i))
	}
	holder := r.worker("holder", offering("other", able...))
	beat := func(w *worker) (wire.HeartbeatAnswer, error) {
		return w.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, WaitMS: 400})
	}
	together := func(want func(i int, a wire.HeartbeatAnswer, err error)) {
		var all sync.WaitGroup
		for i, w := range workers {
			all.Go(func() {
				a, err := beat(w)
				want(i, a, err)
			})
		}
		all.Wait()
	}
	together(func(i int, a wire.HeartbeatAnswer, err error) {
		if err != nil || a.LeaseMS == 0 || a.Renewed == nil || a.Cancel == nil || a.Closed == nil || a.Ended == nil {
			t.Errorf("%d: %+v %v", i, a, err)
		}
	})
	if unseen := r.column("SELECT name FROM nofx.worker WHERE last_seen = registered_at"); !slices.Equal(unseen, []string{"holder"}) {
		t.Errorf("not seen: %v, want the one that did not call", unseen)
	}

	// In one crowd: a driver that fails, one that begins to drain, one that the
	// API does not know, and one whose key is another's.
	workers[0].drivers[0].Healthy, workers[0].drivers[0].Message = false, "it is away"
	unknown := *workers[1]
	unknown.incarnation = "another"
	known := workers[1]
	workers[1] = &unknown
	stranger := *workers[2]
	stranger.Client = r.client("beta", "worker")
	workers[2] = &stranger
	together(func(i int, a wire.HeartbeatAnswer, err error) {
		switch i {
		case 1, 2:
			if !step.Is(err, step.KindConflict) && !step.Is(err, step.KindNotFound) && !step.Is(err, step.KindForbidden) {
				t.Errorf("%d: %+v %v", i, a, err)
			}
		default:
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
	list, err := r.user.WorkerEvents(t.Context(), 1)
	if err != nil || len(list.Events) != 1 || !strings.Contains(list.Events[0].Message, "it is away") || list.Events[0].WorkerID != workers[0].id {
		t.Errorf("%+v %v", list, err)
	}
	if _, err := beat(known); err != nil {
		t.Errorf("the one that is known: %v", err)
	}

	// One that has a lease and does not list it is told of its cancellation.
	run := r.submit(`[{"name":"a","tool":"test:echo","driver":"other"}]`)
	l := holder.one()
	if _, err := r.user.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	a, err := holder.Heartbeat(t.Context(), wire.Heartbeat{WorkerID: holder.id, Incarnation: holder.incarnation, Drivers: holder.drivers, WaitMS: 20_000})
	if took := time.Since(begin); err != nil || len(a.Cancel) != 1 || a.Cancel[0].AttemptID != l.AttemptID || took > 5*time.Second {
		t.Errorf("after %v %+v %v", took, a, err)
	}
	holder.finish(l, cause(step.CauseCancelled))
}

// Of two that name the same worker at the same time the one that is not that
// worker's, or not any more, is told so.
func TestIdleHeartbeatsOfOneName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	stale, stranger := *w, *w
	stale.incarnation, stranger.Client = "before", r.client("beta", "worker")
	ctx, cancel := context.WithCancel(t.Context())
	beat := func(w *worker) error {
		_, err := w.Heartbeat(ctx, wire.Heartbeat{WorkerID: w.id, Incarnation: w.incarnation, Drivers: w.drivers, WaitMS: 8000})
		return err
	}
	var right, wrong sync.WaitGroup
	right.Go(func() { _ = beat(w) })
	for _, other := range []*worker{&stale, &stranger} {
		wrong.Go(func() {
			if err := beat(other); !step.Is(err, step.KindConflict) {
				t.Errorf("%s: %v", other.incarnation, err)
			}
		})
	}
	wrong.Wait()
	cancel()
	right.Wait()
}
