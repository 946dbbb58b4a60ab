package worker

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/nofx-run/nofx/sdk/step"
)

// retry is the pauses between tries at the same thing.
type retry struct{ policy *backoff.ExponentialBackOff }

func newRetry() retry {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval = 50 * time.Millisecond
	p.MaxInterval = 5 * time.Second
	p.Multiplier = 2
	return retry{p}
}

// sleep waits as long as it is time to, or as long as err asks for, whichever
// is more, up to a minute.
func (r retry) sleep(ctx context.Context, err error) error {
	d := r.policy.NextBackOff()
	var e *step.Error
	if errors.As(err, &e) && e.RetryAfter > d {
		d = min(e.RetryAfter, time.Minute)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r retry) reset() { r.policy.Reset() }
