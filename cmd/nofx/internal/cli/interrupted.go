package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nofx-run/nofx/cmd/nofx/internal/interrupt"
	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	cancelPatience = 10 * time.Second // how long an API may be away that is to cancel
	cancelTimeout  = 5 * time.Second  // of one request
	cancelPause    = 500 * time.Millisecond
)

// submit hands the run in. An interrupt does not cut it off in the middle, where
// nobody could say whether there is a run now and which: it goes on for as long
// as one request to cancel may take, or until the second.
func (a *app) submit(ctx context.Context, client *server, run wire.SubmitRun) (wire.RunCreated, error) {
	patient, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		timer := time.NewTimer(cancelTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-a.Again:
		case <-patient.Done():
		}
		cancel(context.Cause(ctx))
	})()
	created, err := client.Submit(patient, run, newKey())
	if err != nil && patient.Err() != nil {
		return created, fmt.Errorf("%w: nobody can say whether the run was taken; see nofx runs list", context.Cause(patient))
	}
	return created, err
}

// untilNextInterrupt is a context for what follows a run's end: the next
// interrupt ends it, also when the first cancelled the run.
func (a *app) untilNextInterrupt(ctx context.Context) (context.Context, func()) {
	next := ctx.Done()
	if ctx.Err() != nil {
		next = a.Again
	}
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-next:
			cancel(interrupt.ErrInterrupted)
		case <-out.Done():
		}
	}()
	return out, func() { cancel(nil) }
}

// errAway is why nobody waits any longer for the end of a run that was to be
// cancelled.
var errAway = errors.New("the API is away")

// cancelWhenInterrupted cancels the run at the end of ctx, the first signal.
// It calls detach when nobody is to wait for the run's end any more: at the
// second signal, and when the API is away for too long. watched is closed when
// the run has ended.
func (a *app) cancelWhenInterrupted(ctx, watch context.Context, detach context.CancelCauseFunc, client *server, runID string, away *outage, watched <-chan struct{}) {
	select {
	case <-watched:
		return
	case <-ctx.Done():
	}
	a.say("cancelling run %s (once more to leave it alone)", runID)
	go func() {
		select {
		case <-watched:
		case <-a.Again:
			detach(interrupt.ErrInterrupted)
		}
	}()
	begin := time.Now()
	for asked := false; ; {
		if !asked {
			one, cancel := context.WithTimeout(watch, cancelTimeout)
			_, err := client.Cancel(one, runID)
			hung := one.Err() != nil
			cancel()
			asked = err == nil || !hung && !step.Is(err, step.KindUnavailable) && !step.Is(err, step.KindRateLimited)
			if err != nil && asked {
				a.say("cancel: %s", render.Clean(err.Error()))
			}
		}
		if !asked && time.Since(begin) > cancelPatience || asked && away.lasts() > cancelPatience {
			detach(errAway)
			return
		}
		timer := time.NewTimer(cancelPause)
		select {
		case <-watched:
			timer.Stop()
			return
		case <-watch.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// outage knows since when the API is away.
type outage struct {
	mu    sync.Mutex
	since time.Time // zero = it is there
}

func (o *outage) set(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !away {
		o.since = time.Time{}
	} else if o.since.IsZero() {
		o.since = time.Now()
	}
}

func (o *outage) lasts() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0
	}
	return time.Since(o.since)
}
