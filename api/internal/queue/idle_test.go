package queue

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func beatOf(worker string) *idleBeat {
	return &idleBeat{in: wire.Heartbeat{WorkerID: worker, WaitMS: 10_000}, turn: make(chan bool, 1)}
}

// Those that come within a moment are seen to together, and those that come
// while that goes on by the next of them; nothing is left in the end.
func TestIdleHeartbeatsGoTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var line idle
		var sizes []int
		var all sync.WaitGroup
		run := func(_ context.Context, batch []*idleBeat) {
			time.Sleep(time.Second) // the bubble's clock
			sizes = append(sizes, len(batch))
			for _, x := range batch {
				x.seen, x.err = true, nil
			}
		}
		come := func(n int) {
			for range n {
				all.Go(func() {
					x := beatOf("w")
					if line.see(t.Context(), x, run); !x.seen || x.err != nil {
						t.Errorf("%+v", x)
					}
				})
			}
			synctest.Wait()
		}
		come(3)
		time.Sleep(idleGather / 2) // the bubble's clock
		come(2)
		time.Sleep(idleGather) // the bubble's clock
		come(4)                // the first are being seen to
		all.Wait()
		if len(sizes) != 2 || sizes[0] != 5 || sizes[1] != 4 {
			t.Errorf("seen to together: %v, want 5 and 4", sizes)
		}
		if line.led || len(line.waiting) != 0 {
			t.Errorf("left: %d, led %v", len(line.waiting), line.led)
		}
	})
}

// One that hangs up holds up nobody: neither while it waits, nor when it was to
// see to the others. And whoever is not seen to is told so.
func TestIdleHeartbeatsHangUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var line idle
		var all sync.WaitGroup
		run := func(ctx context.Context, batch []*idleBeat) {
			if ctx.Err() != nil {
				t.Error("it ends with the request of one")
			}
			time.Sleep(time.Second) // the bubble's clock
			for _, x := range batch {
				if x.in.WorkerID != "forgotten" {
					x.seen, x.err = true, nil
				}
			}
		}
		come := func(worker string) (*idleBeat, context.CancelFunc) {
			x := beatOf(worker)
			ctx, cancel := context.WithCancel(t.Context())
			all.Go(func() { line.see(ctx, x, run) })
			synctest.Wait()
			return x, cancel
		}
		first, hangUp := come("first")
		second, cancel := come("second")
		defer cancel()
		forgotten, cancel := come("forgotten")
		defer cancel()
		hangUp()
		synctest.Wait()
		third, hangUp := come("third") // the others are being seen to
		fourth, cancel := come("fourth")
		defer cancel()
		hangUp()
		all.Wait()
		if !first.seen || !second.seen || !fourth.seen {
			t.Errorf("first %v, second %v, fourth %v", first.seen, second.seen, fourth.seen)
		}
		if third.seen || !step.Is(third.err, step.KindUnavailable) || forgotten.seen || !step.Is(forgotten.err, step.KindInternal) {
			t.Errorf("third %+v, forgotten %+v", third, forgotten)
		}
		if line.led || len(line.waiting) != 0 {
			t.Errorf("left: %d, led %v", len(line.waiting), line.led)
		}
	})
}

// What has anything to tell, or does not wait, goes alone.
func TestNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*wire.Heartbeat)
		want   bool
	}{
		"idle":     {func(*wire.Heartbeat) {}, true},
		"draining": {func(b *wire.Heartbeat) { b.Draining = true }, true},
		"no wait":  {func(b *wire.Heartbeat) { b.WaitMS = 0 }, false},
		"held":     {func(b *wire.Heartbeat) { b.Held = []wire.Fence{{}} }, false},
		"runs":     {func(b *wire.Heartbeat) { b.Runs = []string{"run_1"} }, false},
		"swept":    {func(b *wire.Heartbeat) { b.Swept = []wire.SweepItem{{}} }, false},
	} {
		in := beatOf("w").in
		if c.change(&in); nothing(in) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
}
