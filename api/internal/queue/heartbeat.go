package queue

import (
	"context"
	"slices"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	maxHold       = 30 * time.Second // of a heartbeat that waits
	unlistedGrace = 3                // heartbeats
)

// Heartbeat renews leases at once, then waits up to in.WaitMS for something
// that the worker does not know yet.
func (q *Queue) Heartbeat(ctx context.Context, who auth.Principal, in wire.Heartbeat) (wire.HeartbeatAnswer, error) {
	switch {
	case len(in.Held) > maxHeld || len(in.Runs) > maxHeld:
		return wire.HeartbeatAnswer{}, invalid("body.held", "at most %d", maxHeld)
	case len(in.Swept) > wire.MaxSwept:
		return wire.HeartbeatAnswer{}, invalid("body.swept", "at most %d", wire.MaxSwept)
	case in.WaitMS < 0 || in.WaitMS > maxHold.Milliseconds():
		return wire.HeartbeatAnswer{}, invalid("body.wait_ms", "must be 0 to %d", maxHold.Milliseconds())
	}
	woken, cancel := q.hub.Wait(wake.Worker(in.WorkerID))
	defer cancel()
	b := beat{q: q, who: who, in: in, fences: split(in.Held)}
	if err := b.see(ctx); err != nil {
		return wire.HeartbeatAnswer{}, err
	}
	end := time.NewTimer(time.Duration(in.WaitMS) * time.Millisecond)
	defer end.Stop()
	for !b.news() {
		select {
		case <-woken:
			if err := b.look(ctx); err != nil {
				return wire.HeartbeatAnswer{}, err
			}
			continue
		case <-end.C:
		case <-ctx.Done():
			return wire.HeartbeatAnswer{}, step.Errorf(step.KindUnavailable, "the request was given up")
		}
		break
	}
	q.told.note(in.Incarnation, b.heard())
	return b.answer, nil
}

type beat struct {
	q      *Queue
	who    auth.Principal
	in     wire.Heartbeat
	fences fenceLists
	answer wire.HeartbeatAnswer
}

// news reports whether the answer holds an order that was not given yet.
func (b *beat) news() bool {
	return len(b.answer.Closed) > 0 || b.q.told.fresh(b.in.Incarnation, b.answer.Cancel)
}

// heard are the orders for leases that the worker listed. It may not know one
// that it is being given at this moment, and then drops the order for it: that
// one is told again.
func (b *beat) heard() []wire.CancelOrder {
	var out []wire.CancelOrder
	for _, o := range b.answer.Cancel {
		if slices.ContainsFunc(b.in.Held, func(l wire.Fence) bool { return l.AttemptID == o.AttemptID }) {
			out = append(out, o)
		}
	}
	return out
}

// see notes what the worker says, and begins the answer.
func (b *beat) see(ctx context.Context) error {
	if nothing(b.in) {
		if done, err := b.idle(ctx); done || err != nil {
			return err
		}
	}
	if err := b.renew(ctx); err != nil {
		return err
	}
	return b.ended(ctx)
}

func (b *beat) renew(ctx context.Context) error {
	drivers, err := driversOf(b.in.Drivers)
	if err != nil {
		return err
	}
	q, in, f := b.q, b.in, b.fences
	return q.db.System(ctx, func(db *pgdb.Queries) error {
		old, err := db.SeeWorker(ctx, pgdb.SeeWorkerParams{Held: i32(len(in.Held)), Drivers: drivers, Draining: in.Draining,
			ID: in.WorkerID, Incarnation: in.Incarnation, KeyID: b.who.KeyID})
		if none(err) {
			return known(ctx, db, b.who, in.WorkerID, in.Incarnation)
		}
		if err != nil {
			return err
		}
		news, err := newsOf(old.Drivers, in.Drivers)
		if err != nil {
			return err
		}
		news = append(news, sweptNews(in.Swept)...)
		if old.Status == "lost" {
			news = append(news, workerEvent{kind: step.EventWorkerUp})
		}
		if err := news.write(ctx, db, old.TenantID, in.WorkerID); err != nil {
			return err
		}
		renewed, err := b.renewed(ctx, db)
		if err != nil {
			return err
		}
		if err := db.ForgetUnlisted(ctx, pgdb.ForgetUnlistedParams{WorkerID: in.WorkerID, Held: f.ids,
			GraceSeconds: unlistedGrace * seconds(q.cfg.Heartbeat)}); err != nil {
			return err
		}
		holding, err := db.Holding(ctx, b.holding())
		if err != nil {
			return err
		}
		barriers, err := barriers(ctx, db)
		if err != nil {
			return err
		}
		b.answer = wire.HeartbeatAnswer{LeaseMS: q.cfg.Lease.Milliseconds(), Renewed: renewed, Ended: []string{}, Barriers: barriers}
		b.set(holding)
		return nil
	})
}

// renewed prolongs the leases that the worker lists and gives their ids.
func (b *beat) renewed(ctx context.Context, db *pgdb.Queries) ([]string, error) {
	ids := []string{}
	if len(b.fences.ids) == 0 {
		return ids, nil
	}
	f := b.fences
	rows, err := db.RenewLeases(ctx, pgdb.RenewLeasesParams{LeaseSeconds: seconds(b.q.cfg.Lease), WorkerID: b.in.WorkerID, Incarnation: b.in.Incarnation,
		KeyID: b.who.KeyID, Ids: f.ids, Generations: f.generations, Numbers: f.numbers, Epochs: f.epochs})
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// mostKept is how many failed runs keep their workspaces on one worker.
const mostKept = 50

// ended tells which of the runs need their workspaces no more.
func (b *beat) ended(ctx context.Context) error {
	if len(b.in.Runs) == 0 {
		return nil
	}
	return b.q.db.SystemQuery(ctx, func(db *pgdb.Queries) error {
		ids, err := db.EndedRuns(ctx, pgdb.EndedRunsParams{Ids: b.in.Runs, WorkerID: b.in.WorkerID, Most: mostKept, KeepSeconds: seconds(b.q.cfg.WorkspaceKeep)})
		if err == nil {
			b.answer.Ended = ids
		}
		return err
	})
}

// look asks again what has become of the leases, without renewing them.
func (b *beat) look(ctx context.Context) error {
	return b.q.db.SystemQuery(ctx, func(db *pgdb.Queries) error {
		rows, err := db.Holding(ctx, b.holding())
		if err == nil {
			b.set(rows)
		}
		return err
	})
}

func (b *beat) holding() pgdb.HoldingParams {
	f := b.fences
	return pgdb.HoldingParams{Ids: f.ids, Generations: f.generations, Numbers: f.numbers, Epochs: f.epochs, WorkerID: b.in.WorkerID}
}

func (b *beat) set(rows []pgdb.HoldingRow) {
	b.answer.Cancel, b.answer.Closed = []wire.CancelOrder{}, []string{}
	held := make(map[string]bool, len(rows))
	for _, r := range rows {
		held[r.ID] = true
		if r.CancelAt != nil {
			b.answer.Cancel = append(b.answer.Cancel, wire.CancelOrder{AttemptID: r.ID, Reason: r.CancelReason, GraceMS: r.GraceMs})
		}
	}
	for _, l := range b.in.Held {
		if !held[l.AttemptID] {
			b.answer.Closed = append(b.answer.Closed, l.AttemptID)
		}
	}
}
