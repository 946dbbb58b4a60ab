package retention

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// share is the one of a collection that comes next: one after the other from
// any on, so that a process that does one only and ends does not do the same
// each time.
type share struct{ done atomic.Int64 }

func (s *share) next() int {
	s.done.CompareAndSwap(0, rand.Int64N(blob.Shares)+1)
	return int(s.done.Add(1) % blob.Shares)
}

// Collect removes bytes that nobody refers to from one share of the folder; all
// of it takes blob.Shares calls. In the lease after an outage it does nothing,
// since workers may still have a verdict on what they uploaded before.
func (s *Service) Collect(ctx context.Context) error {
	var state pgdb.MayCollectRow
	err := s.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		state, err = db.MayCollect(ctx)
		return err
	})
	if err != nil || !state.May {
		return err
	}
	if err := s.Blobs.Belongs(state.Installation); err != nil {
		return err
	}
	c, err := s.Blobs.Collect(ctx, s.share.next(), time.Now().Add(-orphanAge), references{s.DB})
	s.Observer.Collected(c)
	if c != (blob.Collected{}) {
		s.Log.LogAttrs(ctx, slog.LevelInfo, "collected blobs that nobody refers to", slog.Int("artifacts", c.Artifacts), slog.Int("segments", c.Segments),
			slog.Int("uploads", c.Uploads), slog.Int64("bytes", c.Bytes))
	}
	return err
}

// references are those that the database has.
type references struct{ db *pg.DB }

// Artifacts gives the hashes that an artifact of the tenant has.
func (r references) Artifacts(ctx context.Context, tenant string, sums []string) (known []string, err error) {
	err = r.db.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		known, err = db.KnownBlobs(ctx, sums, tenant)
		return err
	})
	return known, err
}

// Attempts gives those that are there.
func (r references) Attempts(ctx context.Context, tenant string, ids []string) (known []string, err error) {
	err = r.db.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		known, err = db.KnownAttempts(ctx, ids, tenant)
		return err
	})
	return known, err
}
