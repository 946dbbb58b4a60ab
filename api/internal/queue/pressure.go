package queue

import (
	"context"
	"math"
	"time"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

const (
	// PressureEvery is how often NotePressure is to be called.
	PressureEvery = 5 * time.Second
	// pressureMost is how many episodes begin in one call; there is a next one.
	pressureMost = 200
)

// NotePressure begins an episode of each tenant whose oldest step has been due
// for as long as the threshold, with one event in that step's run, unless the
// tenant's own quota keeps its steps back: no larger fleet would help it. It is
// over when the oldest has been due for less than half of the threshold. Of
// several replicas one does it at a time.
func (q *Queue) NotePressure(ctx context.Context) error {
	if q.cfg.Pressure <= 0 {
		return nil
	}
	c := noChange()
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		mine, err := db.TryPressure(ctx)
		if err != nil || !mine {
			return err
		}
		rows, err := db.Pressed(ctx, seconds(q.cfg.Pressure/2))
		if err != nil {
			return err
		}
		pressed, begin, runs := make([]string, len(rows)), []pgdb.PressedRow{}, []string{}
		for i, row := range rows {
			pressed[i] = row.TenantID
			if !row.Known && !row.Barred && row.AgeSeconds >= seconds(q.cfg.Pressure) && len(begin) < pressureMost {
				begin, runs = append(begin, row), append(runs, row.RunID)
			}
		}
		if err := db.EndPressure(ctx, pressed); err != nil || len(begin) == 0 {
			return err
		}
		locked, err := db.LockRuns(ctx, runs)
		if err != nil {
			return err
		}
		c = newChange(locked)
		for _, row := range begin {
			if err := q.press(ctx, db, c, row); err != nil {
				return err
			}
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return err
}

// press begins an episode. A run that has ended meanwhile tells of none: the
// next call finds the step that is the oldest then.
func (q *Queue) press(ctx context.Context, db *pgdb.Queries, c *change, row pgdb.PressedRow) error {
	r, ok := c.runs[row.RunID]
	if !ok || step.RunStatus(r.Status).Terminal() {
		return nil
	}
	depth, err := db.BeginPressure(ctx, row.TenantID, row.RunID)
	if err != nil {
		return err
	}
	about := map[string]any{"age_seconds": int64(math.Floor(row.AgeSeconds)), "threshold_seconds": seconds(q.cfg.Pressure), "depth": depth}
	if row.MaxSteps > 0 { // it may have been the quota until a moment ago
		about["running"], about["max_concurrent_steps"] = row.Running, row.MaxSteps
	}
	return c.event(row.RunID, event.Entry{Type: step.EventQueuePressure, StepID: row.StepID, StepName: row.StepName, Payload: about})
}
