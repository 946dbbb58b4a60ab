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
	leaveFor = 10 * time.Second // before it is looked at anew who can do it
	keepLeft = 15 * time.Minute // after which what was left and is over is forgotten
	mostLeft = 4096             // steps that one worker leaves at a time
	moveWait = 3 * leaveFor     // before a step goes to another region once more: another of its run may send it back
)

// left are the steps that workers leave to others, which have what the step needs
// and they have not; and those that nobody else could take. It is this replica's
// alone: another finds it out by itself.
type left struct {
	mu      sync.Mutex
	workers map[string]map[string]leaving   // by worker and step
	bars    map[string]map[string]time.Time // by worker: tenants of which it takes nothing, and until when
	skip    map[string][]string             // by worker: tenants that its next claim passes over
	swept   time.Time                       // when workers that are gone were last forgotten
}

type leaving struct {
	tenant  string
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
	maps.DeleteFunc(x.bars, func(_ string, all map[string]time.Time) bool {
		maps.DeleteFunc(all, func(_ string, until time.Time) bool { return !now.Before(until) })
		return len(all) == 0
	})
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

// note remembers what was found of a tenant's step.
func (x *left) note(worker, tenant, id string, f found) {
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
	if !known && !f.nobody && !x.room(worker, tenant, all, now) {
		f.vacated.end()
		return
	}
	l.vacated.end()
	l.tenant, l.until, l.nobody, l.why, l.vacated = tenant, now.Add(leaveFor), f.nobody, f.why, f.vacated
	if f.moves {
		l.moved = now
	}
	all[id] = l
}

// room reports whether one more step of a tenant can be remembered. Where a worker
// leaves as many as it can, it takes nothing of the tenant for a while that has
// the most of them: those steps wait for who can do them, which is no reason to end
// them, and other tenants do not wait behind them. x.mu is held.
func (x *left) room(worker, tenant string, all map[string]leaving, now time.Time) bool {
	if len(all) < mostLeft {
		return true
	}
	forget(all, now)
	if len(all) < mostLeft {
		return true
	}
	counts, most := map[string]int{}, tenant
	for _, l := range all {
		if counts[l.tenant]++; counts[l.tenant] > counts[most] {
			most = l.tenant
		}
	}
	if x.bars == nil {
		x.bars = map[string]map[string]time.Time{}
	}
	if x.bars[worker] == nil {
		x.bars[worker] = map[string]time.Time{}
	}
	x.bars[worker][most] = now.Add(leaveFor)
	if most == tenant {
		return false
	}
	for id, l := range all {
		if l.tenant == most {
			l.vacated.end()
			delete(all, id)
			break
		}
	}
	return true
}

// barred are the tenants of which a worker takes nothing now.
func (x *left) barred(worker string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(x.bars[worker], func(_ string, until time.Time) bool { return !now.Before(until) })
	return slices.Collect(maps.Keys(x.bars[worker]))
}

// pass has the worker's next claim pass over a tenant, whose steps it has just come
// upon and cannot do: others do not wait behind them, however many there are.
func (x *left) pass(worker, tenant string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.skip == nil {
		x.skip = map[string][]string{}
	}
	if !slices.Contains(x.skip[worker], tenant) {
		x.skip[worker] = append(slices.Clone(x.skip[worker]), tenant)
	}
}

// passed are those tenants.
func (x *left) passed(worker string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.skip[worker]
}

// turn is that all tenants have their turn again.
func (x *left) turn(worker string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.skip, worker)
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
