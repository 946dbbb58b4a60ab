package container

import (
	"context"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

const (
	endWithin = 5 * time.Second // the engine sees a container's end so long after the kernel, at most
	oomWithin = time.Second     // and what it was killed for, which comes apart from that
	endPoll   = 20 * time.Millisecond
	sigkilled = 128 + 9
)

// Amend implements supervised.Engine: when the kernel kills PID 1 for want of
// memory, its group may be gone before the supervisor has read why.
func (d *Driver) Amend(ctx context.Context, id, dir string, x *driver.Exit) {
	s, err := d.configured()
	if err != nil {
		return
	}
	by, err := makerOf(dir)
	if err != nil {
		return
	}
	var st seen
	err = madeBy(ctx, s, by, func(e *engine, _ string) (err error) {
		st, err = d.ended(ctx, e, id)
		return err
	})
	said := d.heard.of(id)
	if !said.died && err == nil && !st.running {
		said.died, said.exit = true, strconv.Itoa(st.exit)
	}
	if text := said.outside(); text != "" {
		x.Message = text
	}
	if err == nil && st.oom || said.oom {
		x.Cause, x.Message = step.CauseOOM, "the container was out of memory"
		if x.Usage.MemoryPeakBytes == 0 { // its group has gone: it had used all that it was given
			x.Usage.MemoryPeakBytes = st.memory
		}
	}
}

// ended waits until the engine knows how a container ended whose end the
// supervisor has seen: it hears of that later, and of the want of memory on
// another way. It waits once for each container.
func (d *Driver) ended(ctx context.Context, e *engine, id string) (seen, error) {
	st, err := e.inspect(ctx, name(id))
	if d.heard.of(id).asked {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	var killed time.Time // seen first
	for err == nil && !st.oom && !d.heard.of(id).oom {
		if !st.running && killed.IsZero() {
			killed = time.Now()
		}
		if !st.running && (st.exit != sigkilled || time.Since(killed) > oomWithin) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, err
		}
		var again seen
		if again, err = e.inspect(ctx, name(id)); err == nil {
			st = again
		}
	}
	d.heard.note(id, func(x *ended) { x.asked = true })
	return st, err
}
