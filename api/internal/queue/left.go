package queue

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
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
	nobody       bool // else can do it
}

// list are the steps that a claim of the worker passes over.
func (x *left) list(worker string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	var ids []string
	for id, l := range x.workers[worker] {
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
		maps.DeleteFunc(all, func(_ string, l leaving) bool { return now.Sub(l.until) > leaveMost })
		if len(all) == 0 {
			delete(x.workers, worker)
		}
	}
}

// nobody reports whether it was found a moment ago that no other worker can do a
// step, or that it was left for long enough.
func (x *left) nobody(worker, id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.workers[worker][id]
	return l.nobody && time.Now().Before(l.until)
}

// note remembers what was found of a step.
func (x *left) note(worker, id string, nobody bool) {
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
	if !known {
		l.since = now
	}
	l.until, l.nobody = now.Add(leaveFor), nobody || now.Sub(l.since) > leaveMost || !known && len(all) >= mostLeft
	all[id] = l
}

// unfit is a lease that its worker's driver cannot do.
type unfit struct {
	lease  wire.Lease
	shares bool
	region string // that the step is placed in; "" = anywhere
}

// leave finds out who else could do what a claim took that was undone.
func (q *Queue) leave(ctx context.Context, worker string, all []unfit) error {
	ids := make([]string, len(all))
	for i, u := range all {
		ids[i] = u.lease.RunID
	}
	pins := map[string]string{}
	err := q.db.SystemQuery(ctx, func(db *pgdb.Queries) error {
		rows, err := db.PinsOfRuns(ctx, ids)
		for _, r := range rows {
			pins[r.ID] = r.Pin
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, u := range all {
		able := false
		if !u.shares || pins[u.lease.RunID] == "" { // else the run is here, and nobody else gets it
			if able, err = q.cfg.Fleet.Able(ctx, u.lease, u.shares, u.region); err != nil {
				return err
			}
		}
		q.left.note(worker, u.lease.StepID, !able)
	}
	q.hub.More() // whoever can
	return nil
}
