package queue

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// errUnfit is that a claim took what its worker cannot do: it is undone, and tried
// again once it is known whether another worker can.
var errUnfit = errors.New("a step is not for this worker")

const (
	leaveFor = 10 * time.Second       // before it is looked at anew who can do it
	keepLeft = 15 * time.Minute       // after which what was left and is over is forgotten
	mostLeft = 4096                   // steps that one worker leaves at a time
	fullWait = 250 * time.Millisecond // before a worker that leaves that many looks again
	moveWait = 3 * leaveFor           // before a step goes to another region once more: another of its run may send it back
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
	until   time.Time
	nobody  bool      // else can do it
	why     string    // nobody may, though another could
	moved   time.Time // when it was sent to another region
	vacated *vacancy
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
	if now.Sub(x.swept) < keepLeft {
		return
	}
	x.swept = now
	for worker, all := range x.workers {
		forget(all, now.Add(-keepLeft))
		if len(all) == 0 {
			delete(x.workers, worker)
		}
	}
}

// forget drops what was over before a time.
func forget(all map[string]leaving, before time.Time) {
	maps.DeleteFunc(all, func(_ string, l leaving) bool {
		if !l.until.Before(before) {
			return false
		}
		l.vacated.end()
		return true
	})
}

// nobody reports whether it was found a moment ago that no other worker can do a
// step; why if another could, but must not.
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
	moves  bool   // it goes to another region
	// vacated tells when some of that has; nil = nothing does.
	vacated *vacancy
}

// note remembers what was found of a step, unless that is that others can do it
// and the worker leaves as many as it can already: then the step waits, and
// kept is false. That others have much to do is no reason to end it.
func (x *left) note(worker, id string, f found) (kept bool) {
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
	if !known && len(all) >= mostLeft {
		forget(all, now)
		if !f.nobody && len(all) >= mostLeft {
			f.vacated.end()
			return false
		}
	}
	l.vacated.end()
	l.until, l.nobody, l.why, l.vacated = now.Add(leaveFor), f.nobody, f.why, f.vacated
	if f.moves {
		l.moved = now
	}
	all[id] = l
	return true
}

// moved reports whether a step was sent to another region a moment ago.
func (x *left) moved(worker, id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return time.Since(x.workers[worker][id].moved) < moveWait
}

// released is what became of runs that are to be let go by their worker.
type released struct {
	freed map[string]bool // are bound to nobody any more
	busy  map[string]bool // in their workspaces a step is at work
	bound map[string]bool // to what is in theirs
}

// release frees those of the runs, each with why, that are bound to the worker and
// can do without it.
func (q *Queue) release(ctx context.Context, worker string, why map[string]string) (out released, err error) {
	if len(why) == 0 {
		return out, nil
	}
	c := noChange()
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		out = released{busy: map[string]bool{}, bound: map[string]bool{}}
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
		if out.freed, err = c.unpin(ctx, db, here); err != nil {
			return err
		}
		ids := slices.DeleteFunc(slices.Collect(maps.Keys(here)), func(id string) bool { return out.freed[id] })
		atWork, err := db.RunsAtWork(ctx, ids)
		if err != nil {
			return err
		}
		for _, id := range atWork {
			out.busy[id] = true
		}
		for _, id := range ids {
			out.bound[id] = !out.busy[id]
		}
		if len(out.freed) == 0 {
			return nil
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return out, err
}
