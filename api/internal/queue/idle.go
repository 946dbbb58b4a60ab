package queue

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	mostIdle   = 1000                   // heartbeats that are seen to in one transaction
	idleGather = 250 * time.Millisecond // for which the first waits for others, at most
	idlePart   = 40                     // and at most this part of the time that it would wait for news
	idleTime   = 10 * time.Second       // for the transaction
)

// idle are heartbeats of workers that have nothing to do, on their way into the
// database. They are no hurry to anybody, so they go together: the first waits a
// moment for more, and sees to all.
type idle struct {
	mu      sync.Mutex
	waiting []*idleBeat
	led     bool // one of them sees to the next ones
}

// idleBeat is one of them.
type idleBeat struct {
	who     auth.Principal
	in      wire.Heartbeat
	drivers []byte
	turn    chan bool // one value: whether it is to see to those that wait; else that has been done

	seen     bool // it says nothing new, and that is noted
	barriers []wire.Barrier
	err      error
}

// nothing reports whether a heartbeat lists nothing, and waits for news.
func nothing(in wire.Heartbeat) bool {
	return len(in.Held) == 0 && len(in.Runs) == 0 && len(in.Swept) == 0 && in.WaitMS > 0
}

// join gets in line.
func (i *idle) join(x *idleBeat) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waiting = append(i.waiting, x)
	if !i.led {
		i.led = true
		x.turn <- true
	}
}

// leave reports whether x still waited, and waits no more.
func (i *idle) leave(x *idleBeat) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := slices.Index(i.waiting, x)
	if n < 0 || len(x.turn) > 0 {
		return false
	}
	i.waiting = slices.Delete(i.waiting, n, n+1)
	return true
}

// take gives those that are to be seen to.
func (i *idle) take() []*idleBeat {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := min(len(i.waiting), mostIdle)
	batch := slices.Clone(i.waiting[:n])
	i.waiting = slices.Delete(i.waiting, 0, n)
	return batch
}

// done tells all of a batch but x, whose turn it was, and gives the next the
// turn.
func (i *idle) done(x *idleBeat, batch []*idleBeat) {
	for _, y := range batch {
		if y != x {
			y.turn <- false
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.led = len(i.waiting) > 0; i.led {
		i.waiting[0].turn <- true
	}
}

// see has a heartbeat seen to, by run or together with others by theirs.
func (i *idle) see(ctx context.Context, x *idleBeat, run func(context.Context, []*idleBeat)) {
	i.join(x)
	var lead bool
	select {
	case lead = <-x.turn:
	case <-ctx.Done():
		if i.leave(x) {
			x.err = step.Errorf(step.KindUnavailable, "the request was given up")
			return
		}
		lead = <-x.turn
	}
	if !lead {
		return
	}
	_ = pause(ctx, min(idleGather, time.Duration(x.in.WaitMS)*time.Millisecond/idlePart)) // whoever hangs up does it at once, for the others
	batch := i.take()
	defer i.done(x, batch)
	for _, y := range batch {
		y.err = step.Errorf(step.KindInternal, "the heartbeat was not seen to") // unless run comes to its end
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), idleTime)
	defer cancel()
	run(ctx, batch)
}

// seeIdle notes heartbeats that say nothing new, and tells which those are.
func (q *Queue) seeIdle(ctx context.Context, batch []*idleBeat) {
	var p pgdb.SeeIdleParams
	first := make(map[string]*idleBeat, len(batch)) // by worker: what is true of one need not be of another that names it
	for _, x := range batch {
		if first[x.in.WorkerID] != nil {
			continue
		}
		first[x.in.WorkerID] = x
		status := "live"
		if x.in.Draining {
			status = "draining"
		}
		p.Ids, p.Incarnations, p.KeyIds = append(p.Ids, x.in.WorkerID), append(p.Incarnations, x.in.Incarnation), append(p.KeyIds, x.who.KeyID)
		p.Drivers, p.Statuses = append(p.Drivers, string(x.drivers)), append(p.Statuses, status)
	}
	var seen []string
	var barring []wire.Barrier
	err := q.db.System(ctx, func(db *pgdb.Queries) (err error) {
		if seen, err = db.SeeIdle(ctx, p); err == nil {
			barring, err = barriers(ctx, db)
		}
		return err
	})
	slices.Sort(seen)
	for _, x := range batch {
		_, found := slices.BinarySearch(seen, x.in.WorkerID)
		found = found && first[x.in.WorkerID] == x
		x.seen, x.barriers, x.err = found && err == nil, barring, err
	}
}

// idle sees to a heartbeat that lists nothing. It reports false when there is
// more to it than that the worker is there.
func (b *beat) idle(ctx context.Context) (bool, error) {
	drivers, err := driversOf(b.in.Drivers)
	if err != nil {
		return false, err
	}
	x := &idleBeat{who: b.who, in: b.in, drivers: drivers, turn: make(chan bool, 1)}
	b.q.idle.see(ctx, x, b.q.seeIdle)
	if x.err != nil || !x.seen {
		return false, x.err
	}
	b.answer = wire.HeartbeatAnswer{LeaseMS: b.q.cfg.Lease.Milliseconds(), Renewed: []string{}, Ended: []string{}, Barriers: x.barriers}
	b.set(nil)
	return true, nil
}
