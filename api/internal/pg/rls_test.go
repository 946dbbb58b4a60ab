package pg_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

const tenantTables = `SELECT c.table_name::text FROM information_schema.columns c
	WHERE c.table_schema = 'nofx' AND c.column_name = 'tenant_id' ORDER BY 1`

// What the catalog must say of roles, tables and policies.
func TestCatalog(t *testing.T) {
	t.Parallel()
	admin := connect(t, server.Database(t).Admin)
	for what, sql := range map[string]string{
		"tables without forced row level security": `SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
			WHERE n.nspname = 'nofx' AND c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)`,
		"views, which could look past it": `SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'nofx' AND c.relkind IN ('v', 'm')`,
		"functions that run as their owner": `SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname = 'nofx' AND p.prosecdef`,
		"mighty roles": `SELECT rolname::text FROM pg_roles WHERE rolname IN ('nofx_api', 'nofx_system')
			AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR NOT rolcanlogin)`,
		"memberships of our roles": `SELECT m.roleid::regrole::text FROM pg_auth_members m WHERE m.member IN ('nofx_api'::regrole, 'nofx_system'::regrole)`,
		"tables that our roles own": `SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'nofx' AND c.relowner IN ('nofx_api'::regrole, 'nofx_system'::regrole)`,
		"policies for nofx_api that do not compare the tenant": `SELECT tablename || '.' || policyname FROM pg_policies WHERE schemaname = 'nofx' AND 'nofx_api' = ANY (roles)
			AND (qual NOT LIKE '%tenant_id = %current_setting(''nofx.tenant''%' OR with_check NOT LIKE '%tenant_id = %current_setting(''nofx.tenant''%')`,
		"policies for everybody": `SELECT tablename || '.' || policyname FROM pg_policies WHERE schemaname = 'nofx' AND 'public' = ANY (roles)`,
		"rights of everybody":    `SELECT table_name::text FROM information_schema.role_table_grants WHERE table_schema = 'nofx' AND grantee = 'PUBLIC'`,
		"unnamed constraints":    `SELECT conname::text FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname = 'nofx' AND conname ~ '_(pkey|fkey|check|key)[0-9]*$'`,
	} {
		// goose's own table carries goose's own names.
		found := slices.DeleteFunc(column(t, admin, sql), func(s string) bool { return strings.HasPrefix(s, "schema_version") })
		if len(found) > 0 {
			t.Errorf("%s: %v", what, found)
		}
	}
	system := column(t, admin, `SELECT DISTINCT tablename::text FROM pg_policies WHERE schemaname = 'nofx' AND 'nofx_system' = ANY (roles) ORDER BY 1`)
	want := []string{"alert", "alert_delivery", "alert_receiver", "alert_rule", "api_key", "artifact", "attempt", "audit_log", "audit_trouble", "breaker_event", "concurrency", "event", "event_log", "handler_health", "handler_tally", "idempotency", "month_usage", "outbox", "output_index", "queue_pressure", "run", "step", "step_dlq", "tenant", "usage_day", "worker", "worker_event", "workspace_layer"}
	if diff := cmp.Diff(want, system); diff != "" {
		t.Errorf("tables that nofx_system sees across tenants: %s", diff)
	}
	if n := len(column(t, admin, tenantTables)); n != 29 {
		t.Errorf("%d tenant tables; a new one needs a row in fill", n)
	}
}

// fill gives a tenant one row in every tenant table.
func fill(t *testing.T, admin *pgx.Conn, tenant string) {
	t.Helper()
	exec(t, admin, strings.ReplaceAll(`
		INSERT INTO nofx.tenant (tenant_id, name) VALUES ('@', '@');
		INSERT INTO nofx.project (tenant_id, id) VALUES ('@', 'p');
		INSERT INTO nofx.api_key (id, tenant_id, name, role, hash) VALUES ('key-@', '@', 'n', 'user', '@');
		INSERT INTO nofx.worker (id, tenant_id, key_id, name, incarnation, region, version, slots, drivers) VALUES ('w-@', '@', 'key-@', 'n', 'i', 'r', 'v', 1, '[]');
		INSERT INTO nofx.worker_event (tenant_id, worker_id, type) VALUES ('@', 'w-@', 'worker.up');
		INSERT INTO nofx.handler_health (tenant_id, lane, handler, driver, state, generation, opens, forced, probe_id, probe_ms, reason)
			VALUES ('@', E't\\n@', 't', 'local', 'closed', 1, 0, false, '', 1000, '');
		INSERT INTO nofx.handler_tally (tenant_id, lane, driver, shard, generation, span, good0, bad0, streak) VALUES ('@', E't\\n@', 'local', 0, 1, 1, 1, 0, 0);
		INSERT INTO nofx.breaker_event (tenant_id, handler, driver, type, reason) VALUES ('@', 't', 'local', 'breaker.opened', '');
		INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left) VALUES ('run-@', '@', 'p', 'g', 'r', 'c', 1);
		INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
			resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key)
			VALUES ('step-@', '@', 'run-@', 0, 's', 't', 'local', 'queued', 0, '{}', '{}', true, '{}', '{}', 'shell', '', '{}', 'run', 'none', 'truncate', 1, 1, '{}', false, 1, 0, 'k');
		INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, worker_id, claim_id, lease_until) VALUES ('att-@', '@', 'run-@', 'step-@', 1, 1, 1, 'w-@', 'c', now());
		INSERT INTO nofx.output_index (tenant_id, attempt_id, start, length, frames) VALUES ('@', 'att-@', 0, 1, 'x');
		INSERT INTO nofx.workspace_layer (tenant_id, run_id, seq, attempt_id, sha256, size, bytes, full_one) VALUES ('@', 'run-@', 1, 'att-@', repeat('1', 64), 1, 1, true);
		INSERT INTO nofx.artifact (tenant_id, run_id, step_id, attempt_id, name, sha256, size) VALUES ('@', 'run-@', 'step-@', 'att-@', 'n', repeat('0', 64), 1);
		INSERT INTO nofx.event (tenant_id, run_id, seq, type) VALUES ('@', 'run-@', 1, 'run.created');
		INSERT INTO nofx.outbox (tenant_id, run_id, first_seq, last_seq) VALUES ('@', 'run-@', 1, 1);
		INSERT INTO nofx.event_log (position, tenant_id, run_id, first_seq, last_seq) VALUES (hashtext('@'), '@', 'run-@', 1, 1);
		INSERT INTO nofx.step_dlq (id, tenant_id, run_id, step_id, generation, cause, attempts, history) VALUES ('d-@', '@', 'run-@', 'step-@', 1, 'lost', 1, '[]');
		INSERT INTO nofx.idempotency (tenant_id, route, key, fingerprint, status, body, expires_at) VALUES ('@', 'r', 'k', '', 201, '', now());
		INSERT INTO nofx.alert_receiver (tenant_id, name, kind, url, place) VALUES ('@', 'r', 'slack', 'https://x', 'x');
		INSERT INTO nofx.alert_rule (tenant_id, name, metric, above, below, for_seconds) VALUES ('@', 'r', 'queue_depth', 1, 1, 0);
		INSERT INTO nofx.alert (id, tenant_id, rule, metric, above, value, peak) VALUES ('alert-@', '@', 'r', 'queue_depth', 1, 1, 1);
		INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind) VALUES ('msg-@', '@', 'r', 'test');
		INSERT INTO nofx.concurrency (tenant_id, key) VALUES ('@', '');
		INSERT INTO nofx.month_usage (tenant_id, month, part, attempts, compute_ms) VALUES ('@', '2026-01-01', 0, 1, 1);
		INSERT INTO nofx.usage_day (tenant_id, day, tool, driver, attempts, lost, wall_ms, cpu_usec, memory_peak_bytes, io_read_bytes, io_write_bytes, net_rx_bytes, net_tx_bytes, output_bytes)
			VALUES ('@', '2026-01-01', 't', 'local', 1, 0, 1, 1, 1, 1, 1, 1, 1, 1);
		INSERT INTO nofx.queue_pressure (tenant_id, run_id) VALUES ('@', 'run-@');
		INSERT INTO nofx.audit_log (tenant_id, principal, action, target, outcome) VALUES ('@', 'p', 'a', 't', 'allowed');
		INSERT INTO nofx.audit_trouble (tenant_id, kind, at, said) VALUES ('@', 'refused', '2026-01-01', 's')`, "@", tenant))
}

// In every table, one tenant cannot see, make, change or delete another's rows,
// and without a tenant there are none.
func TestTenantsAreApart(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha")
	fill(t, admin, "beta")
	// All rights, so that nothing but row level security stands between.
	exec(t, admin, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA nofx TO nofx_api; GRANT USAGE ON ALL SEQUENCES IN SCHEMA nofx TO nofx_api")
	api := connect(t, db.API)
	within := func(tenant, sql string) (int64, error) {
		tx, err := api.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		if tenant != "" {
			if _, err := tx.Exec(t.Context(), "SELECT set_config('nofx.tenant', $1, true)", tenant); err != nil {
				t.Fatal(err)
			}
		}
		tag, err := tx.Exec(t.Context(), sql)
		return tag.RowsAffected(), err
	}
	for _, table := range column(t, admin, tenantTables) {
		for _, tenant := range []string{"alpha", "beta"} {
			if n, err := within(tenant, "SELECT * FROM nofx."+table); err != nil || n != 1 {
				t.Errorf("%s sees %d rows of %s, %v", tenant, n, table, err)
			}
		}
		if n, err := within("", "SELECT * FROM nofx."+table); err != nil || n != 0 {
			t.Errorf("without a tenant: %d rows of %s, %v", n, table, err)
		}
		if n, err := within("beta", "UPDATE nofx."+table+" SET tenant_id = tenant_id WHERE tenant_id = 'alpha'"); err != nil || n != 0 {
			t.Errorf("beta updated %d rows of alpha's %s, %v", n, table, err)
		}
		if n, err := within("beta", "DELETE FROM nofx."+table+" WHERE tenant_id = 'alpha'"); err != nil || n != 0 {
			t.Errorf("beta deleted %d rows of alpha's %s, %v", n, table, err)
		}
		if _, err := within("beta", "UPDATE nofx."+table+" SET tenant_id = 'alpha'"); err == nil {
			t.Errorf("beta gave its row of %s to alpha", table)
		} else if !strings.Contains(err.Error(), "row-level security") && !strings.Contains(err.Error(), "foreign key") && !strings.Contains(err.Error(), "generated") {
			t.Errorf("beta's row of %s: %v", table, err)
		}
		insert := fmt.Sprintf("INSERT INTO nofx.%s OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(NULL::nofx.%s, to_jsonb(x) || '{\"tenant_id\": \"alpha\"}')).* FROM nofx.%s x", table, table, table)
		if _, err := within("beta", insert); err == nil || !strings.Contains(err.Error(), "row-level security") {
			t.Errorf("beta made a row of %s for alpha: %v", table, err)
		}
	}
}

// Statement-level rights: the tenant's role has no more than it uses.
func TestRights(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	fill(t, connect(t, db.Admin), "alpha")
	for role, denied := range map[string][]string{
		db.API: {"SELECT * FROM nofx.api_key", "DELETE FROM nofx.run", "DELETE FROM nofx.event", "UPDATE nofx.event SET seq = 2", "UPDATE nofx.audit_log SET action = ''",
			"DELETE FROM nofx.audit_log", "INSERT INTO nofx.tenant (tenant_id, name) VALUES ('x', 'x')", "CREATE TABLE nofx.x (a int)", "CREATE TABLE public.x (a int)",
			"INSERT INTO nofx.attempt SELECT * FROM nofx.attempt", "SELECT url FROM nofx.alert_receiver", "SELECT secret FROM nofx.alert_receiver", "SELECT nofx.alert_tick()",
			"SELECT * FROM nofx.audit_trouble", "SELECT nofx.note_audit_trouble('alpha', 'refused', '')", "UPDATE nofx.artifact SET size = 0", "UPDATE nofx.workspace_layer SET sha256 = ''", "SELECT * FROM nofx.lease_clock", "UPDATE nofx.step_dlq SET history = '[]'", "DELETE FROM nofx.step_dlq"},
		db.System: {"UPDATE nofx.event SET seq = 2", "UPDATE nofx.audit_log SET action = ''", "DELETE FROM nofx.audit_log",
			"INSERT INTO nofx.api_key SELECT * FROM nofx.api_key", "UPDATE nofx.artifact SET size = 0", "UPDATE nofx.workspace_layer SET sha256 = ''", "SELECT * FROM nofx.tenant", "CREATE TABLE nofx.x (a int)"},
	} {
		conn := connect(t, role)
		exec(t, conn, "SELECT set_config('nofx.tenant', 'alpha', false)")
		for _, sql := range denied {
			if _, err := conn.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
}

// Whatever a statement of nofx_system says, it removes nothing but what is of a
// run that is marked, which its tenant does not see any more.
func TestOnlyMarkedRunsAreRemoved(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin, api, system := connect(t, db.Admin), connect(t, db.API), connect(t, db.System)
	fill(t, admin, "alpha")
	fill(t, admin, "beta")
	exec(t, api, "SELECT set_config('nofx.tenant', 'alpha', false)")
	sees := func() (n int) {
		if err := api.QueryRow(t.Context(), "SELECT count(*) FROM nofx.run").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tables := []string{"output_index", "event", "artifact", "workspace_layer", "step_dlq", "attempt", "step", "event_log", "run"}
	drop := func(want int64) {
		t.Helper()
		for _, table := range tables {
			tag, err := system.Exec(t.Context(), "DELETE FROM nofx."+table)
			if err != nil || tag.RowsAffected() != want {
				t.Errorf("%d rows of %s were removed, %v; want %d", tag.RowsAffected(), table, err, want)
			}
		}
	}
	drop(0)
	if n := sees(); n != 1 {
		t.Errorf("alpha sees %d runs", n)
	}
	exec(t, system, "UPDATE nofx.run SET removing_at = now() WHERE id = 'run-alpha'")
	if n := sees(); n != 0 {
		t.Errorf("alpha sees %d runs that are marked", n)
	}
	drop(1)
	if got := column(t, admin, "SELECT id FROM nofx.run"); len(got) != 1 || got[0] != "run-beta" {
		t.Errorf("what is left: %v", got)
	}
}

// A tenant does not stay on a connection, whatever ended the transaction.
func TestTenantDoesNotLeak(t *testing.T) {
	t.Parallel()
	urls := server.Database(t)
	fill(t, connect(t, urls.Admin), "alpha")
	db, err := pg.Open(t.Context(), pg.Config{TenantURL: urls.API, SystemURL: urls.System, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	sees := func(tenant string) int {
		var n int
		err := db.Tenant(t.Context(), tenant, func(q *pgdb.Queries) error {
			rows, err := q.ListWorkers(t.Context(), "alpha")
			n = len(rows)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := sees("alpha"); n != 1 {
		t.Fatalf("alpha sees %d workers", n)
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.Tenant(t.Context(), "alpha", func(*pgdb.Queries) error { panic("in the middle") })
	}()
	if err := db.Tenant(t.Context(), "alpha", func(*pgdb.Queries) error { return fmt.Errorf("failed") }); err == nil {
		t.Error("no error")
	}
	if n := sees("beta"); n != 0 {
		t.Errorf("beta sees %d of alpha's workers", n)
	}
	for _, bad := range []string{"", "a'b", "A", "a b", strings.Repeat("a", 64)} {
		if err := db.Tenant(t.Context(), bad, func(*pgdb.Queries) error { return nil }); err == nil {
			t.Errorf("tenant %q was set", bad)
		}
	}
}
