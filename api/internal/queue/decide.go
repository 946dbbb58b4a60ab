package queue

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nofx-run/nofx/api/internal/retry"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// decision is what follows from a verdict.
type decision struct {
	retry  bool
	wait   time.Duration // before the retry
	status step.Status   // without a retry
	lost   bool          // infrastructure ended the attempt
	dead   bool          // it goes to the DLQ
	why    string        // it is not tried again, of what is dead
}

const (
	maxLosses    = 3           // attempts of one generation that infrastructure may end, unless its policy names the cause
	infraBackoff = time.Second // before the second of them
)

// decide: infrastructure's losses are tried again when the step cannot have
// touched the outside or says that it may be repeated; the step's own failures
// only as its retry policy says; a cancelled run's steps never. left is what
// the run's budget still holds. The DLQ gets what infrastructure ended, what
// failed more than once, and what was to be tried again and had no budget.
func decide(a attemptRow, cancelled bool, left int, v step.Verdict) (decision, error) {
	d := decision{status: v.StepStatus(), lost: v.Cause.Infrastructure()}
	if d.status == step.StepSucceeded || d.status == step.StepCancelled || v.Cause == step.CausePolicy {
		return d, nil
	}
	if cancelled {
		if d.lost {
			d.status = step.StepCancelled // it was on its way out
		}
		return d, nil
	}
	var policy wire.Retry
	if err := json.Unmarshal(a.Retry, &policy); err != nil {
		return d, step.Errorf(step.KindInternal, "retry policy of step %s: %w", a.StepID, err)
	}
	first, n := infraBackoff, int(a.Losses)
	if d.lost {
		d.dead, d.why = true, lastLoss(a, policy, v)
	} else {
		n = int(a.Number-a.Losses) - 1
		first = time.Duration(a.BackoffMs) * time.Millisecond
		d.dead, d.why = a.Number >= 2, lastFailure(a, policy, v)
	}
	switch {
	case d.why != "":
	case left <= 0:
		d.dead, d.why = true, "the retry budget of the run is used up"
	default:
		ceiling := time.Duration(policy.MaxBackoffMS) * time.Millisecond
		d.retry, d.dead = true, false
		d.wait = retry.Wait(first, ceiling, n, time.Duration(v.RetryAfterMS)*time.Millisecond, rand.Int64N)
	}
	return d, nil
}

// lastLoss says why an attempt that infrastructure ended is the last one; "" =
// it is not.
func lastLoss(a attemptRow, policy wire.Retry, v step.Verdict) string {
	most := maxLosses
	if len(policy.On) > 0 && retry.Allows(policy, v) {
		most = int(a.Tries)
	}
	switch {
	case retry.Refuses(policy, v):
		return fmt.Sprintf("its policy never tries %s again", v)
	case a.StartedAt != nil && a.Network != string(step.NetworkNone) && !a.Idempotent:
		return "it had started and may have touched the outside, and is not marked idempotent"
	case int(a.Losses)+1 >= most:
		return fmt.Sprintf("infrastructure ended %d attempts", a.Losses+1)
	}
	return ""
}

// lastFailure says why an attempt that failed by its own doing is the last one;
// "" = it is not.
func lastFailure(a attemptRow, policy wire.Retry, v step.Verdict) string {
	switch own := a.Number - a.Losses; {
	case own >= a.Tries:
		return fmt.Sprintf("all of its %d attempts failed", own)
	case !retry.Allows(policy, v):
		return fmt.Sprintf("its policy does not try %s again", v)
	}
	return ""
}

func (q *Queue) wakeRuns(ids []string) {
	topics := make([]string, len(ids))
	for i, id := range ids {
		topics[i] = wake.Run(id)
	}
	q.hub.Topics(topics...)
}
