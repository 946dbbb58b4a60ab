// Package retry knows the rules of retry policies: which are well formed, what
// a handler's adds to a step's, which ends of an attempt one tries again, and
// how long it waits before.
package retry

import (
	"fmt"
	"slices"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	// Ceiling is where the doubling of waits stops that names no place.
	Ceiling = time.Hour
	// Longest is the most that a driver can ask to be left alone.
	Longest = 24 * time.Hour
)

// causes are those that a policy can name: success is no cause, and what was
// cancelled or refused by policy is never tried again.
var causes = []step.Cause{step.CauseExit, step.CauseSignal, step.CauseTimeout, step.CauseOOM, step.CausePids, step.CauseDisk,
	step.CauseOutput, step.CauseDriverError, step.CauseLost}

// Check tells what is wrong with a policy, each with its place in it.
func Check(r wire.Retry) []step.FieldError {
	c := check{}
	if r.Attempts < 0 || r.Attempts > wire.MaxAttempts {
		c.add("attempts", r.Attempts, "must be 1 to %d", wire.MaxAttempts)
	}
	if r.BackoffMS < 0 || r.BackoffMS > wire.MaxRetryBackoff {
		c.add("backoff_ms", r.BackoffMS, "must be 0 to %d", wire.MaxRetryBackoff)
	}
	switch {
	case r.MaxBackoffMS < 0 || r.MaxBackoffMS > wire.MaxRetryBackoff:
		c.add("max_backoff_ms", r.MaxBackoffMS, "must be 1 to %d", wire.MaxRetryBackoff)
	case r.MaxBackoffMS > 0 && r.MaxBackoffMS < r.BackoffMS:
		c.add("max_backoff_ms", r.MaxBackoffMS, "is less than backoff_ms, which is %d", r.BackoffMS)
	}
	c.causes("on", r.On, nil)
	c.causes("never_on", r.NeverOn, r.On)
	c.codes("exit_codes", r.ExitCodes, nil)
	c.codes("never_exit_codes", r.NeverExitCodes, r.ExitCodes)
	return c.list
}

type check struct{ list []step.FieldError }

func (c *check) add(at string, value any, format string, args ...any) {
	c.list = append(c.list, step.FieldError{Location: at, Message: fmt.Sprintf(format, args...), Value: value})
}

func (c *check) causes(at string, list, other []step.Cause) {
	if len(list) > wire.MaxRetryList {
		c.add(at, len(list), "at most %d", wire.MaxRetryList)
		return
	}
	for i, cause := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case cause == step.CauseCancelled || cause == step.CausePolicy:
			c.add(at, string(cause), "is never tried again: leave it out")
		case !slices.Contains(causes, cause):
			c.add(at, clip(string(cause)), "is none of %v", causes)
		case slices.Contains(list[:i], cause):
			c.add(at, string(cause), "is there twice")
		case slices.Contains(other, cause):
			c.add(at, string(cause), "is in the list on, too: leave it out of one of them")
		}
	}
}

func (c *check) codes(at string, list, other []int) {
	if len(list) > wire.MaxRetryList {
		c.add(at, len(list), "at most %d", wire.MaxRetryList)
		return
	}
	for i, code := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case code < 1 || code > 255:
			c.add(at, code, "must be 1 to 255; 0 is success")
		case slices.Contains(list[:i], code):
			c.add(at, code, "is there twice")
		case slices.Contains(other, code):
			c.add(at, code, "is in the list exit_codes, too: leave it out of one of them")
		}
	}
}

func clip(s string) string { return s[:min(len(s), 100)] }

// Over is a step's policy with its handler's for what the step leaves open;
// either may be nil. A policy has at least one attempt.
func Over(own, handlers *wire.Retry) wire.Retry {
	var out wire.Retry
	if handlers != nil {
		out = *handlers
	}
	if own != nil {
		if own.Attempts > 0 {
			out.Attempts = own.Attempts
		}
		if own.BackoffMS > 0 {
			out.BackoffMS = own.BackoffMS
		}
		if own.MaxBackoffMS > 0 {
			out.MaxBackoffMS = own.MaxBackoffMS
		}
		if own.On != nil || own.ExitCodes != nil || own.NeverOn != nil || own.NeverExitCodes != nil {
			out.On, out.ExitCodes, out.NeverOn, out.NeverExitCodes = own.On, own.ExitCodes, own.NeverOn, own.NeverExitCodes
		}
	}
	out.Attempts = max(out.Attempts, 1)
	if out.MaxBackoffMS > 0 {
		out.BackoffMS = min(out.BackoffMS, out.MaxBackoffMS)
	}
	return out
}

// Allows reports whether the policy tries again what ended so. Whether there is
// an attempt left for it is another question.
func Allows(r wire.Retry, v step.Verdict) bool {
	if Refuses(r, v) {
		return false
	}
	code, exited := 0, v.Cause == step.CauseExit && v.ExitCode != nil
	if exited {
		code = *v.ExitCode
	}
	switch {
	case len(r.On) == 0 && len(r.ExitCodes) == 0:
		return true
	case exited && len(r.ExitCodes) > 0:
		return slices.Contains(r.ExitCodes, code)
	}
	return slices.Contains(r.On, v.Cause)
}

// Refuses reports whether the policy says that what ended so is never tried
// again.
func Refuses(r wire.Retry, v step.Verdict) bool {
	return slices.Contains(r.NeverOn, v.Cause) ||
		v.Cause == step.CauseExit && v.ExitCode != nil && slices.Contains(r.NeverExitCodes, *v.ExitCode)
}

// Wait is how long to wait before try n, of which the second is 0: anything
// from nothing to first, which doubles with each try up to the ceiling, drawn
// by draw, a random number from 0 to below n; but no less than least.
func Wait(first, ceiling time.Duration, n int, least time.Duration, draw func(n int64) int64) time.Duration {
	if ceiling <= 0 {
		ceiling = Ceiling
	}
	most := min(max(first, 0), ceiling)
	for ; n > 0 && most > 0 && most < ceiling; n-- {
		most = min(most*2, ceiling)
	}
	return max(time.Duration(draw(int64(most)+1)), min(least, Longest))
}
