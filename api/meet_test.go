package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Who has used up the month opens no new generation either: what would wait
// for weeks is refused at once, like a run, and nothing of it is changed.
func TestQuotaRefusesNewGenerations(t *testing.T) {
	t.Parallel()
	r := newRig(t, withoutBreakers(t))
	w := r.worker("host")
	run := r.die(w, failing)
	e := r.dead(wire.DeadFilter{})[0]
	none := 0.0
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", &none); err != nil {
		t.Fatal(err)
	}
	calls := map[string]string{
		"/api/dlq/" + e.ID + "/requeue":                         `{}`,
		"/api/dlq/requeue":                                      `{"ids":["` + e.ID + `"]}`,
		"/api/dlq/requeue?dry":                                  `{"ids":["` + e.ID + `"],"dry_run":true}`,
		"/api/runs/" + run.ID + "/retry":                        `{}`,
		"/api/runs/" + run.ID + "/retry?all":                    `{"all":true}`,
		"/api/runs/" + run.ID + "/steps/" + e.StepID + "/retry": ``,
	}
	for path, body := range calls {
		at, _, _ := strings.Cut(path, "?")
		resp, raw := r.call(http.MethodPost, at, r.keys["acme user"], []byte(body))
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(raw), "max_compute_minutes_per_month is used up") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, raw)
		}
	}
	if got, want := statuses(r.run(run.ID)), "failed a=failed/1"; got != want || r.dead(wire.DeadFilter{})[0].State != wire.DeadOpen {
		t.Errorf("%s, want %s", got, want)
	}
	if resp, raw := r.call(http.MethodPost, "/api/runs/run_none/retry", r.keys["acme user"], []byte(`{}`)); resp.StatusCode != http.StatusNotFound {
		t.Errorf("of no run: %d %s", resp.StatusCode, raw)
	}
	if err := api.SetTenantQuota(t.Context(), r.db.Admin, "acme", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, ""); err != nil {
		t.Error(err)
	}
}

// A step that fails fast before an open breaker is dead without an attempt: one
// entry for each generation, which can be looked at and requeued like others.
func TestFailFastIsDead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	operator := r.client("acme", "operator")
	set := func(action wire.BreakerAction) {
		t.Helper()
		if _, err := operator.SetBreakers(t.Context(), wire.SetBreaker{Action: action, Tool: "test:echo"}); err != nil {
			t.Fatal(err)
		}
	}
	set(wire.BreakerForceOpen)
	run := r.submit(`[{"name":"a","tool":"test:echo","on_open":"fail"},{"name":"b","tool":"test:echo","depends_on":["a"]}]`)
	list := r.dead(wire.DeadFilter{})
	if len(list) != 1 || list[0].Attempts != 0 || list[0].WorkerID != "" || list[0].Cause != step.CauseDriverError || !strings.Contains(list[0].Reason, "is open") {
		t.Fatalf("%+v", list)
	}
	d, err := r.user.DeadStep(t.Context(), list[0].ID)
	if err != nil || d.History == nil || len(d.History) != 0 {
		t.Errorf("%+v %v", d, err)
	}
	if got := r.eventsOf(run.ID, step.EventStepDead); len(got) != 1 || got[0].Payload["entry"] != list[0].ID {
		t.Errorf("%+v", got)
	}
	if _, err := r.user.RequeueDead(t.Context(), list[0].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	r.until(run.ID, func(d wire.RunDetail) bool { return d.Run.EndedAt != nil })
	if list = r.dead(wire.DeadFilter{State: "all"}); len(list) != 2 || list[0].Generation != 2 || list[0].State != wire.DeadOpen || list[1].State != wire.DeadRequeued {
		t.Fatalf("%+v", list)
	}
	set(wire.BreakerReset)
	if _, err := r.user.RequeueDead(t.Context(), list[0].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.finish(w.one(), exit(0))
	}
	if got, want := statuses(r.run(run.ID)), "succeeded a=succeeded/3 b=succeeded/3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
