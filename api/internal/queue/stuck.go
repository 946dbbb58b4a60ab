package queue

import (
	"context"
	"encoding/json"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// stuck is a queued step that nobody can take. bound: the reason is the worker
// that its run is pinned to; it goes elsewhere if it can.
type stuck struct {
	id, runID, why string
	bound          bool
}

// failStranded ends the steps whose driver has not been there for longer than a
// step waits.
func (q *Queue) failStranded(ctx context.Context) error {
	if q.cfg.DriverWait == 0 {
		return nil
	}
	return q.failQueued(ctx, step.CauseDriverError, q.stranded)
}

func (q *Queue) stranded(ctx context.Context, db *pgdb.Queries) ([]stuck, error) {
	rows, err := db.Stranded(ctx, seconds(q.cfg.DriverWait), reapMost)
	out := make([]stuck, len(rows))
	for i, r := range rows {
		out[i] = stuck{id: r.ID, runID: r.RunID, why: "no worker" + in(r.Regions, r.Residency) + " has the driver " + r.Driver}
		if out[i].bound = r.Pin != ""; out[i].bound {
			out[i].why = "the worker that has the run's workspace has not the driver " + r.Driver
		}
	}
	return out, err
}

func (q *Queue) orphaned(ctx context.Context, db *pgdb.Queries) ([]stuck, error) {
	rows, err := db.Orphaned(ctx, seconds(q.cfg.WorkspaceWait), reapMost)
	out := make([]stuck, len(rows))
	for i, r := range rows {
		out[i] = stuck{id: r.ID, runID: r.RunID, why: "the worker that has the run's workspace is lost"}
	}
	return out, err
}

// failQueued ends such steps, with the cause that says why.
func (q *Queue) failQueued(ctx context.Context, cause step.Cause, list func(context.Context, *pgdb.Queries) ([]stuck, error)) error {
	c := noChange()
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		found, err := list(ctx, db)
		if err != nil || len(found) == 0 {
			return err
		}
		runIDs, bound := []string{}, map[string]string{}
		for _, s := range found {
			if runIDs = append(runIDs, s.runID); s.bound {
				bound[s.runID] = s.why
			}
		}
		runs, err := db.LockRuns(ctx, runIDs)
		if err != nil {
			return err
		}
		c = newChange(runs)
		freed, err := c.unpin(ctx, db, bound)
		if err != nil {
			return err
		}
		var ids, verdicts []string
		why := make(map[string]string, len(found))
		for _, s := range found {
			if s.bound && freed[s.runID] {
				continue
			}
			verdict, err := json.Marshal(step.Verdict{Cause: cause, Attested: step.AttestedKernel, Message: s.why})
			if err != nil {
				return err
			}
			ids, verdicts = append(ids, s.id), append(verdicts, string(verdict))
			why[s.id] = s.why
		}
		rows, err := db.FailQueued(ctx, ids, verdicts)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if cause == step.CausePolicy {
				if err := c.denied(ctx, db, s, why[s.ID]); err != nil {
					return err
				}
			}
			about := event.Entry{Type: step.EventStepFailed, StepID: s.ID, StepName: s.Name, Attempt: int(s.Attempt),
				Payload: map[string]any{"cause": cause, "message": why[s.ID]}}
			if err := c.event(s.RunID, about); err != nil {
				return err
			}
			about.Type = step.EventStepDead
			about.Payload["entry"], about.Payload["reason"] = c.bury(s.ID, cause, why[s.ID]), why[s.ID]
			if err := c.event(s.RunID, about); err != nil {
				return err
			}
			c.count(c.runs[s.RunID], step.StepFailed)
			c.red = append(c.red, s.ID)
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return err
}
