package pg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/migrations"
)

// versionTable is goose's, inside our schema so that nothing of ours is public.
const versionTable = "nofx.schema_version"

// Migrate brings the schema up to date, as the owner. Several may run at once:
// an advisory lock lets one work and the others wait. It returns the names of
// the migrations that it applied.
func Migrate(ctx context.Context, ownerURL string) (applied []string, err error) {
	cfg, err := pgx.ParseConfig(ownerURL)
	if err != nil {
		return nil, errors.New("NOFX_ADMIN_DATABASE_URL: not a Postgres URL")
	}
	cfg.ConnectTimeout = connectTimeout
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()

	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
	if err != nil {
		return nil, err
	}
	if err := ensureSchema(ctx, ownerURL); err != nil {
		return nil, err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.Files,
		goose.WithSessionLocker(locker), goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, err
	}
	results, err := provider.Up(ctx)
	for _, r := range results {
		applied = append(applied, r.Source.Path)
	}
	if err != nil {
		return applied, fmt.Errorf("migrate: %w", translate(ctx, err))
	}
	// Replicas read the version to see whether they fit the schema.
	if _, err := db.ExecContext(ctx, "GRANT SELECT ON "+versionTable+" TO nofx_api, nofx_system"); err != nil {
		return applied, translate(ctx, err)
	}
	return applied, nil
}

// ensureSchema makes the schema that holds goose's own table. Two that try at
// once may collide in the catalog; the one that loses finds it there.
func ensureSchema(ctx context.Context, ownerURL string) error {
	return asOwner(ctx, ownerURL, func(conn *pgx.Conn) error {
		var there bool
		if err := conn.QueryRow(ctx, "SELECT to_regnamespace('nofx') IS NOT NULL").Scan(&there); err != nil || there {
			return err
		}
		_, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS nofx")
		if err != nil {
			if again := conn.QueryRow(ctx, "SELECT to_regnamespace('nofx') IS NOT NULL").Scan(&there); again == nil && there {
				return nil
			}
		}
		return err
	})
}

func asOwner(ctx context.Context, ownerURL string, do func(*pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cfg, err := pgx.ParseConfig(ownerURL)
	if err != nil {
		return errors.New("NOFX_ADMIN_DATABASE_URL: not a Postgres URL")
	}
	cfg.ConnectTimeout = connectTimeout
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return translate(ctx, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // everything is committed or lost by then
	return translate(ctx, do(conn))
}

// Owner runs do in a transaction of the schema's owner. It serves the
// subcommands that make tenants and keys.
func Owner(ctx context.Context, ownerURL string, do func(*pgdb.Queries) error) error {
	return asOwner(ctx, ownerURL, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return do(pgdb.New(tx)) })
	})
}

// newestMigration is the number of the last file.
func newestMigration() (int64, error) {
	names, err := fs.Glob(migrations.Files, "*.sql")
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, name := range names {
		n, err := goose.NumericComponent(name)
		if err != nil {
			return 0, err
		}
		newest = max(newest, n)
	}
	return newest, nil
}
