package queue

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
)

// Why a run is held.
const (
	holdTime = "time" // until it is time
	holdTurn = "turn" // until it is its turn
)

// TurnsEvery is how often Turns is to be called: a run begins that much later
// than it could, at most, when nobody thinks of it before.
const TurnsEvery = 250 * time.Millisecond

const (
	goMost      = 100 // runs that one transaction lets go
	dueMost     = 200 // of each tenant, in one look
	turnKeys    = 500 // that one look for a tenant goes through
	turnsAtOnce = 4   // tenants
)

// rank is how a priority sorts: what goes first is the least.
func rank(priority int) int16 { return int16(-priority) } //nolint:gosec // package plan bounds it

// holdOf says what a new run waits for. What is bounded is let go by one way
// only, so it is always held at first.
func holdOf(t plan.Turn, bounded bool) string {
	switch {
	case t.Delay > 0 || t.StartAt != nil: // whether that is over, the database's clock says
		return holdTime
	case bounded || t.Concurrency.Key != "":
		return holdTurn
	}
	return ""
}

// holding are the tenants with runs that wait for their turn, as of the last
// look.
type holding struct {
	tenants atomic.Pointer[[]string]

	mu   sync.Mutex
	from map[string]string // of tenants with many keys: from which on to look
}

// key is the key from which on a tenant's are to be looked at.
func (h *holding) key(tenant string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.from[tenant]
}

// note keeps where the next look begins; "" is at the beginning.
func (h *holding) note(tenant, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if key == "" {
		delete(h.from, tenant)
		return
	}
	if h.from == nil {
		h.from = map[string]string{}
	}
	h.from[tenant] = key
}

func (h *holding) has(tenant string) bool {
	p := h.tenants.Load()
	return p != nil && slices.Contains(*p, tenant)
}

// Turns lets all runs go whose time or turn has come: some of each tenant at a
// time. Before each round it looks anew, so that one with very many holds up
// nobody who comes meanwhile.
func (q *Queue) Turns(ctx context.Context) error {
	var errs []error
	for more := true; more; {
		var err error
		more, err = q.turns(ctx)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// turns is one round; more tells that there may be others.
func (q *Queue) turns(ctx context.Context) (more bool, err error) {
	var tenants []string
	var late bool
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		due, err := db.DueRuns(ctx, dueMost)
		if err != nil {
			return err
		}
		late = len(due) >= dueMost
		tenants, err = db.HeldTenants(ctx)
		return err
	})
	if err != nil {
		return false, err
	}
	q.holding.tenants.Store(&tenants)
	var mu sync.Mutex
	var errs []error
	var all errgroup.Group
	all.SetLimit(turnsAtOnce)
	for _, t := range tenants {
		all.Go(func() error {
			rest, err := q.turnsOf(ctx, t)
			mu.Lock()
			defer mu.Unlock()
			more, errs = more || rest, append(errs, err)
			return nil
		})
	}
	_ = all.Wait() // its functions keep their errors
	err = errors.Join(errs...)
	return (more || late) && err == nil, err
}

// letGo is for whoever has just made room, or a run; if it fails Turns makes it
// good.
func (q *Queue) letGo(ctx context.Context, tenant string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	more, err := true, error(nil)
	for more && err == nil {
		more, err = q.turnsOf(ctx, tenant)
	}
	if err != nil {
		q.log.LogAttrs(ctx, slog.LevelWarn, "held runs", slog.String("tenant", tenant), slog.Any("err", pg.Cause(err)))
	}
}

// turnsOf lets some runs of a tenant go whose turn it is; more tells that there
// may be others.
func (q *Queue) turnsOf(ctx context.Context, tenant string) (more bool, err error) {
	c := noChange()
	next := "" // key
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		c, more = noChange(), false
		if err := db.LockTurns(ctx, tenant); err != nil {
			return err
		}
		rows, err := db.NextRuns(ctx, pgdb.NextRunsParams{TenantID: tenant, FromKey: q.holding.key(tenant), Keys: turnKeys, Most: goMost})
		if err != nil {
			return err
		}
		next = ""
		ids := make([]string, 0, len(rows))
		for _, r := range rows {
			if r.ID == "" {
				next = r.NextKey
				continue
			}
			ids = append(ids, r.ID)
		}
		if len(ids) == 0 {
			return nil
		}
		more = len(ids) == goMost
		runs, err := db.LockRuns(ctx, ids)
		if err != nil {
			return err
		}
		c = newChange(runs)
		return c.letGo(ctx, db, ids)
	})
	if err != nil {
		return false, err
	}
	q.holding.note(tenant, next)
	q.announce(ctx, c)
	return more, nil
}

// letGo queues what of these runs can begin.
func (c *change) letGo(ctx context.Context, db *pgdb.Queries, ids []string) error {
	gone, err := db.LetGo(ctx, ids)
	if err != nil {
		return err
	}
	rows, err := db.EnqueueRoots(ctx, gone)
	if err != nil {
		return err
	}
	slices.SortFunc(rows, func(a, b pgdb.EnqueueRootsRow) int { return int(a.Idx - b.Idx) })
	for _, s := range rows {
		c.queued = append(c.queued, place{s.Driver, s.Region, s.Pin})
		if err := c.event(s.RunID, event.Entry{Type: step.EventStepEnqueued, StepID: s.ID, StepName: s.Name}); err != nil {
			return err
		}
	}
	return c.write(ctx, db)
}

// ended are the tenants of runs that have ended with this.
func (c *change) ended() []string {
	var out []string
	for _, r := range c.runs {
		if r.StepsLeft == 0 && !slices.Contains(out, r.TenantID) {
			out = append(out, r.TenantID)
		}
	}
	return out
}
