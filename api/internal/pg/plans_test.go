package pg_test

import (
	"fmt"
	"testing"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// What a claim and a journal batch read does not grow with the queue, nor with
// what the worker has done; also by plans that Postgres made, and kept, when
// the tables were empty.
func TestPlansReadFewRows(t *testing.T) {
	t.Parallel()
	const many = 20_000
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha") // its step's driver is local
	system := connect(t, db.System)
	exec(t, system, "SET plan_cache_mode = force_generic_plan")
	for name, value := range pg.FewRows() {
		exec(t, system, "SET "+name+" = "+value)
	}
	claims := 0
	// read counts the rows that do touches, and undoes it.
	read := func(do func(*pgdb.Queries) (int, error)) (rows int) {
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
		got, err := do(pgdb.New(tx))
		if err != nil || got == 0 {
			t.Fatalf("%d rows, %v", got, err)
		}
		return sum() - before
	}
	claim := func(q *pgdb.Queries) (int, error) {
		claims++
		rows, err := q.Claim(t.Context(), pgdb.ClaimParams{AttemptIds: []string{"att-1", "att-2", "att-3", "att-4"}, WorkerID: "w-alpha",
			ClaimID: fmt.Sprint("claim-", claims), LeaseSeconds: 30, Drivers: []string{"other", "local"}, Regions: []string{"here", "here"}, Region: "here", Reach: 8, Most: 4})
		return len(rows), err
	}
	// Other steps wait behind the open breaker of a lane that sorts before and has waited longer.
	barred := func(q *pgdb.Queries) (int, error) {
		claims++
		rows, err := q.Claim(t.Context(), pgdb.ClaimParams{AttemptIds: []string{"att-1", "att-2", "att-3", "att-4"}, WorkerID: "w-alpha",
			ClaimID: fmt.Sprint("claim-", claims), LeaseSeconds: 30, Drivers: []string{"barred"}, Regions: []string{"here"}, Region: "here", Reach: 8, Most: 4})
		if len(rows) != 1 || rows[0].Probe {
			return 0, fmt.Errorf("claimed %+v", rows)
		}
		return len(rows), err
	}
	// And behind one that lets a probe through, which there is one of.
	probe := func(q *pgdb.Queries) (int, error) {
		claims++
		rows, err := q.Claim(t.Context(), pgdb.ClaimParams{AttemptIds: []string{"att-1", "att-2", "att-3", "att-4"}, WorkerID: "w-alpha",
			ClaimID: fmt.Sprint("claim-", claims), LeaseSeconds: 30, Drivers: []string{"tried"}, Regions: []string{"here"}, Region: "here", Reach: 8, Most: 4})
		if len(rows) != 1 || !rows[0].Probe {
			return 0, fmt.Errorf("claimed %+v", rows)
		}
		return len(rows), err
	}
	// What the reaper looks for among the steps that do not just wait.
	settle := func(q *pgdb.Queries) (int, error) {
		out, err := q.Barred(t.Context(), "fail", 200)
		if err != nil || len(out) != 1 {
			return 0, fmt.Errorf("barred %+v, %w", out, err)
		}
		on, err := q.Barred(t.Context(), "fallback", 200)
		if err != nil || len(on) != 0 {
			return 0, fmt.Errorf("barred %+v, %w", on, err)
		}
		_, err = q.Unserved(t.Context(), 1, 200)
		return 1, err
	}
	lock := func(q *pgdb.Queries) (int, error) {
		rows, err := q.LockAttempts(t.Context(), pgdb.LockAttemptsParams{Ids: []string{"att-alpha"}, Generations: []int32{1}, Numbers: []int32{1}, Epochs: []int64{1},
			WorkerID: "w-alpha", Incarnation: "i", KeyID: "key-alpha"})
		return len(rows), err
	}
	// And where they are, in a region that serves them.
	place := func(q *pgdb.Queries) (int, error) {
		displaced, err := q.Displaced(t.Context(), 200, 1)
		if err != nil || len(displaced) != 0 {
			return 0, fmt.Errorf("displaced %+v, %w", displaced, err)
		}
		stranded, err := q.Stranded(t.Context(), 1, 200)
		if err != nil || len(stranded) != 0 {
			return 0, fmt.Errorf("stranded %+v, %w", stranded, err)
		}
		outside, err := q.Outside(t.Context(), false, 200)
		if err != nil || len(outside) != 0 {
			return 0, fmt.Errorf("outside %+v, %w", outside, err)
		}
		return 1, nil
	}
	exec(t, admin, `UPDATE nofx.worker SET region = 'here', drivers = '[{"name":"local","healthy":true},{"name":"barred","healthy":true},{"name":"tried","healthy":true}]'`)
	exec(t, admin, "INSERT INTO nofx.driver_seen (name, worker_id, healthy_at) SELECT n, 'w-alpha', now() + interval '1 hour' FROM unnest(ARRAY['local', 'barred', 'tried']) n")
	exec(t, admin, "UPDATE nofx.lease_clock SET hold_until = now() - interval '1 hour'")
	exec(t, admin, "UPDATE nofx.tenant SET residency = '{here}'")
	exec(t, admin, "UPDATE nofx.step SET attempt = 1, epoch = 1, region = 'here'")
	exec(t, admin, `
		INSERT INTO nofx.handler_health (tenant_id, lane, handler, driver, state, generation, opens, forced, ready_at, probe_id, probe_ms, reason)
		VALUES ('', 'a', 'a', 'barred', 'open', 1, 1, false, now() + interval '1 hour', '', 60000, 'x'),
		       ('', 'b', 'b', 'tried', 'open', 1, 1, false, now(), '', 60000, 'x')`)
	// copies puts steps like the first into the queue.
	copies := func(n int, prefix, driver, lane string) {
		exec(t, admin, fmt.Sprintf(`
			INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, lane, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
				resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, due_at)
			SELECT '%s' || n, s.tenant_id, s.run_id, n, '%s' || n, s.tool, '%s', '%s', s.status, s.deps_left, s.depends_on, s.dependants, false, s.inputs, s.command, s.reads, s.shown,
				s.resources, 'step', s.network, s.on_output, s.timeout_ms, s.grace_ms, s.artifacts, s.idempotent, s.tries, s.backoff_ms, s.idempotency_key,
				now() - interval '1 hour'
			FROM nofx.step s, generate_series(1, %d) n WHERE s.id = 'step-alpha'`, prefix, prefix, driver, lane, n))
	}
	copies(1, "barred-a-", "barred", "a")
	copies(1, "free-", "barred", "z")
	copies(2, "tried-", "tried", "b")
	copies(1, "fast-", "barred", "a")
	exec(t, admin, "UPDATE nofx.step SET on_open = 'fail' WHERE id = 'fast-1'")
	cases := map[string]func(*pgdb.Queries) (int, error){"claim": claim, "lock": lock, "claim past an open breaker": barred, "claim of a probe": probe, "settle": settle, "place": place}
	small := map[string]int{}
	for name, do := range cases {
		small[name] = read(do)
	}
	copies(many, "barred-aa-", "barred", "a")
	copies(many, "tried-b-", "tried", "b")
	exec(t, admin, fmt.Sprintf(`
		INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
			resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key)
		SELECT s.id || n, s.tenant_id, s.run_id, n, s.name || n, s.tool, s.driver, s.status, s.deps_left, s.depends_on, s.dependants, false, s.inputs, s.command, s.reads, s.shown,
			s.resources, 'step', s.network, s.on_output, s.timeout_ms, s.grace_ms, s.artifacts, s.idempotent, s.tries, s.backoff_ms, s.idempotency_key
		FROM nofx.step s, generate_series(1, %d) n WHERE s.id = 'step-alpha'`, many))
	exec(t, admin, `
		INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, worker_id, claim_id, lease_until, status, ended_at, verdict)
		SELECT 'att-' || s.id, s.tenant_id, s.run_id, s.id, 1, 100, 100, 'w-alpha', 'c', now(), 'ended', now(), '{}' FROM nofx.step s WHERE s.id <> 'step-alpha'`)
	exec(t, admin, fmt.Sprintf(`
		INSERT INTO nofx.run (id, tenant_id, project_id, goal, region, correlation_id, steps_left)
		SELECT r.id || n, r.tenant_id, r.project_id, r.goal, r.region, r.correlation_id, r.steps_left FROM nofx.run r, generate_series(1, %d) n`, many))
	// What the kept plans read, and then plans made for the new sizes.
	kept, anew := map[string]int{}, map[string]int{}
	for name, do := range cases {
		kept[name] = read(do)
	}
	exec(t, admin, "ANALYZE nofx.step, nofx.attempt, nofx.run, nofx.handler_health")
	for name, do := range cases {
		anew[name] = read(do)
		t.Logf("%s: %d rows of a short queue, %d of a long one, %d with a new plan", name, small[name], kept[name], anew[name])
		if limit := 100; kept[name] > limit || anew[name] > limit {
			t.Errorf("%s reads %d rows with the plan kept and %d with a new one, of a queue of %d", name, kept[name], anew[name], many)
		}
	}
}
