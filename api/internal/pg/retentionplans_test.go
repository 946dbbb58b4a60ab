package pg_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// rowsRead counts the rows that do touches, and undoes it.
func rowsRead(t *testing.T, conn *pgx.Conn, do func(*pgdb.Queries) (int, error)) int {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	sum := func() (n int) {
		const all = `SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables WHERE schemaname = 'nofx'`
		if err := tx.QueryRow(t.Context(), all).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := sum()
	got, err := do(pgdb.New(tx))
	if err != nil || got == 0 {
		t.Fatalf("%d rows, %v", got, err)
	}
	return sum() - before
}

// What is due is found without a look at what is not, and a queue's oldest step
// without a look at the others, however many there are.
func TestRetentionReadsFewRows(t *testing.T) {
	t.Parallel()
	const many = 20_000
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha")
	fill(t, admin, "beta")
	system := connect(t, db.System)
	exec(t, system, "SET plan_cache_mode = force_generic_plan")
	for name, value := range pg.FewRows() {
		exec(t, system, "SET "+name+" = "+value)
	}
	exec(t, admin, "DELETE FROM nofx.step_dlq; UPDATE nofx.run SET status = 'succeeded', steps_left = 0, ended_at = now() - interval '2 hours'; UPDATE nofx.artifact SET created_at = now() - interval '2 hours'")
	cases := map[string]func(*pgdb.Queries) (int, error){
		"due": func(q *pgdb.Queries) (int, error) {
			n, err := q.MarkDue(t.Context(), 3600, 100)
			return int(n), err
		},
		"artifacts": func(q *pgdb.Queries) (int, error) {
			n, err := q.EndArtifacts(t.Context(), 3600, 100)
			return int(n), err
		},
		"lag": func(q *pgdb.Queries) (int, error) {
			n, err := q.RetentionLag(t.Context(), 3600)
			return int(n), err
		},
		"pressed": func(q *pgdb.Queries) (int, error) {
			rows, err := q.Pressed(t.Context(), 0)
			return len(rows), err
		},
		"pressure": func(q *pgdb.Queries) (int, error) {
			_, err := q.QueuePressure(t.Context())
			return 1, err
		},
		"slice": func(q *pgdb.Queries) (int, error) {
			n, err := q.DropEvents(t.Context(), []string{"run-alpha"}, 100)
			if err != nil || n != 0 { // it is not marked
				return 0, fmt.Errorf("%d events went, %w", n, err)
			}
			_, err = q.DropOutput(t.Context(), []string{"run-alpha"}, 100)
			return 1, err
		},
	}
	for _, do := range cases {
		rowsRead(t, system, do) // plans for what is small
	}
	exec(t, admin, fmt.Sprintf(`
		INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left, status, ended_at)
		SELECT r.id || n, r.tenant_id, r.project_id, r.goal, r.region, r.correlation_id, 0, 'succeeded', now() FROM nofx.run r, generate_series(1, %d) n;
		INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
			resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, due_at)
		SELECT s.id || n, s.tenant_id, s.run_id || n, n, s.name, s.tool, s.driver, 'queued', s.deps_left, s.depends_on, s.dependants, false, s.inputs, s.command, s.reads, s.shown,
			s.resources, 'step', s.network, s.on_output, s.timeout_ms, s.grace_ms, s.artifacts, s.idempotent, s.tries, s.backoff_ms, s.idempotency_key, now()
		FROM nofx.step s, generate_series(1, %d) n;
		INSERT INTO nofx.event (tenant_id, run_id, seq, type) SELECT 'alpha', 'run-alpha' || n, 1, 'x' FROM generate_series(1, %d) n`, many, many, many))
	kept := map[string]int{}
	for name, do := range cases {
		kept[name] = rowsRead(t, system, do)
	}
	exec(t, admin, "ANALYZE nofx.step, nofx.run, nofx.event, nofx.attempt")
	for name, do := range cases {
		anew := rowsRead(t, system, do)
		t.Logf("%s: %d rows, %d with a new plan", name, kept[name], anew)
		if limit := 100; kept[name] > limit || anew > limit {
			t.Errorf("%s reads %d rows with the plan kept and %d with a new one, of %d", name, kept[name], anew, many)
		}
	}
}
