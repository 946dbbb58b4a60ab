package queue

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Cancel ends what has not begun at once, and asks the workers to end what
// runs. A repeat while that goes on is harmless.
func (q *Queue) Cancel(ctx context.Context, who auth.Principal, runID, requestID string) (wire.CancelResult, error) {
	const reason = "cancelled by a user"
	var c *change
	var workers []string
	var out wire.CancelResult
	err := q.db.Tenant(ctx, who.TenantID, func(db *pgdb.Queries) error {
		row, err := db.LockRun(ctx, who.TenantID, runID)
		if none(err) {
			return step.Errorf(step.KindNotFound, "no run %s", clip(runID))
		}
		if err != nil {
			return err
		}
		if step.RunStatus(row.Status).Terminal() {
			return step.Errorf(step.KindConflict, "the run has ended: %s", row.Status)
		}
		if err := db.NoteCancel(ctx, pgdb.NoteCancelParams{Reason: reason, TenantID: who.TenantID, ID: runID}); err != nil {
			return err
		}
		c = newChange([]pgdb.LockRunRow{row})
		r := c.runs[runID]
		if r.CancelAt == nil {
			now := time.Now()
			r.CancelAt = &now
		}
		if err := c.cancelOpen(ctx, db, who.TenantID, runID); err != nil {
			return err
		}
		// After it has waited for the claims that were taking steps of the run: theirs run now.
		if workers, err = db.CancelAttempts(ctx, pgdb.CancelAttemptsParams{Reason: reason, TenantID: who.TenantID, RunID: runID}); err != nil {
			return err
		}
		if err := db.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: who.TenantID, Principal: who.KeyID, Action: "run.cancel",
			Target: runID, Outcome: "allowed", RequestID: requestID}); err != nil {
			return err
		}
		if err := c.write(ctx, db); err != nil {
			return err
		}
		out = wire.CancelResult{ID: runID, Status: step.RunStatus(r.Status)}
		return nil
	})
	if err != nil {
		return wire.CancelResult{}, err
	}
	q.announce(ctx, c)
	for _, w := range workers {
		q.hub.Topics(wake.Worker(w))
	}
	return out, nil
}

// cancelOpen ends the steps that wait or are queued.
func (c *change) cancelOpen(ctx context.Context, db *pgdb.Queries, tenant, runID string) error {
	verdict, err := json.Marshal(unbegun(0))
	if err != nil {
		return err
	}
	between, err := json.Marshal(unbegun(1))
	if err != nil {
		return err
	}
	rows, err := db.CancelOpenSteps(ctx, pgdb.CancelOpenStepsParams{Verdict: verdict, Between: between, TenantID: tenant, RunID: runID})
	if err != nil {
		return err
	}
	for _, s := range rows {
		if err := c.event(runID, event.Entry{Type: step.EventStepCancelled, StepID: s.ID, StepName: s.Name}); err != nil {
			return err
		}
		c.count(c.runs[runID], step.StepCancelled)
	}
	return nil
}

// unbegun is the verdict of a step that was cancelled when nothing of it ran,
// after so many tries.
func unbegun(tries int32) step.Verdict {
	v := step.Verdict{Cause: step.CauseCancelled, Attested: step.AttestedKernel, Message: "cancelled before it started"}
	if tries > 0 {
		v.Message = "cancelled before its next try"
	}
	return v
}

func clip(s string) string { return s[:min(len(s), 100)] }
