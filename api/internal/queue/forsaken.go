package queue

import (
	"context"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// forsake frees runs from lost workers: those whose workspace holds nothing yet,
// or whose layers have all that is in it. They go on elsewhere.
func (q *Queue) forsake(ctx context.Context) error {
	for range settleMost {
		n, err := q.forsakeSome(ctx)
		if err != nil || n < reapMost {
			return err
		}
	}
	return nil
}

func (q *Queue) forsakeSome(ctx context.Context) (n int, err error) {
	c := noChange()
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		c, n = noChange(), 0
		ids, err := db.Forsaken(ctx, reapMost)
		if err != nil || len(ids) == 0 {
			return err
		}
		runs, err := db.LockRuns(ctx, ids)
		if err != nil {
			return err
		}
		c = newChange(runs)
		why := make(map[string]string, len(ids))
		for _, id := range ids {
			why[id] = "the worker that had the run's workspace is lost"
		}
		freed, err := c.unpin(ctx, db, why)
		if n = len(freed); err != nil || n == 0 {
			return err
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return n, err
}

// unpin frees those of locked runs, each with why, that can do without the worker
// that they are pinned to, and tells whose work goes elsewhere.
func (c *change) unpin(ctx context.Context, db *pgdb.Queries, why map[string]string) (freed map[string]bool, err error) {
	if len(why) == 0 {
		return nil, nil //nolint:nilnil // nobody is
	}
	ids := make([]string, 0, len(why))
	for id := range why {
		ids = append(ids, id)
	}
	if err := db.LockQueued(ctx, ids); err != nil {
		return nil, err
	}
	rows, err := db.UnpinRuns(ctx, ids)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	freed, ids = make(map[string]bool, len(rows)), ids[:0]
	for _, row := range rows {
		r := c.runs[row.ID]
		if r == nil {
			return nil, step.Errorf(step.KindInternal, "run %s is not locked", row.ID)
		}
		freed[row.ID], ids = true, append(ids, row.ID)
		if row.Work {
			if err := c.event(row.ID, event.Entry{Type: step.EventRunMoved, Payload: map[string]any{
				"from": r.Pin, "layer": r.Layers, "reason": why[row.ID]}}); err != nil {
				return nil, err
			}
		}
		r.Pin = ""
	}
	c.anywhere = true
	_, err = db.UnpinQueued(ctx, ids)
	return freed, err
}
