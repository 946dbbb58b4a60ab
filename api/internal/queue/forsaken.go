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
		rows, err := db.UnpinRuns(ctx, ids)
		if err != nil {
			return err
		}
		freed := make([]string, len(rows))
		for i, row := range rows {
			r := c.runs[row.ID]
			if freed[i] = row.ID; row.Work {
				if err := c.event(row.ID, event.Entry{Type: step.EventRunMoved, Payload: map[string]any{
					"from": r.Pin, "layer": r.Layers, "reason": "the worker that had the run's workspace is lost"}}); err != nil {
					return err
				}
			}
			r.Pin = ""
		}
		if n = len(freed); n == 0 {
			return nil
		}
		if _, err := db.UnpinQueued(ctx, freed); err != nil {
			return err
		}
		return c.write(ctx, db)
	})
	if err == nil && n > 0 {
		q.announce(ctx, c)
		q.hub.All()
	}
	return n, err
}
