package queue

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/wire"
)

// errUnfit is that a claim took what its worker cannot do: it is undone, and tried
// again once it is known whether another worker can.
var errUnfit = errors.New("a step is not for this worker")

const (
	leaveFor  = 10 * time.Second // before it is looked at anew who can do it
	leaveMost = 15 * time.Minute // that a step is left to others, who do not take it
	mostLeft  = 4096             // steps that one worker leaves
)

// left are the steps that workers leave to others, which have what the step needs
// and they have not; and those that nobody else could take. It is this replica's
// alone: another finds it out by itself.
type left struct {
	mu      sync.Mutex
	workers map[string]map[string]leaving // by worker and step
	swept   time.Time                     // when workers that are gone were last forgotten
}

type leaving struct {
	since, until time.Time
	nobody       bool   // else can do it
	why          string // nobody may, though another could
	vacated      *vacancy
}

// vacancy is what a step that is bound waits for, if not for the time to pass.
type vacancy struct {
	told <-chan struct{}
	stop func() // may be called again
}

// over reports whether it has come.
func (v *vacancy) over() bool {
	if v == nil {
		return false
	}
	select {
	case <-v.told:
		return true
	default:
		return false
	}
}

func (v *vacancy) end() {
	if v != nil {
		v.stop()
	}
}

// list are the steps that a claim of the worker passes over.
func (x *left) list(worker string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	var ids []string
	all := x.workers[worker]
	for id, l := range all {
		if l.vacated.over() {
			l.until = now
		}
		if !now.Before(l.until) && l.vacated != nil {
			l.vacated.end()
			l.vacated = nil
			all[id] = l
		}
		if !l.nobody && now.Before(l.until) {
			ids = append(ids, id)
		}
	}
	return ids
}

// sweep forgets what is long over. x.mu is held.
func (x *left) sweep(now time.Time) {
	if now.Sub(x.swept) < leaveMost {
		return
	}
	x.swept = now
	for worker, all := range x.workers {
		maps.DeleteFunc(all, func(_ string, l leaving) bool {
			if now.Sub(l.until) <= leaveMost {
				return false
			}
			l.vacated.end()
			return true
		})
		if len(all) == 0 {
			delete(x.workers, worker)
		}
	}
}

// nobody reports whether it was found a moment ago that no other worker can do a
// step, or that it was left for long enough; why if another could, but must not.
func (x *left) nobody(worker, id string) (why string, nobody bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.workers[worker][id]
	return l.why, l.nobody && time.Now().Before(l.until)
}

// found is what was found of a step that a worker cannot do.
type found struct {
	nobody bool   // else can do it, or may
	why    string // nobody may; "" = nobody can
	bound  bool   // it is its worker's until what is at work in its run's workspace has ended
	// vacated tells when some of that has; nil = nothing does.
	vacated *vacancy
}

// note remembers what was found of a step. One that is bound is not left to
// anybody yet.
func (x *left) note(worker, id string, f found) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	x.sweep(now)
	all := x.workers[worker]
	if all == nil {
		all = map[string]leaving{}
		if x.workers == nil {
			x.workers = map[string]map[string]leaving{}
		}
		x.workers[worker] = all
	}
	l, known := all[id]
	if !known || f.bound {
		l.since = now
	}
	l.vacated.end()
	l.until, l.why, l.vacated = now.Add(leaveFor), f.why, f.vacated
	l.nobody = f.nobody || now.Sub(l.since) > leaveMost || !known && len(all) >= mostLeft
	all[id] = l
}

// unfit is a lease that its worker's driver cannot do.
type unfit struct {
	lease   wire.Lease
	shares  bool
	region  string // that the step is placed in; "" = anywhere
	missing driver.Capability
}

// leave finds out who else could do what a claim took that was undone. A run that
// is bound to the worker is let go, if it can do without it.
func (q *Queue) leave(ctx context.Context, worker string, all []unfit) error {
	others := make([]bool, len(all)) // can do it
	shared := map[string]string{}    // runs whose workspace another could go on with, and why
	vacated := make([]*vacancy, len(all))
	defer func() {
		for _, v := range vacated {
			v.end()
		}
	}()
	for i, u := range all {
		var err error
		if others[i], err = q.cfg.Fleet.Able(ctx, u.lease, u.shares, u.region); err != nil {
			return err
		}
		if others[i] && u.shares {
			shared[u.lease.RunID] = "the driver " + u.lease.Driver + " of the worker that had the run's workspace lacks the capability " + string(u.missing)
			told, stop := q.hub.Wait(wake.Workspace(u.lease.RunID)) // before the look at what is at work there
			vacated[i] = &vacancy{told, stop}
		}
	}
	busy, bound, err := q.release(ctx, worker, shared)
	if err != nil {
		return err
	}
	for i, u := range all {
		f := found{nobody: !others[i], bound: u.shares && busy[u.lease.RunID]}
		if f.bound {
			f.vacated, vacated[i] = vacated[i], nil
		}
		if others[i] && u.shares && bound[u.lease.RunID] {
			f.nobody, f.why = true, "; that of another worker has it, but the run's workspace is on this one, and not all that is in it is saved"
		}
		q.left.note(worker, u.lease.StepID, f)
	}
	q.hub.More() // whoever can
	return nil
}

// release frees those of the runs, each with why, that are bound to the worker and
// can do without it. It tells in whose workspace a step is at work, and which of
// the others are bound to what is in theirs.
func (q *Queue) release(ctx context.Context, worker string, why map[string]string) (busy, bound map[string]bool, err error) {
	busy, bound = map[string]bool{}, map[string]bool{}
	if len(why) == 0 {
		return busy, bound, nil
	}
	c := noChange()
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		clear(busy)
		clear(bound)
		runs, err := db.LockRuns(ctx, slices.Collect(maps.Keys(why)))
		if err != nil {
			return err
		}
		c = newChange(runs)
		here := map[string]string{}
		for id, r := range c.runs {
			if r.Pin == worker {
				here[id] = why[id]
			}
		}
		freed, err := c.unpin(ctx, db, here)
		if err != nil {
			return err
		}
		ids := slices.DeleteFunc(slices.Collect(maps.Keys(here)), func(id string) bool { return freed[id] })
		atWork, err := db.RunsAtWork(ctx, ids)
		if err != nil {
			return err
		}
		for _, id := range atWork {
			busy[id] = true
		}
		for _, id := range ids {
			bound[id] = !busy[id]
		}
		if len(freed) == 0 {
			return nil
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return busy, bound, err
}
