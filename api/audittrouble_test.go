package api_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
)

// An action whose row in the audit log is refused is not done, and it is alerted
// of; and so are changes of the log, which only the schema's owner can make.
func TestAuditTrouble(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rival := r.client("rival", "user")
	for _, tenant := range []string{"acme", "rival"} {
		if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: tenant, Name: "audit", Metric: "audit_trouble"}); err != nil {
			t.Fatal(err)
		}
	}
	owner, err := pgx.Connect(t.Context(), r.db.Admin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = owner.Close(context.WithoutCancel(t.Context())) }()
	do := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	value := func(c *client.Client) float64 {
		t.Helper()
		r.tick()
		list, err := c.Alerts(t.Context())
		if err != nil || len(list.Rules) != 1 || list.Rules[0].Value == nil {
			t.Fatalf("%+v, %v", list, err)
		}
		return *list.Rules[0].Value
	}
	want := func(when string, acme, other float64) {
		t.Helper()
		r.eventually(when, func() bool { return value(r.user) == acme && value(rival) == other })
	}
	if err := r.user.SilenceAlert(t.Context(), "audit", 0); err != nil {
		t.Fatal(err)
	}
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	want("while all is well", 0, 0)

	do("ALTER TABLE nofx.audit_log ADD CONSTRAINT refused CHECK (action <> 'alert.silence') NOT VALID")
	if err := r.user.SilenceAlert(t.Context(), "audit", 10); !step.Is(err, step.KindInternal) {
		t.Errorf("silenced: %v", err)
	}
	if list, err := r.user.Alerts(t.Context()); err != nil || list.Rules[0].SilencedUntil != nil {
		t.Errorf("it is done without its row: %+v, %v", list, err)
	}
	want("a row is refused", 1, 0)
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	want("another is not", 1, 0)

	runs := len(r.column("SELECT id FROM nofx.run"))
	do("REVOKE INSERT ON nofx.audit_log FROM nofx_api")
	if resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"test","steps":[{"name":"a","tool":"test:echo"}]}}`)); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("submitted: %d %s", resp.StatusCode, raw)
	}
	if n := len(r.column("SELECT id FROM nofx.run")); n != runs {
		t.Errorf("%d runs, %d before", n, runs)
	}
	want("the right is gone", 2, 0)

	do("ALTER TABLE nofx.audit_log DROP CONSTRAINT refused")
	do("UPDATE nofx.audit_log SET target = 'x' WHERE tenant_id = 'nobody'")
	want("nothing is changed", 2, 0)
	do("UPDATE nofx.audit_log SET target = 'x' WHERE tenant_id = 'acme'")
	want("rows are changed", 3, 0)
	do("DELETE FROM nofx.audit_log WHERE tenant_id = 'acme'")
	want("rows are removed", 4, 0)
	do("TRUNCATE nofx.audit_log")
	want("it is emptied", 5, 1)
	if list, err := rival.Alerts(t.Context()); err != nil || len(list.Alerts) != 1 || list.Rules[0].AlertID == "" {
		t.Errorf("no episode: %+v, %v", list, err)
	}
	if got := r.column("SELECT said FROM nofx.audit_trouble WHERE tenant_id = 'acme' AND kind = 'refused' ORDER BY at DESC LIMIT 1"); len(got) != 1 || got[0] != "42501: permission denied for table audit_log" {
		t.Errorf("said %q", got)
	}
	do("UPDATE nofx.audit_trouble SET at = at - interval '61 minutes'")
	want("an hour later", 0, 0)
}
