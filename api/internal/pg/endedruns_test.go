package pg_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// Which runs' workspaces can go, and that a heartbeat which asks reads no more
// than those runs, also by a plan made when there were none.
func TestEndedRuns(t *testing.T) {
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
	ask := func(most int32, ids ...string) (got []string, rows int) {
		t.Helper()
		tx, err := system.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		got, err = pgdb.New(tx).EndedRuns(t.Context(), pgdb.EndedRunsParams{Ids: ids, WorkerID: "w-alpha", Most: most, KeepSeconds: 3600})
		if err != nil {
			t.Fatal(err)
		}
		const all = `SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables WHERE schemaname = 'nofx'`
		if err := tx.QueryRow(t.Context(), all).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		return got, rows
	}
	ask(10, "run-alpha") // makes the plan
	exec(t, admin, fmt.Sprintf(`
		INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left, status, ended_at, pin)
		SELECT 'run-' || n, 'alpha', 'p', 'g', 'r', 'c', 0, 'failed', now() - make_interval(secs => n), 'w-alpha' FROM generate_series(1, %d) n`, many))
	exec(t, admin, `
		INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left, status, ended_at, pin) VALUES
		('green', 'alpha', 'p', 'g', 'r', 'c', 0, 'succeeded', now(), 'w-alpha'), ('stopped', 'alpha', 'p', 'g', 'r', 'c', 0, 'cancelled', now(), 'w-alpha'),
		('elsewhere', 'alpha', 'p', 'g', 'r', 'c', 1, 'running', NULL, 'w-other'), ('nowhere', 'alpha', 'p', 'g', 'r', 'c', 1, 'running', NULL, ''),
		('moved', 'alpha', 'p', 'g', 'r', 'c', 0, 'failed', now(), 'w-other'), ('told', 'alpha', 'p', 'g', 'r', 'c', 0, 'failed', now() - interval '2 hours', '')`)
	for name, tc := range map[string]struct {
		most int32
		ids  []string
		want []string
	}{
		"those that go":      {10, []string{"run-alpha", "green", "stopped", "moved", "elsewhere", "told", "gone", "run-3601"}, []string{"elsewhere", "gone", "green", "moved", "run-3601", "stopped", "told"}},
		"those that stay":    {10, []string{"run-alpha", "run-1", "run-3500", "nowhere"}, []string{}},
		"the newest that do": {2, []string{"run-3", "run-1", "run-2", "run-alpha"}, []string{"run-3"}},
	} {
		for _, analyzed := range []bool{false, true} {
			if analyzed {
				exec(t, admin, "ANALYZE nofx.run")
			}
			got, rows := ask(tc.most, tc.ids...)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			if rows > 100 {
				t.Errorf("%s reads %d rows of %d (new plan: %t)", name, rows, many, analyzed)
			}
		}
	}
}
