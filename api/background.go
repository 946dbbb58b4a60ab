package api

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

const (
	pollEvery     = 250 * time.Millisecond
	sequenceEvery = 500 * time.Millisecond
	tickTimeout   = 20 * time.Second
	healthTimeout = 2 * time.Second
)

// every calls do at an interval until ctx is done, each time for so long at most.
func (a *API) every(ctx context.Context, name string, interval time.Duration, do func(context.Context) error) error {
	return a.over(ctx, name, interval, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, tickTimeout)
		defer cancel()
		return do(ctx)
	})
}

// over calls do over and over until ctx is done. A failure is logged when it
// begins and when it is over, not each time.
func (a *API) over(ctx context.Context, name string, interval time.Duration, do func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := do(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			a.log.LogAttrs(ctx, slog.LevelWarn, "background work fails", slog.String("work", name), slog.Any("err", pg.Cause(err)))
		case err == nil && failing:
			a.log.LogAttrs(ctx, slog.LevelInfo, "background work goes on", slog.String("work", name))
		}
		failing = err != nil
	}
}

// sequence moves the outbox until it is empty.
func (a *API) sequence(ctx context.Context) error {
	for {
		moved, err := a.queue.Sequence(ctx)
		if err != nil || moved == 0 {
			return err
		}
	}
}

// tick does all background work once. One that fails does not keep the others,
// and none waits for the receivers of alerts.
func (a *API) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tickTimeout)
	defer cancel()
	var errs []error
	work := func(all ...func(context.Context) error) {
		for _, do := range all {
			errs = append(errs, do(ctx))
		}
	}
	work(a.queue.Reap, a.queue.Turns, a.sequence, a.queue.NoteSpent, a.queue.NotePressure, a.alerts.Tick)
	delivered := make(chan error, 1)
	go func() { delivered <- a.alerts.Deliver(ctx) }()
	work(a.retention.Tick, a.retention.Collect)
	return errors.Join(append(errs, <-delivered)...)
}

// health checks what requests need.
func (a *API) health(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	checks := map[string]string{"database": "ok", "blobs": "ok"}
	if err := a.db.Ping(ctx); err != nil {
		checks["database"] = err.Error()
	}
	if err := a.blobs.Check(); err != nil {
		checks["blobs"] = "the folder cannot be used"
	}
	select {
	case <-a.stopping:
		checks["server"] = "stopping"
	default:
	}
	return checks
}

// keys looks API keys up in the database.
type keys struct{ db *pg.DB }

// UseKey finds the key with this hash and notes that it was used.
func (k keys) UseKey(ctx context.Context, hash []byte) (auth.Principal, error) {
	var who auth.Principal
	err := k.db.SystemQuery(ctx, func(q *pgdb.Queries) error {
		row, err := q.UseKey(ctx, hash)
		who = auth.Principal{KeyID: row.ID, TenantID: row.TenantID, Role: auth.Role(row.Role)}
		return err
	})
	return who, err
}
