package queue

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	reapMost     = 200
	sequenceMost = 1000
	sweepBatch   = 1000 // idempotency keys in one statement
	sweepMost    = 20   // statements in one tick
)

// Reap is one tick of the background work: it ends expired leases, frees what
// lost workers held, fails what nobody can take. Of several replicas one does
// it at a time.
func (q *Queue) Reap(ctx context.Context) error {
	errs := []error{q.settle(ctx)} // of every replica, and also while nothing may expire
	mine, may, err := q.tick(ctx)
	if err != nil || !mine {
		return errors.Join(append(errs, err)...)
	}
	if may { // what is held against workers that were not heard of
		errs = append(errs, q.expire(ctx), q.loseWorkers(ctx), q.forsake(ctx))
	}
	errs = append(errs, q.mendKeys(ctx), q.unpark(ctx), q.placeQueued(ctx), q.failStranded(ctx)) // the latter two know of the hold by themselves
	if may {
		errs = append(errs, q.failQueued(ctx, step.CauseLost, q.orphaned))
	}
	errs = append(errs, q.forgetKeys(ctx))
	return errors.Join(errs...)
}

// forgetKeys drops idempotency keys whose time is over, as many as one tick can.
func (q *Queue) forgetKeys(ctx context.Context) error {
	for range sweepMost {
		var n int64
		err := q.db.System(ctx, func(db *pgdb.Queries) (err error) {
			n, err = db.SweepIdempotency(ctx, sweepBatch)
			return err
		})
		if err != nil || n < sweepBatch {
			return err
		}
	}
	return nil
}

// tick notes that a reaper lives and tells whether it is this one, and whether
// leases may expire now: not in the lease after a time without one.
func (q *Queue) tick(ctx context.Context) (mine, may bool, err error) {
	var back time.Duration
	err = q.db.System(ctx, func(db *pgdb.Queries) (err error) {
		back = 0
		mine, err = db.TryReaper(ctx)
		if err != nil || !mine {
			return err
		}
		tick, err := db.Tick(ctx, seconds(q.reapPause()), seconds(q.cfg.Lease))
		if err != nil {
			return err
		}
		may = tick.MayExpire
		if tick.BackSeconds > slewed.Seconds() {
			back = time.Duration(tick.BackSeconds * float64(time.Second))
			return q.goBack(ctx, db, tick.BackSeconds)
		}
		return nil
	})
	if err == nil && back > 0 {
		q.log.LogAttrs(ctx, slog.LevelWarn, "the database's clock has gone back: what is queued, leased or to be tried again counts from now", slog.Duration("by", back))
	}
	return mine, may, err
}

// slewed is how far a clock may go back without more than that everything comes
// so much later.
const slewed = time.Second

// goBack moves what is to come by what the clock has gone back by. Otherwise a
// step that was queued before would wait for the clock to get there, and a lost
// worker's leases would last until then.
func (q *Queue) goBack(ctx context.Context, db *pgdb.Queries, by float64) error {
	if err := db.TakeTime(ctx); err != nil {
		return err
	}
	return db.GoBack(ctx, by, seconds(q.cfg.Lease))
}

// reapPause is how long no tick may come before it counts as an outage.
func (q *Queue) reapPause() time.Duration { return max(q.cfg.Lease/3, 2*q.ReapEvery()) }

// ReapEvery is how often Reap is to be called. Between two calls nobody sees
// that a driver was there, which must be little next to the wait for one.
func (q *Queue) ReapEvery() time.Duration {
	every := min(max(q.cfg.Lease/20, 50*time.Millisecond), 5*time.Second)
	for _, wait := range []time.Duration{q.cfg.DriverWait, q.cfg.RegionWait} {
		if wait > 0 {
			every = min(every, wait/4)
		}
	}
	return every
}

func (q *Queue) expire(ctx context.Context) error {
	c := noChange()
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		ids, err := db.ExpiredAttempts(ctx, reapMost)
		if err != nil || len(ids) == 0 {
			return err
		}
		runs, err := db.LockRunsOf(ctx, ids)
		if err != nil {
			return err
		}
		rows, err := db.LockExpired(ctx, ids)
		if err != nil || len(rows) == 0 {
			return err
		}
		c = newChange(runs)
		var p pgdb.LoseAttemptsParams
		for _, row := range rows {
			v := step.Verdict{Cause: step.CauseLost, Attested: step.AttestedKernel, Message: "the worker did not renew its lease"}
			raw, err := json.Marshal(v)
			if err != nil {
				return err
			}
			p.Ids, p.Epochs, p.Verdicts = append(p.Ids, row.ID), append(p.Epochs, row.Epoch), append(p.Verdicts, string(raw))
			if err := c.end(fromExpired(row), wire.VerdictRecord{Verdict: v}); err != nil {
				return err
			}
		}
		n, err := db.LoseAttempts(ctx, p)
		if err != nil {
			return err
		}
		if n != int64(len(p.Ids)) {
			return step.Errorf(step.KindConflict, "an expired lease was renewed")
		}
		q.log.LogAttrs(ctx, slog.LevelWarn, "leases expired", slog.Any("attempts", p.Ids))
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
		q.judge(ctx, c.health)
	}
	return err
}

func fromExpired(r pgdb.LockExpiredRow) attemptRow {
	return attemptRow{
		ID: r.ID, TenantID: r.TenantID, RunID: r.RunID, StepID: r.StepID, Generation: r.Generation, Number: r.Number, Epoch: r.Epoch,
		Status: r.Status, JournalN: r.JournalN, OutputBytes: r.OutputBytes, BlobBytes: r.BlobBytes, StartedAt: r.StartedAt,
		Name: r.Name, Tries: r.Tries, Losses: r.Losses, BackoffMs: r.BackoffMs, Retry: r.Retry, Network: r.Network, Idempotent: r.Idempotent,
		Dependants: r.Dependants, Shares: r.Shares, Reads: r.Reads, Shown: r.Shown, Driver: r.Driver,
		BreakerGeneration: r.BreakerGeneration, Probe: r.Probe, Region: r.Region, Placed: r.Placed, Lane: r.Lane, Drivers: r.Drivers, Place: r.Place, ConcurrencyKey: r.ConcurrencyKey, Touched: r.Touched, NextServed: r.NextServed,
	}
}

func (q *Queue) loseWorkers(ctx context.Context) error {
	return q.db.System(ctx, func(db *pgdb.Queries) error {
		lost, err := db.LoseWorkers(ctx, seconds(q.cfg.Lease))
		if err != nil {
			return err
		}
		for _, w := range lost {
			q.log.LogAttrs(ctx, slog.LevelWarn, "worker lost", slog.String("worker", w.ID))
			if err := (workerNews{{kind: step.EventWorkerLost}}).write(ctx, db, w.TenantID, w.ID); err != nil {
				return err
			}
		}
		if err := db.DropWorkerEvents(ctx, keepWorkerEvents.Seconds()); err != nil {
			return err
		}
		return db.DropBreakerEvents(ctx, keepBreakerEvents.Seconds())
	})
}

// Sequence gives committed events their global order. It returns how many
// outbox rows it moved.
func (q *Queue) Sequence(ctx context.Context) (moved int64, err error) {
	err = q.db.System(ctx, func(db *pgdb.Queries) error {
		mine, err := db.TrySequencer(ctx)
		if err != nil || !mine {
			return err
		}
		moved, err = db.Sequence(ctx, sequenceMost)
		return err
	})
	return moved, err
}

// Poll wakes a few claims when steps wait that are due, for those that no wake
// told of: retries whose time has come, and what other replicas could not say.
func (q *Queue) Poll(ctx context.Context) error {
	if q.hub.Waiting() == 0 {
		return nil
	}
	var waits bool
	err := q.db.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		waits, err = db.QueueWaits(ctx)
		return err
	})
	if err == nil && waits {
		q.hub.Some(pollWakes)
	}
	return err
}

const pollWakes = 8
