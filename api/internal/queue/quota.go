package queue

import (
	"context"
	"hash/fnv"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// QuotasEvery is how often NoteSpent is to be called: for that long, and by
// what runs already, a tenant may use more than its quota.
const QuotasEvery = time.Second

// usageParts is how many rows a tenant's month has at most, so that workers
// seldom wait for each other.
const usageParts = 16

// spent are the tenants that have used up their month, as of the last look.
type spent struct{ tenants atomic.Pointer[[]string] }

func (s *spent) list() []string {
	if p := s.tenants.Load(); p != nil {
		return *p
	}
	return []string{}
}

// few are the tenants that may run only so many steps at once, as of the
// last look.
type few struct{ tenants atomic.Pointer[[]string] }

func (b *few) has(tenant string) bool {
	p := b.tenants.Load()
	return p != nil && slices.Contains(*p, tenant)
}

// NoteSpent looks who has used up a quota: nothing is claimed for them until
// they may use more. Claims that wait are woken when one may.
func (q *Queue) NoteSpent(ctx context.Context) error {
	var now, bounded []string
	err := q.db.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		if now, err = db.SpentTenants(ctx); err != nil {
			return err
		}
		bounded, err = db.BoundedTenants(ctx)
		return err
	})
	if err != nil {
		return err
	}
	q.bounded.tenants.Store(&bounded)
	before := q.spent.list()
	q.spent.tenants.Store(&now)
	if slices.ContainsFunc(before, func(t string) bool { return !slices.Contains(now, t) }) {
		q.hub.More()
	}
	return nil
}

// charge adds what a journal batch ended to the tenants' month. What
// infrastructure lost is not charged, and what never began used nothing.
func charge(ctx context.Context, db *pgdb.Queries, worker string, ended []*progress) error {
	p := pgdb.ChargeParams{Part: part(worker)}
	for _, a := range ended {
		if a.verdict == nil || a.verdict.Verdict.Cause.Infrastructure() || a.start == nil && a.row.StartedAt == nil {
			continue
		}
		p.TenantIds, p.StepIds = append(p.TenantIds, a.row.TenantID), append(p.StepIds, a.row.StepID)
		p.WallsMs = append(p.WallsMs, min(max(a.verdict.Verdict.Usage.WallMS, 0), maxCharge.Milliseconds()))
	}
	if len(p.StepIds) == 0 {
		return nil
	}
	return db.Charge(ctx, p)
}

// maxCharge bounds what a worker can say that one attempt took.
const maxCharge = 31 * 24 * time.Hour

func part(worker string) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(worker))
	return int32(h.Sum32() % usageParts) //nolint:gosec // below 16
}
