package queue

import (
	"context"
	"slices"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

const (
	unparkMost = 100  // steps of one key that come back at once
	keysMost   = 1000 // that one look goes through
)

// keys are concurrency keys of tenants.
type keys struct{ tenants, names []string }

// add notes that an attempt's step does not run any more.
func (k *keys) add(a attemptRow) {
	if a.ConcurrencyKey != "" {
		k.tenants, k.names = append(k.tenants, a.TenantID), append(k.names, a.ConcurrencyKey)
	}
}

// pass lets the next steps with these keys have their turn. Whoever has passed
// keys may wait after that only for what nobody holds who waits for a key.
func (k *keys) pass(ctx context.Context, db *pgdb.Queries, spare int32) ([]place, error) {
	if len(k.names) == 0 {
		return nil, nil
	}
	if err := db.PassKeys(ctx, k.tenants, k.names); err != nil {
		return nil, err
	}
	rows, err := db.Unpark(ctx, pgdb.UnparkParams{TenantIds: k.tenants, Keys: k.names, Most: unparkMost, Spare: spare})
	out := make([]place, len(rows))
	for i, r := range rows {
		out[i] = place{r.Driver, r.Region, r.Pin}
	}
	return out, err
}

// ensureKeys makes the rows that claims count by, as far as steps have keys.
func ensureKeys(ctx context.Context, db *pgdb.Queries, tenant string, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" })
	if len(names) == 0 {
		return nil
	}
	return db.EnsureKeys(ctx, tenant, names)
}

// unpark looks at all keys that steps are parked for. What the ends of steps
// have let pass may be where no worker takes it; those behind it go then, many
// at once, since as many may be there. Claims park again what is too many.
func (q *Queue) unpark(ctx context.Context) error {
	var after pgdb.ParkedKeysRow
	for {
		var back []place
		var n int
		err := q.db.System(ctx, func(db *pgdb.Queries) error {
			rows, err := db.ParkedKeys(ctx, pgdb.ParkedKeysParams{AfterTenant: after.TenantID, AfterKey: after.Key, Most: keysMost})
			if err != nil || len(rows) == 0 {
				n = 0
				return err
			}
			var k keys
			for _, r := range rows {
				k.tenants, k.names = append(k.tenants, r.TenantID), append(k.names, r.Key)
			}
			n, after = len(rows), rows[len(rows)-1]
			back, err = k.pass(ctx, db, unparkMost)
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range back {
			q.hub.Queued(p.driver, p.region, p.pin)
		}
		if n < keysMost {
			return nil
		}
	}
}

// mendKeys keeps the rows that claims count by: those that are needed are
// there, those that are not are forgotten.
func (q *Queue) mendKeys(ctx context.Context) error {
	return q.db.System(ctx, func(db *pgdb.Queries) error {
		if err := db.MendKeys(ctx); err != nil {
			return err
		}
		_, err := db.DropKeys(ctx, keysMost)
		return err
	})
}
