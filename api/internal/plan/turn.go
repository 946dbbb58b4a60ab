package plan

import (
	"cmp"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	maxKey         = 200 // bytes
	maxConcurrency = 100_000
	maxDelay       = 366 * 24 * time.Hour
)

// Turn is when a plan's run may begin.
type Turn struct {
	Priority    int
	StartAt     *time.Time    // nil = after Delay
	Delay       time.Duration // 0 = at once
	Concurrency wire.Concurrency
}

// TurnOf is the turn of a plan that Compile has checked.
func TurnOf(p wire.Plan) Turn {
	t := Turn{Priority: p.Priority, StartAt: p.StartAt, Delay: time.Duration(p.DelayMS) * time.Millisecond}
	if p.Concurrency != nil {
		t.Concurrency = whole(*p.Concurrency)
	}
	return t
}

// whole is a bound with its limit.
func whole(c wire.Concurrency) wire.Concurrency {
	c.Limit = cmp.Or(c.Limit, 1)
	return c
}

// turn checks when a plan's run may begin. now is near enough: it bounds.
func (f *faults) turn(p wire.Plan, now time.Time) {
	const at = "body.plan"
	f.priority(at, p.Priority)
	f.concurrency(at, p.Concurrency)
	switch {
	case p.StartAt != nil && p.DelayMS != 0:
		f.add(at+".delay_ms", p.DelayMS, "start_at says when already: give one of them")
	case p.DelayMS < 0 || p.DelayMS > maxDelay.Milliseconds():
		f.add(at+".delay_ms", p.DelayMS, "must be 0 to %d milliseconds", maxDelay.Milliseconds())
	case p.StartAt != nil && (p.StartAt.Sub(now) > maxDelay || now.Sub(*p.StartAt) > maxDelay):
		f.add(at+".start_at", p.StartAt, "must be within %d days", maxDelay/(24*time.Hour))
	}
}

func (f *faults) priority(at string, n int) {
	if n < wire.LeastPriority || n > wire.MostPriority {
		f.add(at+".priority", n, "must be %d to %d", wire.LeastPriority, wire.MostPriority)
	}
}

func (f *faults) concurrency(at string, c *wire.Concurrency) {
	if c == nil {
		return
	}
	if c.Key == "" || len(c.Key) > maxKey || !oneLine(c.Key) {
		f.add(at+".concurrency.key", c.Key, "must be one line of 1 to %d bytes", maxKey)
	}
	if c.Limit < 0 || c.Limit > maxConcurrency {
		f.add(at+".concurrency.limit", c.Limit, "must be 1 to %d", maxConcurrency)
	}
}

// turn says where in the queue a step goes.
func (c compiler) turn(at string, in wire.PlanStep, out *Step) {
	out.Priority = c.priority
	if in.Priority != nil {
		out.Priority = *in.Priority
		c.faults.priority(at, out.Priority)
	}
	c.concurrency(at, in.Concurrency)
	if in.Concurrency != nil {
		out.Concurrency = whole(*in.Concurrency)
	}
}
