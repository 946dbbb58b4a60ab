package api_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/internal/testpg"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// inbox is a receiver of alerts over HTTPS; how it answers can be changed.
type inbox struct {
	*httptest.Server

	mu       sync.Mutex
	answers  []int // of the next requests; 200 after that
	received chan delivery
}

type delivery struct {
	path, id, at, signature string
	body                    []byte
}

func newInbox(t *testing.T) *inbox {
	t.Helper()
	in := &inbox{received: make(chan delivery, 100)}
	in.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		in.received <- delivery{r.URL.Path, r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), r.Header.Get("Webhook-Signature"), body}
		in.mu.Lock()
		defer in.mu.Unlock()
		if len(in.answers) > 0 {
			status := in.answers[0]
			in.answers = in.answers[1:]
			if status == http.StatusFound {
				w.Header().Set("Location", "https://"+r.Host+"/elsewhere")
			}
			w.WriteHeader(status)
		}
	}))
	t.Cleanup(in.Close)
	return in
}

func (in *inbox) next(t *testing.T) delivery {
	t.Helper()
	select {
	case d := <-in.received:
		return d
	case <-time.After(time.Minute):
		t.Fatal("nothing was delivered")
		panic("not reached")
	}
}

// alertRig is an API that may call receivers on this host.
func alertRig(t *testing.T, allow string) (*rig, *inbox) {
	t.Helper()
	in := newInbox(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: in.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *api.Config) { c.AlertAllow, c.AlertCAFile = allow, ca })
	return r, in
}

// tick evaluates the rules as cron in the database would.
func (r *rig) tick() {
	r.t.Helper()
	r.system("SELECT nofx.alert_tick()")
}

// hurry makes the next try of a message that failed due at once.
func (r *rig) hurry() {
	r.t.Helper()
	r.system("UPDATE nofx.alert_delivery SET next_at = now() WHERE done_at IS NULL AND next_at > now() AND said <> ''")
}

func (r *rig) system(sql string) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.db.System)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) }()
	if _, err := conn.Exec(r.t.Context(), sql); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(90 * time.Second); !f(); <-tick.C {
		if time.Now().After(end) {
			r.t.Fatalf("it did not come about: %s", what)
		}
	}
}

// An episode is told once, signed, and once that it is over; it begins when the
// value is above and ends when it is low, not between.
func TestAlertEpisode(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	secret, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "ops", Kind: "webhook", URL: in.URL + "/hook"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) != 32 {
		t.Fatalf("secret %q: %v", secret, err)
	}
	if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: "acme", Name: "deep", Metric: "queue_depth", Above: 2, Below: 1}); err != nil {
		t.Fatal(err)
	}
	w := r.worker("host")
	state := func() (rule wire.AlertRule, alerts []wire.Alert) {
		t.Helper()
		list, err := r.user.Alerts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list.Rules {
			if x.Name == "deep" {
				rule = x
			}
		}
		for _, x := range list.Alerts {
			if x.Rule == "deep" {
				alerts = append(alerts, x)
			}
		}
		return rule, alerts
	}
	const one = `[{"name":"a","tool":"test:echo"}]`
	r.submit(one)
	r.submit(one)
	r.tick() // two wait: not above
	if rule, alerts := state(); rule.AlertID != "" || len(alerts) != 0 || rule.Value == nil || *rule.Value != 2 {
		t.Errorf("at two: %+v %+v", rule, alerts)
	}
	r.submit(one)
	r.tick()
	r.tick()
	d := in.next(t)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", d.id, d.at, d.body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); d.signature != want || d.path != "/hook" || strings.Contains(d.id, ".") || d.id == "" {
		t.Errorf("%+v, want the signature %s", d, want)
	}
	var told struct {
		Type string
		Data struct {
			Tenant, Rule, ID string
			Value            float64
		}
	}
	if err := json.Unmarshal(d.body, &told); err != nil || told.Type != "alert.fired" || told.Data.Tenant != "acme" || told.Data.Rule != "deep" || told.Data.Value != 3 {
		t.Errorf("%s: %v", d.body, err)
	}
	w.finish(w.one(), exit(0))
	r.tick() // two wait: between, so still open
	if rule, alerts := state(); rule.AlertID != told.Data.ID || len(alerts) != 1 || alerts[0].ResolvedAt != nil {
		t.Errorf("between: %+v %+v", rule, alerts)
	}
	w.finish(w.one(), exit(0))
	r.tick()
	d = in.next(t)
	if err := json.Unmarshal(d.body, &told); err != nil || told.Type != "alert.resolved" {
		t.Errorf("%s: %v", d.body, err)
	}
	r.tick()
	if rule, alerts := state(); rule.AlertID != "" || len(alerts) != 1 || alerts[0].ResolvedAt == nil || alerts[0].Peak != 3 {
		t.Errorf("over: %+v %+v", rule, alerts)
	}
	// Silenced, it does not begin; without silence it does again.
	if err := r.user.SilenceAlert(t.Context(), "deep", 10); err != nil {
		t.Fatal(err)
	}
	r.submit(one)
	r.submit(one)
	r.tick()
	if rule, alerts := state(); rule.AlertID != "" || len(alerts) != 1 || rule.SilencedUntil == nil || rule.Since == nil {
		t.Errorf("silenced: %+v %+v", rule, alerts)
	}
	if err := r.user.SilenceAlert(t.Context(), "deep", 0); err != nil {
		t.Fatal(err)
	}
	r.tick()
	if d := in.next(t); !strings.Contains(string(d.body), "alert.fired") {
		t.Errorf("%s", d.body)
	}
	if n := len(in.received); n != 0 {
		t.Errorf("%d messages more than there should be", n)
	}
	if err := r.user.SilenceAlert(t.Context(), "nosuch", 1); !step.Is(err, step.KindNotFound) {
		t.Errorf("no such rule: %v", err)
	}
}

// A receiver that fails is tried again with the same id; a redirect is not
// followed; one that is gone is not called any more.
func TestAlertRetries(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "ops", Kind: "webhook", URL: in.URL}); err != nil {
		t.Fatal(err)
	}
	in.mu.Lock()
	in.answers = []int{http.StatusInternalServerError, http.StatusFound}
	in.mu.Unlock()
	sent, err := r.user.TestAlert(t.Context(), "ops")
	if err != nil {
		t.Fatal(err)
	}
	last := func() string {
		list, err := r.user.Alerts(t.Context())
		if err != nil || len(list.Receivers) != 1 {
			t.Fatal(list, err)
		}
		if x := list.Receivers[0]; x.DisabledAt != nil {
			return "disabled"
		}
		return list.Receivers[0].Last
	}
	for _, said := range []string{": it answered 500", ": it answered 302", ""} {
		if d := in.next(t); d.id != sent.MessageID || d.path != "/" || !strings.Contains(string(d.body), "alert.test") {
			t.Errorf("%+v", d)
		}
		if said != "" {
			r.eventually("the failure is noted", func() bool { return strings.HasSuffix(last(), said) })
			r.hurry()
		}
	}
	r.eventually("the message is taken", func() bool { return last() == "test taken" })
	in.mu.Lock()
	in.answers = []int{http.StatusGone}
	in.mu.Unlock()
	if _, err := r.user.TestAlert(t.Context(), "ops"); err != nil {
		t.Fatal(err)
	}
	in.next(t)
	r.eventually("the receiver is disabled", func() bool { return last() == "disabled" })
	// The default rules are there, and an open one is not told to it.
	if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: "acme", Name: "deep", Metric: "queue_depth"}); err != nil {
		t.Fatal(err)
	}
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	r.tick()
	list, err := r.user.Alerts(t.Context())
	if err != nil || len(list.Alerts) != 1 || len(list.Rules) < 6 || len(in.received) != 0 {
		t.Errorf("%+v, %v, %d received", list, err, len(in.received))
	}
}

// Slack gets blocks; what is not on the Internet is called only where the
// operator allows it, and no error tells a URL.
func TestAlertReceivers(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	const token = "/services/T000/B000/verysecret"
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "chat", Kind: "slack", URL: in.URL + token}); err != nil {
		t.Fatal(err)
	}
	if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: "acme", Name: "deep", Metric: "queue_depth"}); err != nil {
		t.Fatal(err)
	}
	r.submit(`[{"name":"a","tool":"test:echo"}]`)
	r.tick()
	d := in.next(t)
	var m struct {
		Text   string
		Blocks []struct {
			Type   string
			Fields []struct{ Text string }
		}
	}
	if err := json.Unmarshal(d.body, &m); err != nil || m.Text != "Alert: deep" || len(m.Blocks) != 3 || m.Blocks[0].Type != "header" || d.path != token || d.signature != "" ||
		m.Blocks[1].Fields[0].Text != "*Metric*\nqueue_depth" || m.Blocks[1].Fields[1].Text != "*Value*\n1 (rule: above 0)" {
		t.Errorf("%s %+v: %v", d.body, d, err)
	}
	if resp, raw := r.call("GET", "/api/alerts", r.keys["acme user"], nil); resp.StatusCode != http.StatusOK || strings.Contains(string(raw), "verysecret") || !strings.Contains(string(raw), `"host":"127.0.0.1:`) {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}

	private, in := alertRig(t, "")
	if _, err := api.SetAlertReceiver(t.Context(), private.db.Admin, api.AlertReceiver{KeysetFile: private.cfg.KeysetFile, Tenant: "acme", Name: "chat", Kind: "slack", URL: in.URL + token}); err != nil {
		t.Fatal(err)
	}
	if _, err := private.user.TestAlert(t.Context(), "chat"); err != nil {
		t.Fatal(err)
	}
	private.eventually("the refusal is told", func() bool {
		list, err := private.user.Alerts(t.Context())
		return err == nil && list.Receivers[0].Last == "test on its way: its address is not on the Internet and NOFX_ALERT_ALLOW does not list it"
	})
	if len(in.received) != 0 {
		t.Error("it was called")
	}
	if strings.Contains(r.log.String()+private.log.String(), "verysecret") {
		t.Error("the url is in the log")
	}
	for _, bad := range []api.AlertReceiver{
		{Tenant: "acme", Name: "x", Kind: "slack", URL: "http://example.com/"},
		{Tenant: "acme", Name: "x", Kind: "slack", URL: "https://user:pw@example.com/"},
		{Tenant: "acme", Name: "x", Kind: "mail", URL: "https://example.com/"},
		{Tenant: "acme", Name: "X y", Kind: "slack", URL: "https://example.com/"},
		{Tenant: "acme", Name: "x", Kind: "webhook", URL: "https://example.com/", Secret: "whsec_c2hvcnQ="},
		{Tenant: "nobody", Name: "x", Kind: "slack", URL: "https://example.com/"},
	} {
		bad.KeysetFile = r.cfg.KeysetFile
		if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, bad); err == nil || strings.Contains(err.Error(), "internal") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, bad := range []api.AlertRule{
		{Tenant: "acme", Name: "x", Metric: "mood", Above: 1},
		{Tenant: "acme", Name: "x", Metric: "queue_depth", Above: 1, Below: 2},
		{Tenant: "acme", Name: "x", Metric: "queue_depth", Above: -1},
		{Tenant: "acme", Name: "x", Metric: "queue_depth", Above: 1, For: 48 * time.Hour},
		{Tenant: "nobody", Name: "x", Metric: "queue_depth", Above: 1},
	} {
		if err := api.SetAlertRule(t.Context(), r.db.Admin, bad); err == nil || strings.Contains(err.Error(), "internal") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := api.DropAlertReceiver(t.Context(), r.db.Admin, "acme", "chat"); err != nil {
		t.Error(err)
	}
	if err := api.DropAlertReceiver(t.Context(), r.db.Admin, "acme", "chat"); !step.Is(err, step.KindNotFound) {
		t.Error(err)
	}
	if err := api.DropAlertRule(t.Context(), r.db.Admin, "acme", "deep"); err != nil {
		t.Error(err)
	}
}

// Every metric that a rule can look at has a value that follows what is there,
// and nothing of another tenant's.
func TestAlertMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.client("rival", "user")
	for _, tenant := range []string{"acme", "rival"} {
		for _, m := range api.AlertMetrics() {
			if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: tenant, Name: m, Metric: m, Above: 1000}); err != nil {
				t.Fatal(err)
			}
		}
	}
	values := func(c *client.Client) map[string]float64 {
		t.Helper()
		r.tick()
		list, err := c.Alerts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, rule := range list.Rules {
			out[rule.Metric] = *rule.Value
		}
		return out
	}
	want := map[string]float64{"queue_depth": 0, "oldest_age_seconds": 0, "dlq_growth": 0, "workers_lost": 0, "sweep_leftovers": 0, "breakers_open": 0, "spool_trouble": 0, "audit_trouble": 0}
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, values(r.user)); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	check("at first")
	run := r.submit(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo"}]`)
	l := w.one()
	r.system("UPDATE nofx.step SET due_at = now() + interval '1 hour' WHERE status = 'queued'")
	check("what is not due does not count")
	r.system("UPDATE nofx.step SET due_at = now() - interval '90 seconds' WHERE status = 'queued'")
	want["queue_depth"] = 1
	got := values(r.user)
	if got["oldest_age_seconds"] < 90 || got["oldest_age_seconds"] > 120 {
		t.Errorf("oldest: %v", got)
	}
	r.system("UPDATE nofx.step SET status = 'failed', ended_at = now() WHERE status = 'queued'")
	want["queue_depth"] = 0
	r.system("INSERT INTO nofx.step_dlq (id, tenant_id, run_id, step_id, generation, cause, attempts, history) VALUES ('dlq_x', 'acme', '" + run.ID + "', '" + l.StepID + "', 1, 'lost', 3, '[]')")
	r.system("INSERT INTO nofx.worker_event (tenant_id, worker_id, type) SELECT 'acme', '" + w.id + "', t FROM unnest(ARRAY['sweep.removed', 'sweep.removed', 'driver.lost']) t")
	w.drivers[0].Full = true
	w.beat()
	want["dlq_growth"], want["sweep_leftovers"], want["spool_trouble"] = 1, 2, 1
	check("with a full disk")
	r.system("UPDATE nofx.worker SET status = 'lost'")
	want["spool_trouble"] = 0
	want["dlq_growth"], want["sweep_leftovers"], want["workers_lost"] = 1, 2, 1
	check("after all of it")
	for metric, v := range values(r.client("rival", "user")) {
		if v != 0 {
			t.Errorf("another tenant's %s is %v", metric, v)
		}
	}
}

// Cron in the database can do what the API's own timer does: a rule is looked
// at and its message made by a job of pg_cron's, as docs/alerts.md has it.
func TestAlertCron(t *testing.T) {
	t.Parallel()
	const database = "test_1" // the server's first
	cron, err := testpg.Start(t.Context(), func(ctx context.Context, url string) error {
		_, err := api.Migrate(ctx, url)
		return err
	}, "shared_preload_libraries=pg_cron", "cron.database_name="+database, "cron.use_background_workers=on", "max_worker_processes=20")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cron.Stop(); err != nil {
			t.Error(err)
		}
	})
	db := cron.Database(t)
	sql := func(url, text string) *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		if _, err := conn.Exec(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	admin := sql(db.Admin, "CREATE EXTENSION pg_cron; GRANT USAGE ON SCHEMA cron TO nofx_system; INSERT INTO nofx.tenant (tenant_id, name) VALUES ('acme', 'acme')")
	if err := api.SetAlertRule(t.Context(), db.Admin, api.AlertRule{Tenant: "acme", Name: "lost", Metric: "workers_lost"}); err != nil {
		t.Fatal(err)
	}
	sql(db.System, "SELECT cron.schedule('nofx alerts', '* * * * *', 'SELECT nofx.alert_tick()')")
	r := &rig{t: t}
	r.eventually("a job has looked at the rule", func() bool {
		var seen bool
		err := admin.QueryRow(t.Context(), "SELECT seen_at IS NOT NULL FROM nofx.alert_rule WHERE name = 'lost'").Scan(&seen)
		return err == nil && seen
	})
	if _, err := admin.Exec(t.Context(), "SELECT cron.unschedule(jobid) FROM cron.job"); err != nil {
		t.Error(err)
	}
}

// Where nothing runs between requests, a request does the work; only with the
// token, and only where one is set.
func TestTick(t *testing.T) {
	t.Parallel()
	const token = "a-token-that-is-long-enough"
	r := newRig(t, func(c *api.Config) { c.TickToken = token })
	for key, want := range map[string]int{"": 401, token + "x": 401, r.keys["acme user"]: 401, token: 204} {
		if resp, raw := r.call("POST", "/api/tick", key, nil); resp.StatusCode != want {
			t.Errorf("%q: %d %s", key, resp.StatusCode, raw)
		}
	}
	if err := api.SetAlertRule(t.Context(), r.db.Admin, api.AlertRule{Tenant: "acme", Name: "lost", Metric: "workers_lost"}); err != nil {
		t.Fatal(err)
	}
	r.call("POST", "/api/tick", token, nil)
	if list, err := r.user.Alerts(t.Context()); err != nil || len(list.Rules) != 1 || list.Rules[0].SeenAt == nil {
		t.Errorf("%+v, %v", list, err)
	}
	none := newRig(t)
	if resp, raw := none.call("POST", "/api/tick", token, nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("without a token: %d %s", resp.StatusCode, raw)
	}
	bad := r.cfg
	bad.TickToken = "short"
	if _, err := api.New(t.Context(), bad, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "NOFX_TICK_TOKEN") {
		t.Errorf("a short token: %v", err)
	}
}
