package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// held posts a run for later.
func (r *rig) held(tenant, fields string) string {
	r.t.Helper()
	resp, raw := r.call("POST", "/api/runs", r.keys[tenant+" user"],
		[]byte(`{"plan":{"goal":"test","steps":[{"name":"a",`+alone+`}],"delay_ms":86400000`+fields+`}}`))
	var out wire.RunCreated
	if resp.StatusCode != http.StatusCreated || json.Unmarshal(raw, &out) != nil {
		r.t.Fatalf("submit: %d %s", resp.StatusCode, raw)
	}
	return out.ID
}

// copies makes many runs like one, with a step each; change is what of a run's
// row differs, as arguments of jsonb_build_object over n.
func (r *rig) copies(id string, many int, change string) {
	r.t.Helper()
	r.sql(fmt.Sprintf(`
		WITH runs AS (
			INSERT INTO nofx.run SELECT (jsonb_populate_record(r, jsonb_build_object('id', r.id || '-' || n, %s))).* FROM nofx.run r, generate_series(1, %d) n WHERE r.id = $1
		)
		INSERT INTO nofx.step SELECT (jsonb_populate_record(s, jsonb_build_object('id', s.id || '-' || n, 'run_id', s.run_id || '-' || n))).* FROM nofx.step s, generate_series(1, %[2]d) n WHERE s.run_id = $1`,
		change, many), id)
}

// A tenant with thousands of runs whose time has come, all of them earlier, does
// not hold up the one run of another.
func TestDueRunsAreFair(t *testing.T) {
	t.Parallel()
	const many = 5000
	r := newRig(t)
	r.client("beta", "user")
	a := r.held("acme", "")
	r.copies(a, many, "'priority', 0")
	b := r.held("beta", "")
	r.sql("UPDATE nofx.run SET start_at = now() - CASE tenant_id WHEN 'acme' THEN interval '1 hour' ELSE interval '1 second' END WHERE hold = 'time'")
	begun := time.Now()
	r.eventually("beta's run begins", func() bool { return r.column("SELECT hold FROM nofx.run WHERE id = '" + b + "'")[0] == "" })
	t.Logf("after %v", time.Since(begun))
	before := r.column("SELECT count(*)::text FROM nofx.step a, nofx.step b WHERE b.run_id = '" + b + "' AND a.run_id LIKE '" + a + "%' AND a.status = 'queued' AND a.due_at < b.due_at")[0]
	if n, err := strconv.Atoi(before); err != nil || n > 500 {
		t.Errorf("%s runs of the other tenant went first: %v", before, err)
	}
	r.eventually("all begin", func() bool { return r.column("SELECT count(*)::text FROM nofx.run WHERE hold <> ''")[0] == "0" })
}

// Where more keys wait than one look goes through, all of them have their turn,
// also behind runs that have none; what is first goes first.
func TestManyKeysHaveTheirTurn(t *testing.T) {
	t.Parallel()
	const many = 1300
	r := newRig(t)
	r.concurrency("acme", 0, 0)
	first := r.held("acme", `,"priority":9,"concurrency":{"key":"jam","limit":1}`)
	r.copies(first, 150, "'start_at', now() + interval '1 day'")
	rest := r.held("acme", `,"concurrency":{"key":"k","limit":1}`)
	r.copies(rest, many, "'concurrency_key', 'k' || n")
	urgent := r.held("acme", `,"priority":9,"concurrency":{"key":"zz","limit":1}`)
	r.sql("UPDATE nofx.run SET start_at = now() - interval '1 hour', hold = 'turn' WHERE hold = 'time'")
	r.eventually("all but those behind the jam begin", func() bool { return r.column("SELECT count(*)::text FROM nofx.run WHERE hold <> ''")[0] == "150" })
	if got := r.column("SELECT count(*)::text FROM nofx.run WHERE hold = '' AND concurrency_key = 'jam'")[0]; got != "1" {
		t.Errorf("%s runs with the key jam run", got)
	}
	if at := r.column("SELECT count(*)::text FROM nofx.step a, nofx.step b WHERE b.run_id = '" + urgent + "' AND a.due_at < b.due_at AND a.run_id LIKE '" + rest + "%'")[0]; at == strconv.Itoa(many) {
		t.Errorf("the urgent run went after all others")
	}
}
