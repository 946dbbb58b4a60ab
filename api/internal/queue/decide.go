package queue

import (
	"math/rand/v2"
	"time"

	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/step"
)

// decision is what follows from a verdict.
type decision struct {
	retry  bool
	wait   time.Duration // before the retry
	status step.Status   // without a retry
	lost   bool          // infrastructure ended the attempt
	dead   bool          // it goes to the DLQ
}

const (
	maxLosses    = 3           // attempts of one generation that infrastructure may end
	infraBackoff = time.Second // before the second of them
	maxBackoff   = time.Hour
)

// decide: infrastructure's losses are tried again when the step cannot have
// touched the outside or says that it may be repeated; the step's own failures
// only as its retry policy says; a cancelled run's steps never.
func decide(a attemptRow, cancelled bool, v step.Verdict) decision {
	d := decision{status: v.StepStatus(), lost: v.Cause.Infrastructure()}
	if d.status == step.StepSucceeded || d.status == step.StepCancelled || v.Cause == step.CausePolicy {
		return d
	}
	if cancelled {
		if d.lost {
			d.status = step.StepCancelled // it was on its way out
		}
		return d
	}
	if d.lost {
		safe := a.StartedAt == nil || a.Network == string(step.NetworkNone) || a.Idempotent
		if safe && int(a.Losses)+1 < maxLosses {
			d.retry, d.wait = true, backoff(infraBackoff, int(a.Losses))
			return d
		}
		d.dead = true
		return d
	}
	if own := int(a.Number - a.Losses); own < int(a.Tries) {
		d.retry, d.wait = true, backoff(time.Duration(a.BackoffMs)*time.Millisecond, own-1)
		return d
	}
	d.dead = a.Number >= 2
	return d
}

// backoff doubles with each try and adds up to a quarter.
func backoff(first time.Duration, n int) time.Duration {
	if first <= 0 {
		return 0
	}
	d := first << min(n, 20)
	if d <= 0 || d > maxBackoff {
		d = maxBackoff
	}
	return d + rand.N(d/4+1)
}

func (q *Queue) wakeRuns(ids []string) {
	topics := make([]string, len(ids))
	for i, id := range ids {
		topics[i] = wake.Run(id)
	}
	q.hub.Topics(topics...)
}
