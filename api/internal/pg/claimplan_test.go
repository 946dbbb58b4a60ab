package pg_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api/internal/pg"
)

// statement is a query as its file has it, with its parameters numbered by
// their names in the order given.
func statement(t *testing.T, file, name string, params ...string) string {
	t.Helper()
	raw, err := os.ReadFile("queries/" + file)
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(raw), "-- name: "+name+" ")
	if !found {
		t.Fatalf("no query %s", name)
	}
	_, text, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, ";\n")
	return regexp.MustCompile(`@[a-z_]+`).ReplaceAllStringFunc(text, func(p string) string {
		at := slices.Index(params, p[1:])
		if at < 0 {
			t.Fatalf("%s has the parameter %s", name, p)
		}
		return fmt.Sprint("$", at+1)
	})
}

// The plan of the claim that docs/queue.md shows: it reads the tables that grow
// through their indexes, whatever has ended. -v prints it.
func TestClaimPlan(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha")
	fill(t, admin, "beta")
	exec(t, admin, `
		INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
			resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, ended_at, rank, concurrency_key, concurrency_most)
		SELECT 'more-' || s.id || n, s.tenant_id, s.run_id, n, 'more-' || n, s.tool, s.driver, CASE WHEN n > 20000 THEN 'queued' ELSE 'succeeded' END, 0, s.depends_on, s.dependants, false,
			s.inputs, s.command, s.reads, s.shown, s.resources, 'step', s.network, s.on_output, s.timeout_ms, s.grace_ms, s.artifacts, s.idempotent, s.tries, s.backoff_ms,
			s.idempotency_key, CASE WHEN n > 20000 THEN NULL ELSE now() END, n % 3, CASE WHEN n % 2 = 0 THEN '' ELSE 'key' END, CASE WHEN n % 2 = 0 THEN 0 ELSE 5 END
		FROM nofx.step s, generate_series(1, 21000) n WHERE s.id IN ('step-alpha', 'step-beta')`)
	exec(t, admin, "UPDATE nofx.step SET attempt = 1, epoch = 1")
	exec(t, admin, "INSERT INTO nofx.concurrency (tenant_id, key) SELECT tenant_id, 'key' FROM nofx.tenant")
	exec(t, admin, "UPDATE nofx.tenant SET max_steps = 100 WHERE tenant_id = 'alpha'")
	exec(t, admin, "ANALYZE")
	system := connect(t, db.System)
	exec(t, system, "SET plan_cache_mode = force_generic_plan")
	for name, value := range pg.FewRows() {
		exec(t, system, "SET "+name+" = "+value)
	}
	ids := []string{"att-1", "att-2", "att-3", "att-4"}
	sql := statement(t, "claim.sql", "Claim", "attempt_ids", "worker_id", "claim_id", "lease_seconds", "drivers", "regions", "region", "spent", "reach", "most", "layers", "unfit")
	tx, err := system.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	rows, err := tx.Query(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) "+sql,
		ids, "w-alpha", "claim-1", 30.0, []string{"local"}, []string{"here"}, "here", []string{}, 8, 4, true, []string{"another"})
	if err != nil {
		t.Fatal(err)
	}
	var plan []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(plan, "\n")
	t.Log(text)
	if found := regexp.MustCompile(`Seq Scan on (step|attempt|run|concurrency)\b.*`).FindAllString(text, -1); len(found) > 0 {
		t.Errorf("the plan has %v", found)
	}
	doc, err := os.ReadFile("../../../docs/queue.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []string{"step_queue", "step_running", "concurrency_pk"} {
		if !strings.Contains(text, index) || !strings.Contains(string(doc), index) {
			t.Errorf("the index %s is not in the plan, or not in docs/queue.md", index)
		}
	}
}
