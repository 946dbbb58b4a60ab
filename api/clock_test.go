package api_test

import (
	"testing"
	"time"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/internal/testpg"
)

// The database's clock was ahead, and is put right: what was to come within the
// time that it goes back by, comes when it would have.
func TestTheDatabasesClockGoesBack(t *testing.T) {
	t.Parallel()
	pg, err := testpg.StartWithClock(t.Context(), migrate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := pg.SetClock(time.Hour); err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, pg, func(c *api.Config) { c.Lease = 5 * time.Second })
	silent := r.worker("silent")
	failed := r.submit(`[{"name":"failed",` + alone + `}]`).ID
	silent.end(silent.one(), exit(1))
	r.submit(`[{"name":"leased",` + alone + `}]`)
	silent.one()
	r.submit(`[{"name":"queued",` + alone + `}]`)
	r.submit(`[{"name":"later",` + alone + `}]`)
	r.sql("UPDATE nofx.step SET due_at = now() + interval '10 minutes' WHERE name = 'later'")
	r.sql("UPDATE nofx.lease_clock SET hold_until = now() + interval '1 second'")
	r.eventually("a reaper has seen the time", func() bool {
		return r.column("SELECT (ticked_at > now() - interval '5 seconds')::text FROM nofx.lease_clock")[0] == "true"
	})
	if err := pg.SetClock(0); err != nil {
		t.Fatal(err)
	}
	w := r.worker("host")
	got := map[string]bool{}
	r.eventually("the queued step is taken, and the one of the worker that fell silent", func() bool {
		for _, l := range w.claim(4, 100*time.Millisecond) {
			got[l.StepName] = true
		}
		w.beat()
		return got["queued"] && got["leased"]
	})
	if got["later"] {
		t.Error("a step was taken ten minutes early")
	}
	for what, want := range map[string]string{
		"SELECT (created_at <= ended_at AND ended_at BETWEEN now() - interval '5 minutes' AND now())::text FROM nofx.run WHERE id = '" + failed + "'": "true",
		"SELECT (due_at BETWEEN now() + interval '8 minutes' AND now() + interval '10 minutes')::text FROM nofx.step WHERE name = 'later'":            "true",
		"SELECT w.status FROM nofx.worker w WHERE w.id = '" + silent.id + "'":                                                                         "lost",
		"SELECT count(*)::text FROM nofx.driver_seen WHERE healthy_at > now()":                                                                        "0",
	} {
		if got := r.column(what); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %s", what, got, want)
		}
	}
}
