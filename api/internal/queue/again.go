package queue

import (
	"cmp"
	"context"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// RetryRun opens new generations of the steps of a run that did not succeed,
// or of all of them once it has ended.
func (q *Queue) RetryRun(ctx context.Context, who auth.Principal, runID string, all bool, o Once, requestID string) (wire.Reopened, bool, error) {
	return q.again(ctx, who, runID, o, func(re *reopening, out *wire.Reopened) (string, map[string]any, error) {
		if all {
			return "run.rerun", map[string]any{}, re.all(runID)
		}
		why := map[string]error{}
		steps := re.runs[runID].steps
		for _, s := range steps {
			if status := step.Status(s.Status); status.Terminal() && status != step.StepSucceeded && !re.set[s.ID] {
				if err := re.add(s); err != nil {
					why[s.ID] = err
				}
			}
		}
		var first error
		for _, s := range steps {
			if err := why[s.ID]; err != nil && !re.set[s.ID] {
				out.Refused = append(out.Refused, wire.RefusedOne{ID: s.ID, Message: err.Error()})
				first = cmp.Or(first, err)
			}
		}
		switch {
		case len(re.set) > 0:
			first = nil
		case first == nil:
			first = conflict("no step of the run has failed: it is %s", re.c.runs[runID].Status)
		}
		return "run.retry", map[string]any{}, first
	}, requestID)
}

// RetryStep opens a new generation of one step that did not succeed.
func (q *Queue) RetryStep(ctx context.Context, who auth.Principal, runID, stepID string, o Once, requestID string) (wire.Reopened, bool, error) {
	return q.again(ctx, who, runID, o, func(re *reopening, _ *wire.Reopened) (string, map[string]any, error) {
		s, err := re.step(runID, stepID)
		if err != nil {
			return "", nil, err
		}
		return "step.retry", map[string]any{"step": s.Name, "generation": s.Generation + 1}, re.add(s)
	}, requestID)
}

// again reopens what choose takes of one run.
func (q *Queue) again(ctx context.Context, who auth.Principal, runID string, o Once,
	choose func(*reopening, *wire.Reopened) (action string, detail map[string]any, err error), requestID string,
) (wire.Reopened, bool, error) {
	var c *change
	out, replayed, err := once(ctx, q, who, o, func(db *pgdb.Queries) (wire.Reopened, error) {
		out := wire.Reopened{RunID: runID}
		re, err := q.reopen(ctx, db, who, []string{runID})
		if err != nil {
			return out, err
		}
		if re.runs[runID] == nil {
			return out, step.Errorf(step.KindNotFound, "no run %s", clip(runID))
		}
		action, detail, err := choose(re, &out)
		if err != nil {
			return out, err
		}
		if err := re.withinMonth(ctx, db); err != nil {
			return out, err
		}
		steps, err := re.write(ctx, db, action)
		if err != nil {
			return out, err
		}
		if len(steps[runID]) == 0 {
			return out, conflict("no step of the run can be tried again")
		}
		c = re.c
		out.Status, out.Steps = step.RunStatus(c.runs[runID].Status), steps[runID]
		detail["steps"] = len(out.Steps)
		target := runID
		if action == "step.retry" {
			target, detail["run"] = out.Steps[0].ID, runID
		}
		return out, re.audit(ctx, db, action, target, requestID, detail)
	})
	if err == nil && !replayed {
		q.announce(ctx, c)
	}
	return out, replayed, err
}
