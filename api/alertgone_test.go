package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
)

// fires sets up a receiver and a rule that holds, and waits for its message.
func (r *rig) fires(t *testing.T, in *inbox) {
	t.Helper()
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "ops", Kind: "webhook", URL: in.URL}); err != nil {
		t.Fatal(err)
	}
	if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: "acme", Name: "deep", Metric: "queue_depth"}); err != nil {
		t.Fatal(err)
	}
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	r.tick()
	if got := typeOf(t, in.next(t)); got != "alert.fired" {
		t.Fatalf("told %s", got)
	}
}

func typeOf(t *testing.T, d delivery) string {
	t.Helper()
	var told struct{ Type string }
	if err := json.Unmarshal(d.body, &told); err != nil {
		t.Fatal(err)
	}
	return told.Type
}

// When a rule is removed, or looks at something else, its episode is over, and
// whoever was told of its beginning is told that.
func TestAlertRuleGoesDuringEpisode(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(r *rig) error{
		"removed": func(r *rig) error { return api.DropAlertRule(t.Context(), r.db.Admin, "acme", "deep") },
		"of another metric": func(r *rig) error {
			return api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: "acme", Name: "deep", Metric: "workers_lost"}) // which is not above
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, in := alertRig(t, "127.0.0.0/8")
			r.fires(t, in)
			if err := change(r); err != nil {
				t.Fatal(err)
			}
			if got := typeOf(t, in.next(t)); got != "alert.resolved" {
				t.Errorf("told %s", got)
			}
			if open := r.column("SELECT rule FROM nofx.alert WHERE resolved_at IS NULL AND metric = 'queue_depth'"); len(open) != 0 {
				t.Errorf("open: %v", open)
			}
		})
	}
}

// A receiver that has said that it is gone is not called any more: neither to be
// told that an episode is over of whose beginning it was told before, nor to try
// it. Once it is set again, it is told the next thing, and nothing of before.
func TestAlertReceiverIsGone(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	r.fires(t, in)
	in.mu.Lock()
	in.answers = []int{http.StatusGone}
	in.mu.Unlock()
	r.testAlert("ops")
	in.next(t)
	r.eventually("the receiver is disabled", func() bool {
		return len(r.column("SELECT name FROM nofx.alert_receiver WHERE disabled_at IS NOT NULL")) == 1
	})
	if _, err := r.user.TestAlert(t.Context(), "ops"); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("a test of it: %v", err)
	}
	if _, err := r.user.TestAlert(t.Context(), "nobody"); !step.Is(err, step.KindNotFound) {
		t.Errorf("a test of nobody: %v", err)
	}
	w := r.worker("host")
	w.finish(w.one(), exit(0))
	r.tick()
	r.eventually("what it is not told is given up", func() bool {
		return len(r.column("SELECT id FROM nofx.alert_delivery WHERE kind = 'resolved' AND next_at IS NULL AND done_at IS NULL")) == 1
	})
	if n := len(in.received); n != 0 {
		t.Errorf("it was told %d things", n)
	}
	r.receiver("ops", in.URL)
	r.testAlert("ops")
	if got := typeOf(t, in.next(t)); got != "alert.test" {
		t.Errorf("told %s", got)
	}
}

// The usual rules come with the first receiver: one that was removed does not
// come back with the next, or when one is set again.
func TestAlertRuleStaysRemoved(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	rules := func() int {
		t.Helper()
		list, err := r.user.Alerts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Rules)
	}
	r.receiver("ops", in.URL)
	all := rules()
	if err := api.DropAlertRule(t.Context(), r.db.Admin, "acme", "leftovers"); err != nil {
		t.Fatal(err)
	}
	r.receiver("ops", in.URL)
	r.receiver("chat", in.URL)
	if n := rules(); all != len(api.AlertMetrics()) || n != all-1 {
		t.Errorf("%d rules, then %d", all, n)
	}
}

// A message whose episode is in the database no more is given up, and keeps no
// other back.
func TestAlertMessageOutlivesEpisode(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	r.fires(t, in)
	r.sql("INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, alert_id, kind) VALUES ('msg_orphan', 'acme', 'ops', 'alert_gone', 'fired')")
	r.eventually("the message is given up", func() bool {
		return len(r.column("SELECT said FROM nofx.alert_delivery WHERE id = 'msg_orphan' AND next_at IS NULL AND done_at IS NULL AND said <> ''")) == 1
	})
	if _, err := r.user.TestAlert(t.Context(), "ops"); err != nil {
		t.Fatal(err)
	}
	if got := typeOf(t, in.next(t)); got != "alert.test" {
		t.Errorf("told %s", got)
	}
}

// What is old is forgotten, but not who is yet to be told that an episode is
// over.
func TestAlertOpenForLong(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	r.fires(t, in)
	r.sql("INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind, next_at) VALUES ('msg_old', 'acme', 'ops', 'test', NULL)")
	r.sql("UPDATE nofx.alert_delivery SET created_at = now() - interval '100 days'")
	r.eventually("an old message is forgotten", func() bool {
		return len(r.column("SELECT id FROM nofx.alert_delivery WHERE id = 'msg_old'")) == 0
	})
	w := r.worker("host")
	w.finish(w.one(), exit(0))
	r.tick()
	if got := typeOf(t, in.next(t)); got != "alert.resolved" {
		t.Errorf("told %s", got)
	}
}
