package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nofx-run/nofx/sdk/step"
)

// Ping asks both pools for a sign of life.
func (db *DB) Ping(ctx context.Context) error {
	for _, pool := range []*pgxpool.Pool{db.tenant, db.system} {
		if err := pool.Ping(ctx); err != nil {
			return translate(ctx, err)
		}
	}
	return nil
}

// Check makes sure that the database has this program's schema and that both
// roles are what row level security needs: no superuser, no owner, no bypass.
func (db *DB) Check(ctx context.Context) error {
	for name, pool := range map[string]*pgxpool.Pool{"NOFX_DATABASE_URL": db.tenant, "NOFX_SYSTEM_DATABASE_URL": db.system} {
		var user string
		var mighty bool
		err := pool.QueryRow(ctx, `SELECT r.rolname, r.rolsuper OR r.rolbypassrls OR EXISTS (
				SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'nofx' AND c.relowner = r.oid)
			FROM pg_roles r WHERE r.rolname = current_user`).Scan(&user, &mighty)
		if err != nil {
			return translate(ctx, err)
		}
		if mighty {
			return step.Errorf(step.KindForbidden, "%s connects as %s, which is not subject to row level security; use nofx_api and nofx_system", name, user)
		}
	}
	want, err := newestMigration()
	if err != nil {
		return err
	}
	var have int64
	err = db.system.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+versionTable+` WHERE is_applied`).Scan(&have)
	if err != nil {
		return translate(ctx, fmt.Errorf("read the schema's version: %w", err))
	}
	if have < want {
		return step.Errorf(step.KindUnavailable, "the schema is at version %d, this program needs %d: run nofx-api migrate", have, want)
	}
	return nil
}
