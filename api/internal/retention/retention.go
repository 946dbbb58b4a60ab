// Package retention removes what has ended when its time is over: runs whole,
// artifacts on their own when their time is shorter, and bytes that nobody
// refers to.
//
// A run that is due is marked first and is gone for its tenant from then on.
// Its rows go in slices, each a transaction of its own, so that no lock is held
// for long whatever a run's size; whoever stops in between leaves marked runs
// that the next caller goes on with. A run with an open entry in the DLQ stays.
// The audit log is not touched.
package retention

import (
	"context"
	"log/slog"
	"time"

	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

const (
	// Every is how often Tick and Collect are to be called.
	Every = time.Minute
	// Least is the shortest time that something is kept: as long as a repeat of
	// the request that made it gives the same answer.
	Least = 24 * time.Hour
	// Longest is the longest one that is not for ever.
	Longest = 10 * 365 * 24 * time.Hour

	budget    = 15 * time.Second // of one call
	markMost  = 100              // runs that are marked at once
	groupMost = 2000             // events, about, of the runs that go at once
	sliceMost = 5000             // rows of a big table that go at once
	keepUsage = 3 * 366          // days that sums of use are kept
	// orphanAge is how old bytes are that are nobody's when they go: a day after
	// they were uploaded a verdict may still name them, and takes some time.
	orphanAge = 25 * time.Hour
)

// Keep is how long things are kept for tenants that have no times of their own.
type Keep struct {
	Runs      time.Duration `env:"NOFX_RETAIN_RUNS" envDefault:"720h"`    // from their end; 0 = for ever
	Artifacts time.Duration `env:"NOFX_RETAIN_ARTIFACTS" envDefault:"0s"` // from when they were made; 0 = as long as their run
}

// Removed counts what went.
type Removed struct {
	Runs, Steps, Attempts, Events, Output, Artifacts, Layers, Log, Dead int64
	Ended                                                               int64 // artifacts whose rows stay
}

// Observer hears what went, for metrics. It returns at once.
type Observer interface {
	Removed(Removed)
	Collected(blob.Collected)
}

// Service is safe for concurrent use; any number of replicas may call it.
type Service struct {
	DB       *pg.DB
	Blobs    *blob.Dir // nil = Collect is not called
	Keep     Keep
	Observer Observer
	Log      *slog.Logger

	share share
}

// Tick removes what is due until nothing is, or its time is over. Of several
// replicas one does it at a time.
func (s *Service) Tick(ctx context.Context) error {
	end := time.Now().Add(budget)
	if by, ok := ctx.Deadline(); ok { // what comes after it needs some, too
		end = earlier(end, time.Now().Add(time.Until(by)*3/4))
	}
	var sum Removed
	defer func() {
		if sum.Runs > 0 || sum.Ended > 0 {
			s.Log.LogAttrs(ctx, slog.LevelInfo, "removed what was due", slog.Int64("runs", sum.Runs), slog.Int64("steps", sum.Steps), slog.Int64("artifacts", sum.Ended))
		}
	}()
	for time.Now().Before(end) {
		began := time.Now()
		r, more, err := s.next(ctx)
		s.Observer.Removed(r)
		sum.Runs, sum.Steps, sum.Ended = sum.Runs+r.Runs, sum.Steps+r.Steps, sum.Ended+r.Ended
		if err != nil || !more {
			return err
		}
		// As long as it worked it leaves the database to others.
		pause := time.NewTimer(time.Since(began))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// next removes a slice of what is marked or, when nothing is, marks what is
// due. more tells that there may be others.
func (s *Service) next(ctx context.Context) (r Removed, more bool, err error) {
	err = s.DB.System(ctx, func(db *pgdb.Queries) error {
		r, more = Removed{}, false
		mine, err := db.TryRetention(ctx)
		if err != nil || !mine {
			return err
		}
		if more, err = r.slice(ctx, db); err != nil || more {
			return err
		}
		marked, err := db.MarkDue(ctx, seconds(s.Keep.Runs), markMost)
		if err != nil {
			return err
		}
		if r.Ended, err = db.EndArtifacts(ctx, seconds(s.Keep.Artifacts), sliceMost); err != nil {
			return err
		}
		more = marked > 0 || r.Ended == sliceMost
		_, err = db.DropOldUsage(ctx, keepUsage)
		return err
	})
	return r, more, err
}

// slice removes some rows of marked runs, and the runs with their last ones.
// some tells that there were any.
func (r *Removed) slice(ctx context.Context, db *pgdb.Queries) (some bool, err error) {
	rows, err := db.LockMarked(ctx, markMost)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	ids, events := []string{}, int64(0)
	for _, row := range rows {
		if events += row.Events; len(ids) > 0 && events > groupMost {
			break
		}
		ids = append(ids, row.ID)
	}
	if r.Output, err = db.DropOutput(ctx, ids, sliceMost); err != nil || r.Output == sliceMost {
		return true, err
	}
	if r.Events, err = db.DropEvents(ctx, ids, sliceMost); err != nil || r.Events == sliceMost {
		return true, err
	}
	return true, r.whole(ctx, db, ids)
}

// whole removes runs whose big tables hold nothing more of them.
func (r *Removed) whole(ctx context.Context, db *pgdb.Queries, ids []string) error {
	if err := db.KeepUsage(ctx, ids); err != nil {
		return err
	}
	for _, drop := range []struct {
		count *int64
		do    func(context.Context, []string) (int64, error)
	}{
		{&r.Artifacts, db.DropArtifactRows}, {&r.Layers, db.DropLayers}, {&r.Dead, db.DropDead}, {&r.Attempts, db.DropAttempts},
		{&r.Steps, db.DropSteps}, {&r.Log, db.DropLog}, {&r.Runs, db.DropRuns},
	} {
		n, err := drop.do(ctx, ids)
		if err != nil {
			return err
		}
		*drop.count = n
	}
	return nil
}

// Lag is for how long the run has been due that has been for the longest.
func (s *Service) Lag(ctx context.Context) (lag time.Duration, err error) {
	err = s.DB.SystemQuery(ctx, func(db *pgdb.Queries) error {
		n, err := db.RetentionLag(ctx, seconds(s.Keep.Runs))
		lag = time.Duration(n * float64(time.Second))
		return err
	})
	return lag, err
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
