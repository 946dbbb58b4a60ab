package pg_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// The steps of a run that is freed from its worker, which moved some of them to
// where that one has their driver, are together again: whoever takes the first
// takes the others, too.
func TestUnpinnedStepsAreTogether(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	admin := connect(t, db.Admin)
	fill(t, admin, "alpha")
	exec(t, admin, "UPDATE nofx.step SET pin = 'w-alpha', region = 'r2', regions = '{r1,r2}'")
	for _, s := range []struct{ id, status, pin, region, regions, shares string }{
		{"waits", "waiting", "", "r1", "{r1}", "true"},
		{"anywhere", "waiting", "", "", "{}", "true"},
		{"apart", "queued", "", "r3", "{r3}", "false"},
		{"done", "succeeded", "w-alpha", "r2", "{r1,r2}", "true"},
	} {
		_, err := admin.Exec(t.Context(), `INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares, inputs, command, reads, shown,
				resources, workspace, network, on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, idempotency_key, pin, region, regions, ended_at)
			SELECT $1, tenant_id, run_id, (SELECT count(*) FROM nofx.step), $1, tool, driver, $2, 0, '{}', '{}', $6::bool, inputs, command, reads, shown, resources, workspace, network,
				on_output, timeout_ms, grace_ms, artifacts, idempotent, tries, backoff_ms, $1, $3, $4, $5::text[], CASE WHEN $2 = 'succeeded' THEN now() END
			FROM nofx.step WHERE id = 'step-alpha'`, s.id, s.status, s.pin, s.region, s.regions, s.shares)
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pgdb.New(connect(t, db.System)).UnpinQueued(t.Context(), []string{"run-alpha"}); err != nil {
		t.Fatal(err)
	}
	rows, err := admin.Query(t.Context(), "SELECT id, pin, region FROM nofx.step")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][2]string{}
	for rows.Next() {
		var id, pin, region string
		if err := rows.Scan(&id, &pin, &region); err != nil {
			t.Fatal(err)
		}
		got[id] = [2]string{pin, region}
	}
	want := map[string][2]string{"step-alpha": {"", "r1"}, "waits": {"", "r1"}, "anywhere": {"", "r1"}, "apart": {"", "r3"}, "done": {"w-alpha", "r2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
