package breaker

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Rules say when a breaker opens and when it tries again.
type Rules struct {
	Off         bool          // nothing opens it but an operator
	PerTenant   bool          // each tenant has a breaker of its own
	Window      time.Duration // how far back results count
	Volume      int           // results in the window, before the rate says anything
	Percent     int           // of failures that opens it; 0 = the rate does not
	Consecutive int           // failures that open it; 0 = they do not
	Cooldown    time.Duration // before the first probe
	Growth      float64       // of the cool-down, each time that a probe fails
	MaxCooldown time.Duration
	ProbeLease  time.Duration // a probe without a result keeps the next one waiting no longer
	Counts      []step.Cause  // failures of the step itself that count, too
}

// Defaults are the rules of a handler that says nothing of them.
func Defaults() Rules {
	return Rules{Window: time.Minute, Volume: 20, Percent: 50, Consecutive: 10,
		Cooldown: 30 * time.Second, Growth: 2, MaxCooldown: 10 * time.Minute, ProbeLease: 10 * time.Minute}
}

// Bounds of rules.
const (
	MaxWindow   = time.Hour
	maxNumber   = 100_000
	maxCooldown = 24 * time.Hour
	maxGrowth   = 10
)

// Check refuses rules that make no sense.
func (r Rules) Check() error {
	switch {
	case r.Window < time.Second || r.Window > MaxWindow:
		return fmt.Errorf("window_ms must be 1000 to %d", MaxWindow.Milliseconds())
	case r.Volume < 1 || r.Volume > maxNumber:
		return fmt.Errorf("min_volume must be 1 to %d", maxNumber)
	case r.Percent < 0 || r.Percent > 100:
		return errors.New("failure_percent must be 1 to 100, or 0 for no such rule")
	case r.Consecutive < 0 || r.Consecutive > maxNumber:
		return fmt.Errorf("consecutive must be 1 to %d, or 0 for no such rule", maxNumber)
	case r.Percent == 0 && r.Consecutive == 0 && !r.Off:
		return errors.New("failure_percent and consecutive are both 0: say off: true if nothing is to open it")
	case r.Cooldown < 10*time.Millisecond || r.Cooldown > maxCooldown:
		return fmt.Errorf("cooldown_ms must be 10 to %d", maxCooldown.Milliseconds())
	case r.MaxCooldown < r.Cooldown || r.MaxCooldown > maxCooldown:
		return fmt.Errorf("cooldown_max_ms must be cooldown_ms to %d", maxCooldown.Milliseconds())
	case !(r.Growth >= 1 && r.Growth <= maxGrowth):
		return fmt.Errorf("cooldown_growth must be 1 to %d", maxGrowth)
	case r.ProbeLease < time.Second || r.ProbeLease > maxCooldown:
		return fmt.Errorf("probe_ms must be 1000 to %d", maxCooldown.Milliseconds())
	}
	for _, c := range r.Counts {
		if !ownFailure(c) {
			return fmt.Errorf("counts: %q is not a failure of the step itself: exit, signal, timeout, oom, pids, disk or output", c)
		}
	}
	return nil
}

func ownFailure(c step.Cause) bool {
	return c.Valid() && !c.Infrastructure() && c != step.CauseCancelled && c != step.CausePolicy
}

// cooldown is how long the breaker stays open that has opened n times without
// a good probe between.
func (r Rules) cooldown(n int) time.Duration {
	d := float64(r.Cooldown)
	for range n - 1 {
		if d *= r.Growth; d >= float64(r.MaxCooldown) {
			return r.MaxCooldown
		}
	}
	return min(time.Duration(d), r.MaxCooldown)
}

// Outcome is what a result says of the handler on its driver.
type Outcome int

const (
	Neutral Outcome = iota // nothing
	Good
	Bad
)

// Judge tells what a verdict says. The driver's failures are bad when its own
// error says that it was away or that something is wrong with it, not when it
// says that the request was; a driver of before errors had a kind says neither
// and is taken to be at fault. A lost lease says nothing of the driver.
// Whatever the step itself did, its driver did its part: that is good, unless
// the handler's rules count it.
func (r Rules) Judge(v step.Verdict) Outcome {
	switch {
	case v.Cause == step.CauseDriverError && v.ErrorKind == "",
		v.Cause.Infrastructure() && (v.ErrorKind == step.KindUnavailable || v.ErrorKind == step.KindInternal):
		return Bad
	case !ownFailure(v.Cause):
		return Neutral
	case !v.Success() && slices.Contains(r.Counts, v.Cause):
		return Bad
	}
	return Good
}
