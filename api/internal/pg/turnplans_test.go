package pg_test

import (
	"fmt"
	"testing"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// What a look for turns reads does not grow with what is held, nor with how many
// keys that has; also by plans that Postgres made, and kept, when there was
// nothing.
func TestTurnsReadFewRows(t *testing.T) {
	t.Parallel()
	const many = 20_000
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha")
	system := connect(t, db.System)
	exec(t, system, "SET plan_cache_mode = force_generic_plan")
	for name, value := range pg.FewRows() {
		exec(t, system, "SET "+name+" = "+value)
	}
	read := func(do func(*pgdb.Queries) (int, error)) (got, rows int) {
		t.Helper()
		tx, err := system.Begin(t.Context())
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
		if got, err = do(pgdb.New(tx)); err != nil {
			t.Fatal(err)
		}
		return got, sum() - before
	}
	cases := map[string]struct {
		do        func(*pgdb.Queries) (int, error)
		want, few int
	}{
		"due": {func(q *pgdb.Queries) (int, error) {
			got, err := q.DueRuns(t.Context(), 20)
			return len(got), err
		}, 20, 200},
		"tenants": {func(q *pgdb.Queries) (int, error) {
			got, err := q.HeldTenants(t.Context())
			return len(got), err
		}, 1, 50},
		"next": {func(q *pgdb.Queries) (int, error) {
			got, err := q.NextRuns(t.Context(), pgdb.NextRunsParams{TenantID: "alpha", FromKey: "k1", Keys: 50, Most: 20})
			return len(got), err
		}, 21, 1000},
	}
	for _, c := range cases { // makes the plans
		read(c.do)
	}
	for _, hold := range []string{"time", "turn"} {
		exec(t, admin, fmt.Sprintf(`
			INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left, hold, start_at, concurrency_key, concurrency_most)
			SELECT '%[1]s-' || n, 'alpha', 'p', 'g', 'r', 'c', 1, '%[1]s', now() - make_interval(secs => n), 'k' || n, 1 FROM generate_series(1, %[2]d) n`, hold, many))
	}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			exec(t, admin, "ANALYZE nofx.run")
		}
		for name, c := range cases {
			got, rows := read(c.do)
			if got != c.want || rows > c.few {
				t.Errorf("%s: %d of %d, and reads %d rows of %d (new plan: %t)", name, got, c.want, rows, many, analyzed)
			}
		}
	}
}
