package api_test

import (
	"testing"
	"time"

	"github.com/nofx-run/nofx/api"
)

// In the lease after an outage nothing expires and nobody counts as lost; all
// else that the reaper does goes on.
func TestOnlyExpiryWaitsAfterAnOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Lease = 2 * time.Second })
	r.sql("UPDATE nofx.lease_clock SET ticked_at = now(), hold_until = now() + interval '1 hour'")
	w, silent := r.worker("host"), r.worker("silent")
	r.submit(`[{"name":"leased",` + alone + `}]`)
	w.one()
	r.submit(`[{"name":"aside",` + alone + `,"concurrency":{"key":"k","limit":1}}]`)
	r.sql("UPDATE nofx.step SET parked = true WHERE name = 'aside'")
	r.sql("DELETE FROM nofx.concurrency WHERE key = 'k'")
	r.sql("INSERT INTO nofx.idempotency (tenant_id, route, key, fingerprint, status, body, expires_at) VALUES ('acme', 'r', 'old', 'f', 201, '', now() - interval '1 day')")
	r.sql("UPDATE nofx.attempt SET lease_until = now() - interval '1 minute'")
	r.sql("UPDATE nofx.worker SET last_seen = now() - interval '1 minute' WHERE id = $1", silent.id)
	r.eventually("the step comes back, its key's row is there, and what is old is forgotten", func() bool {
		return r.column("SELECT (parked OR NOT EXISTS (SELECT 1 FROM nofx.concurrency c WHERE c.key = 'k') OR EXISTS (SELECT 1 FROM nofx.idempotency i WHERE i.key = 'old'))::text FROM nofx.step WHERE name = 'aside'")[0] == "false"
	})
	if got := r.column("SELECT status FROM nofx.attempt")[0]; got != "running" {
		t.Errorf("a lease that could not be renewed: the attempt is %s", got)
	}
	if got := r.column("SELECT status FROM nofx.worker WHERE id = '" + silent.id + "'")[0]; got != "live" {
		t.Errorf("a worker that could not be heard of is %s", got)
	}
	r.sql("UPDATE nofx.lease_clock SET hold_until = now()")
	r.eventually("the lease runs out, and the worker is lost", func() bool {
		return r.column("SELECT a.status || ' ' || w.status FROM nofx.attempt a, nofx.worker w WHERE w.id = '" + silent.id + "'")[0] == "lost lost"
	})
}
