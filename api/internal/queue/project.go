package queue

import (
	"context"
	"slices"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// makeProjects makes those that are not there, as far as a tenant may have
// more: anybody with a key can name another with each run.
func (q *Queue) makeProjects(ctx context.Context, db *pgdb.Queries, tenant string, ids []string) error {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	if err := db.LockProjects(ctx, tenant); err != nil {
		return err
	}
	fresh, err := db.NewProjects(ctx, ids, tenant)
	if err != nil || len(fresh) == 0 {
		return err
	}
	have, err := db.CountProjects(ctx, tenant, i32(q.cfg.MaxProjects))
	if err != nil {
		return err
	}
	if int(have)+len(fresh) > q.cfg.MaxProjects {
		return invalid("header.x-project-id", "%q (from there or from projectId) is none of the tenant's projects, of which it may have %d: name one of those, or have the operator raise NOFX_MAX_PROJECTS",
			fresh[0], q.cfg.MaxProjects)
	}
	return db.EnsureProjects(ctx, tenant, fresh)
}
