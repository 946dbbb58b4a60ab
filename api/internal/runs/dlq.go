package runs

import (
	"context"
	"encoding/json"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// newest is after every id.
const newest = "~"

// exportPage is how many entries are read at once.
const exportPage = 100

// Dead lists entries of the tenant's DLQ, the newest first. The cursor is the
// id of the last one that was seen.
func (r *Reader) Dead(ctx context.Context, tenant string, f wire.DeadFilter, limit int, cursor string) (wire.DeadList, error) {
	out := wire.DeadList{Entries: []wire.DeadStep{}}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) (err error) {
		out, err = dead(ctx, db, tenant, f, limit, cursor)
		return err
	})
	return out, err
}

func dead(ctx context.Context, db *pgdb.Queries, tenant string, f wire.DeadFilter, limit int, cursor string) (wire.DeadList, error) {
	if cursor == "" {
		cursor = newest
	}
	rows, err := db.ListDead(ctx, pgdb.ListDeadParams{TenantID: tenant, Before: cursor, State: f.State, Tool: f.Tool, Cause: string(f.Cause),
		Driver: f.Driver, Since: f.Since, Most: int32(min(limit, 1000)) + 1}) //nolint:gosec // bounded on this line
	if err != nil {
		return wire.DeadList{}, err
	}
	out := wire.DeadList{Entries: make([]wire.DeadStep, 0, len(rows))}
	if len(rows) > limit {
		rows = rows[:limit]
		out.NextCursor = rows[limit-1].ID
	}
	for _, row := range rows {
		out.Entries = append(out.Entries, deadStep(pgdb.GetDeadRow(row)))
	}
	return out, nil
}

func deadStep(d pgdb.GetDeadRow) wire.DeadStep {
	return wire.DeadStep{ID: d.ID, RunID: d.RunID, StepID: d.StepID, StepName: d.StepName, Generation: int(d.Generation), Tool: d.Tool, Driver: d.Driver,
		WorkerID: d.WorkerID, Cause: step.Cause(d.Cause), Reason: d.Reason, Attempts: int(d.Attempts), State: d.State,
		CreatedAt: d.CreatedAt.UTC(), ResolvedAt: utc(d.ResolvedAt), ResolvedBy: d.ResolvedBy}
}

// DeadStep gives one entry with its history and inputs.
func (r *Reader) DeadStep(ctx context.Context, tenant, id string) (wire.DeadStepDetail, error) {
	var out wire.DeadStepDetail
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		row, err := db.GetDead(ctx, tenant, id)
		if err != nil {
			return missing(err, "no entry %s in the DLQ", clip(id))
		}
		list, err := details(ctx, db, tenant, []wire.DeadStep{deadStep(row)})
		if err == nil {
			out = list[0]
		}
		return err
	})
	return out, err
}

// DeadPage is a page of an export, and the cursor of the next one; "" = it is
// the last.
func (r *Reader) DeadPage(ctx context.Context, tenant string, f wire.DeadFilter, cursor string) (page []wire.DeadStepDetail, next string, err error) {
	err = r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		list, err := dead(ctx, db, tenant, f, exportPage, cursor)
		if err != nil {
			return err
		}
		next = list.NextCursor
		page, err = details(ctx, db, tenant, list.Entries)
		return err
	})
	return page, next, err
}

func details(ctx context.Context, db *pgdb.Queries, tenant string, list []wire.DeadStep) ([]wire.DeadStepDetail, error) {
	ids := make([]string, len(list))
	for i, e := range list {
		ids[i] = e.ID
	}
	rows, err := db.DeadDetails(ctx, tenant, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]pgdb.DeadDetailsRow, len(rows))
	for _, row := range rows {
		byID[row.ID] = row
	}
	out := make([]wire.DeadStepDetail, len(list))
	for i, e := range list {
		row := byID[e.ID]
		out[i] = wire.DeadStepDetail{DeadStep: e, Inputs: row.Inputs, History: []wire.DeadAttempt{}}
		if err := json.Unmarshal(row.History, &out[i].History); err != nil {
			return nil, step.Errorf(step.KindInternal, "history of entry %s: %w", e.ID, err)
		}
	}
	return out, nil
}
