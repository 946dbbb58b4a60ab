// Package breaker is the state machine of circuit breakers. It knows no
// database and no clock: whoever uses it brings the time and keeps the state.
//
// A closed breaker lets everything through. Failures open it; then it bars
// what comes until its cool-down is over. After that it is half open: one
// probe may go, under a lease, and the others wait. A good probe closes the
// breaker, a bad one opens it for longer, and one that says nothing, or whose
// lease passes, makes room for the next.
//
// Every change counts the generation up. What was let through under an earlier
// one changes nothing any more: neither does a straggler from before the
// breaker opened close it, nor does a probe that was given up.
package breaker

import (
	"fmt"
	"time"
)

// State of a breaker.
type State string

const (
	Closed   State = "closed"
	Open     State = "open"
	HalfOpen State = "half_open"
)

// Breaker is one breaker. The zero value is one that nothing has happened to,
// but for its State, which is Closed.
type Breaker struct {
	State      State
	Generation int64
	Opens      int       // times that it has opened since a probe was good
	Forced     bool      // an operator has set it, and nothing else changes it
	ReadyAt    time.Time // not closed: when a probe may go; zero = never
	Probe      string    // half open: the probe that is out; "" = none
	Reason     string    // for its last change, in words
}

// Admission is what may begin.
type Admission int

const (
	All      Admission = iota // everything
	OneProbe                  // one, as the probe
	Nothing
)

// Admits says what may begin now.
func (b Breaker) Admits(now time.Time) Admission {
	switch {
	case b.State == Closed:
		return All
	case b.ReadyAt.IsZero() || now.Before(b.ReadyAt):
		return Nothing
	}
	return OneProbe
}

// Lend gives the probe's place away, to one that was admitted as the probe.
func (b Breaker) Lend(probe string, lease time.Duration, now time.Time) Breaker {
	b.State, b.Probe, b.ReadyAt = HalfOpen, probe, now.Add(lease)
	b.Generation++
	b.Reason = "the cool-down is over: one step is tried"
	return b
}

// Counts are the results of the window that were let through under the
// breaker's generation.
type Counts struct {
	Good, Bad int64
	Streak    int64 // bad ones since the last good one
}

// Count looks at what has come in while it was closed, and opens it when the
// rules say so. changed is false when nothing follows.
func (b Breaker) Count(r Rules, c Counts, now time.Time) (_ Breaker, changed bool) {
	if b.State != Closed || b.Forced || r.Off {
		return b, false
	}
	total := c.Good + c.Bad
	switch {
	case r.Consecutive > 0 && c.Streak >= int64(r.Consecutive):
		return b.open(r, fmt.Sprintf("%d failures in a row", c.Streak), now), true
	case r.Percent > 0 && total >= int64(r.Volume) && c.Bad*100 >= int64(r.Percent)*total:
		return b.open(r, fmt.Sprintf("%d of %d failed within %v", c.Bad, total, r.Window), now), true
	}
	return b, false
}

func (b Breaker) open(r Rules, why string, now time.Time) Breaker {
	b.Opens++
	b.State, b.Probe, b.Reason = Open, "", why
	b.ReadyAt = now.Add(r.cooldown(b.Opens))
	b.Generation++
	return b
}

// Result takes the result of a probe that went under a generation. One that is
// not the probe of this generation changes nothing.
func (b Breaker) Result(r Rules, probe string, generation int64, o Outcome, now time.Time) (_ Breaker, changed bool) {
	if b.State != HalfOpen || b.Probe == "" || b.Probe != probe || b.Generation != generation {
		return b, false
	}
	switch o {
	case Good:
		return b.close("a probe was good"), true
	case Bad:
		return b.open(r, "a probe failed", now), true
	}
	b.Probe, b.ReadyAt, b.Reason = "", now, "a probe ended without a result"
	b.Generation++
	return b, true
}

func (b Breaker) close(why string) Breaker {
	return Breaker{State: Closed, Generation: b.Generation + 1, Reason: why}
}

// Force opens or closes it until it is reset.
func (b Breaker) Force(to State, why string) Breaker {
	b = b.close(why)
	b.State, b.Forced = to, true
	return b
}

// Reset makes it as good as new.
func (b Breaker) Reset(why string) Breaker { return b.close(why) }
