package queue

import (
	"context"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Discard says what is to become of entries that nobody wants to try again.
type Discard struct {
	Choice
	DryRun    bool
	Once      Once
	RequestID string
}

// DiscardOne ends one entry.
func (q *Queue) DiscardOne(ctx context.Context, who auth.Principal, id string, d Discard) (wire.Resolved, bool, error) {
	d.IDs = []string{id}
	return once(ctx, q, who, d.Once, func(db *pgdb.Queries) (wire.Resolved, error) {
		done, err := d.apply(ctx, db, who)
		if err == nil {
			err = done.why[id]
		}
		return done.Resolved, err
	})
}

// DiscardMany ends all that are chosen, or tells which it would end.
func (q *Queue) DiscardMany(ctx context.Context, who auth.Principal, d Discard) (wire.Resolved, bool, error) {
	more, err := q.choose(ctx, who, &d.Choice)
	if err != nil {
		return wire.Resolved{}, false, err
	}
	return once(ctx, q, who, d.Once, func(db *pgdb.Queries) (wire.Resolved, error) {
		done, err := d.apply(ctx, db, who)
		d.goOn(&done, more)
		return done.Resolved, err
	})
}

func (d Discard) apply(ctx context.Context, db *pgdb.Queries, who auth.Principal) (resolved, error) {
	done := resolved{Resolved: wire.Resolved{DryRun: d.DryRun, Done: []string{}, Refused: []wire.RefusedOne{}}, why: map[string]error{}}
	entries, err := db.LockDead(ctx, who.TenantID, d.IDs)
	if err != nil {
		return done, err
	}
	state := make(map[string]string, len(entries))
	for _, e := range entries {
		state[e.ID] = e.State
	}
	for _, id := range d.IDs {
		switch s, known := state[id]; {
		case !known:
			done.refuse(id, step.Errorf(step.KindNotFound, "no entry %s in the DLQ", clip(id)))
		case s != wire.DeadOpen:
			done.refuse(id, conflict("entry %s is %s already", id, s))
		default:
			done.Done = append(done.Done, id)
		}
	}
	if d.DryRun || len(done.Done) == 0 {
		return done, nil
	}
	if _, err := db.ResolveDead(ctx, pgdb.ResolveDeadParams{TenantID: who.TenantID, Principal: who.KeyID, State: wire.DeadDiscarded, Ids: done.Done}); err != nil {
		return done, err
	}
	for _, id := range done.Done {
		if err := auditOf(ctx, db, who, "dlq.discard", id, d.RequestID, map[string]any{}); err != nil {
			return done, err
		}
	}
	return done, nil
}
