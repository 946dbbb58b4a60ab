// Package quota knows what a tenant was charged in a month, and what it may be.
package quota

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Month is the tenant's current month, by the database's clock.
func Month(ctx context.Context, db *pgdb.Queries, tenant string) (wire.MonthUsage, error) {
	row, err := db.MonthUsage(ctx, tenant)
	if err != nil {
		return wire.MonthUsage{}, err
	}
	begin, err := time.Parse("2006-01", row.Month)
	if err != nil {
		return wire.MonthUsage{}, fmt.Errorf("month %q: %w", row.Month, err)
	}
	u := wire.MonthUsage{Month: row.Month, EndsAt: begin.AddDate(0, 1, 0), ComputeMinutes: minutes(row.ComputeMs)}
	if row.Bounded {
		most := minutes(row.MostMs)
		u.MaxComputeMinutes = &most
	}
	return u, nil
}

// Check refuses a run of a tenant that has used up its month.
func Check(ctx context.Context, db *pgdb.Queries, tenant string, now time.Time) error {
	u, err := Month(ctx, db, tenant)
	if err != nil || !Spent(u) {
		return err
	}
	return &step.Error{Kind: step.KindRateLimited, Message: Refusal(u), RetryAfter: max(u.EndsAt.Sub(now), time.Second)}
}

// Spent tells whether the quota is used up.
func Spent(u wire.MonthUsage) bool {
	return u.MaxComputeMinutes != nil && u.ComputeMinutes >= *u.MaxComputeMinutes
}

// Refusal says in words that the quota is used up.
func Refusal(u wire.MonthUsage) string {
	return fmt.Sprintf("the tenant's quota max_compute_minutes_per_month is used up: %.2f of %.2f in %s; a new month begins at %s, or the operator raises it",
		u.ComputeMinutes, *u.MaxComputeMinutes, u.Month, u.EndsAt.Format(time.RFC3339))
}

// minutes keeps two places, and never says more than there is.
func minutes(ms int64) float64 { return math.Floor(float64(ms)/600) / 100 }
