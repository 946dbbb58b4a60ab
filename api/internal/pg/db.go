package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// Config says how to reach the database.
type Config struct {
	TenantURL string // as nofx_api
	SystemURL string // as nofx_system
	MaxConns  int    // of each pool; 0 = 10
	Log       *slog.Logger
}

const (
	defaultConns     = 10
	connectTimeout   = 5 * time.Second
	acquireTimeout   = 5 * time.Second
	statementTimeout = 30 * time.Second
	tries            = 5 // of a transaction that Postgres gave up
)

// DB is the database. It connects when it is first used and again after the
// database was away.
type DB struct {
	tenant *pgxpool.Pool
	system *pgxpool.Pool
	log    *slog.Logger
}

// Open makes the pools. It does not connect; Check does.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultConns
	}
	tenant, err := pool(ctx, cfg.TenantURL, "nofx-api", cfg.MaxConns, nil)
	if err != nil {
		return nil, fmt.Errorf("NOFX_DATABASE_URL: %w", err)
	}
	system, err := pool(ctx, cfg.SystemURL, "nofx-system", cfg.MaxConns, fewRows())
	if err != nil {
		tenant.Close()
		return nil, fmt.Errorf("NOFX_SYSTEM_DATABASE_URL: %w", err)
	}
	return &DB{tenant: tenant, system: system, log: cfg.Log}, nil
}

// fewRows is for statements that each find a few rows by a key. Postgres plans
// them when the tables are new or the queue is empty, and would then read the
// whole of a table that is soon full. A plan without an alternative is still
// taken.
func fewRows() map[string]string {
	return map[string]string{"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
}

func pool(ctx context.Context, url, name string, conns int, planner map[string]string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("not a Postgres URL") // the library's text may quote the password
	}
	cfg.MaxConns = int32(min(conns, 1000)) //nolint:gosec // bounded on this line
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.MaxConnLifetime = time.Hour
	cfg.HealthCheckPeriod = 15 * time.Second
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	params := cfg.ConnConfig.RuntimeParams
	params["application_name"] = name
	params["search_path"] = "pg_catalog"
	params["timezone"] = "UTC"
	// No query here is better planned for the values it is asked with, and a
	// claim is planned for longer than it runs.
	params["plan_cache_mode"] = "force_generic_plan"
	maps.Copy(params, planner)
	params["statement_timeout"] = strconv.FormatInt(statementTimeout.Milliseconds(), 10)
	params["idle_in_transaction_session_timeout"] = strconv.FormatInt(statementTimeout.Milliseconds(), 10)
	return pgxpool.NewWithConfig(ctx, cfg)
}

// Close closes all connections.
func (db *DB) Close() {
	db.tenant.Close()
	db.system.Close()
}

// tenantForm is what the schema allows, too; nothing in it needs quoting.
var tenantForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Tenant runs do in a transaction that sees one tenant's rows and no others.
// do may run more than once.
func (db *DB) Tenant(ctx context.Context, tenant string, do func(*pgdb.Queries) error) error {
	if !tenantForm.MatchString(tenant) {
		return step.Errorf(step.KindInternal, "bad tenant")
	}
	// It is local: it ends with the transaction, however that ends.
	return db.run(ctx, db.tenant, do, "select set_config('nofx.tenant', $1, true)", tenant)
}

// System runs do in a transaction across tenants. do may run more than once.
func (db *DB) System(ctx context.Context, do func(*pgdb.Queries) error) error {
	return db.run(ctx, db.system, do, "")
}

// SystemQuery runs single statements across tenants, without a transaction
// around them.
func (db *DB) SystemQuery(ctx context.Context, do func(*pgdb.Queries) error) error {
	return retry(ctx, func() error {
		conn, err := acquire(ctx, db.system)
		if err != nil {
			return err
		}
		defer conn.Release()
		return do(pgdb.New(conn))
	})
}

func (db *DB) run(ctx context.Context, pool *pgxpool.Pool, do func(*pgdb.Queries) error, first string, args ...any) error {
	err := retry(ctx, func() error {
		conn, err := acquire(ctx, pool)
		if err != nil {
			return err
		}
		defer conn.Release()
		tx := newPipe(conn.Conn(), first, args...)
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
			defer cancel()
			tx.rollback(ctx)
		}()
		if err := do(pgdb.New(tx)); err != nil {
			return err
		}
		return tx.commit(ctx)
	})
	if err != nil {
		db.noteRefused(ctx, err)
	}
	return err
}

func acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	waiting, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	conn, err := pool.Acquire(waiting)
	if err != nil && ctx.Err() == nil {
		return nil, away(err)
	}
	return conn, err
}

// Stats is the use of both pools.
type Stats struct {
	InUse, Idle, Max int32
}

// Stats of the tenant's and the system's pool.
func (db *DB) Stats() (tenant, system Stats) {
	of := func(p *pgxpool.Pool) Stats {
		s := p.Stat()
		return Stats{InUse: s.AcquiredConns(), Idle: s.IdleConns(), Max: s.MaxConns()}
	}
	return of(db.tenant), of(db.system)
}
