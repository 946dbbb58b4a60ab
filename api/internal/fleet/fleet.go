// Package fleet knows which drivers the workers of this installation have, so
// that steps can name drivers that NOFX itself has never heard of.
package fleet

import (
	"context"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
)

const (
	remember = 5 * time.Second
	recent   = 6 * time.Hour // a worker seen since then may come back
)

// Drivers reads them from the workers' rows and remembers them for a moment.
// It is safe for concurrent use.
type Drivers struct {
	DB *pg.DB

	mu    sync.Mutex
	known map[string]plan.Driver
	until time.Time
}

var _ plan.Drivers = (*Drivers)(nil)

// Known is every driver that a worker has, healthy or not, by name. A worker
// counts while it lives and for some hours after.
func (d *Drivers) Known(ctx context.Context, fresh bool) (map[string]plan.Driver, error) {
	now := time.Now()
	d.mu.Lock()
	known, until := d.known, d.until
	d.mu.Unlock()
	if !fresh && now.Before(until) {
		return known, nil
	}
	known = map[string]plan.Driver{}
	err := d.DB.SystemQuery(ctx, func(db *pgdb.Queries) error {
		rows, err := db.KnownDrivers(ctx, recent.Seconds())
		for _, row := range rows {
			known[row.Name] = plan.Driver{OnHost: row.OnHost}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known, d.until = known, now.Add(remember)
	return known, nil
}
