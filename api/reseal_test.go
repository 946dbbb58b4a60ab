package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func (r *rig) resealConfig() api.ResealConfig {
	return api.ResealConfig{SystemURL: r.db.System, KeysetFile: r.cfg.KeysetFile, HandlersDir: r.cfg.HandlersDir}
}

// reseal runs it and gives what it printed.
func (r *rig) reseal() (string, error) {
	r.t.Helper()
	var out bytes.Buffer
	err := api.Reseal(r.t.Context(), r.resealConfig(), &out)
	return out.String(), err
}

// keysetOf are the ids of a keyset's keys, the oldest first.
func (r *rig) keyset() (ids []string) {
	r.t.Helper()
	var out bytes.Buffer
	if err := api.ListKeyset(r.cfg.KeysetFile, &out); err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		ids = append(ids, strings.Fields(line)[0])
	}
	return ids
}

func (r *rig) bounce() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	r.restart()
}

const withEnv = `[{"name":"a","tool":"bash","inputs":{"command":"exit 1","env":{"TOKEN":"%s"}},"retry":{"attempts":2,"backoff_ms":1}}]`

// Sealed with one key, rotated, sealed with another, resealed, the first one
// dropped: all of it opens.
func TestRotation(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	w := r.worker("host")
	set := func(name string) {
		t.Helper()
		if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: name, Kind: "webhook", URL: in.URL + "/" + name}); err != nil {
			t.Fatal(err)
		}
	}
	// An entry with inputs of its own, and a step that has been queued since.
	old := r.die(w, fmt.Sprintf(withEnv, "first"))
	if _, err := r.user.RequeueDead(t.Context(), r.dead(wire.DeadFilter{})[0].ID, wire.RequeueDead{Inputs: []byte(`{"command":"true","env":{"TOKEN":"[sealed]"}}`)}, ""); err != nil {
		t.Fatal(err)
	}
	set("one")
	if _, err := api.RotateKeyset(r.cfg.KeysetFile, false); err != nil {
		t.Fatal(err)
	}
	ids := r.keyset()
	r.bounce()
	fresh := r.submit(fmt.Sprintf(withEnv, "second"))
	set("two")
	if err := api.DropKey(t.Context(), r.resealConfig(), ids[0]); err == nil || !strings.Contains(err.Error(), "3 rows are sealed with the key "+ids[0]) {
		t.Fatalf("a key that is in use was dropped: %v", err)
	}
	out, err := r.reseal()
	if err != nil || strings.Count(out, "resealed 1,") != 3 {
		t.Fatalf("%s%v", out, err)
	}
	if out, err = r.reseal(); err != nil || strings.Count(out, "sealed 0, resealed 0, changed meanwhile 0, not to be opened 0") != 3 {
		t.Fatalf("the second time: %s%v", out, err)
	}
	if err := api.DropKey(t.Context(), r.resealConfig(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if left := r.keyset(); !slices.Equal(left, ids[1:]) {
		t.Fatalf("left are %v of %v", left, ids)
	}
	r.bounce()
	w.Client = r.again("acme worker")
	got := map[string]string{}
	for _, l := range w.claim(4, 0) {
		got[l.RunID] = l.Command.Env["TOKEN"]
	}
	if diff := cmp.Diff(map[string]string{old.ID: "first", fresh.ID: "second"}, got); diff != "" {
		t.Fatal(diff)
	}
	r.user = r.again("acme user")
	for _, name := range []string{"one", "two"} {
		if _, err := r.user.TestAlert(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		for m := in.next(t); m.path != "/"+name || !strings.Contains(string(m.body), "alert.test"); m = in.next(t) { // the first has alerts of its own
			continue
		}
	}
}

// A ciphertext that was copied to another row, or to another tenant, does not
// open: its step fails, once, says why, and holds nobody up. Put right, it is
// tried again.
func TestSwappedCiphertext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.client("other", "user")
	w := r.worker("host")
	a := r.submit(fmt.Sprintf(withEnv, "canary-of-a"))
	b := r.submit(fmt.Sprintf(withEnv, "canary-of-b"))
	c := r.submit(fmt.Sprintf(withEnv, "canary-of-c"))
	resp, raw := r.call("POST", "/api/runs", r.keys["other user"], []byte(`{"plan":{"goal":"test","steps":`+fmt.Sprintf(withEnv, "canary-of-other")+`}}`))
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	keep := r.column(`SELECT encode(sealed, 'hex') FROM nofx.step WHERE run_id = '` + a.ID + `'`)[0]
	r.sql(`UPDATE nofx.step SET sealed = (SELECT o.sealed FROM nofx.step o WHERE o.run_id = $1) WHERE run_id = $2`, b.ID, a.ID)
	r.sql(`UPDATE nofx.step SET sealed = (SELECT o.sealed FROM nofx.step o WHERE o.run_id = $1) WHERE tenant_id = 'other'`, b.ID)
	r.sql(`UPDATE nofx.step SET sealed = NULL WHERE run_id = $1`, c.ID) // taken away, which leaves no command
	leases := w.claim(8, 0)
	if len(leases) != 1 || leases[0].RunID != b.ID || leases[0].Command.Env["TOKEN"] != "canary-of-b" {
		t.Fatalf("%+v", leases)
	}
	d := r.run(a.ID)
	if s := d.Steps[0]; d.Run.Status != step.RunFailed || s.Verdict == nil || s.Verdict.Cause != step.CausePolicy || !strings.Contains(s.Verdict.Message, "cannot be opened: what is sealed was changed, or copied") {
		t.Errorf("%+v %v", d.Run, s.Verdict)
	}
	want := []step.EventType{step.EventStepFinished, step.EventStepFailed, step.EventStepDead, step.EventRunFailed}
	if types := r.types(a.ID); len(types) < 4 || !slices.Equal(types[len(types)-4:], want) {
		t.Errorf("%v", types)
	}
	dead := r.dead(wire.DeadFilter{})
	if len(dead) != 2 || dead[0].Cause != step.CausePolicy || !strings.Contains(dead[0].Reason, "cannot be opened") {
		t.Fatalf("%+v", dead)
	}
	if n := r.column(`SELECT count(*)::text FROM nofx.step_dlq`)[0]; n != "3" {
		t.Errorf("%s entries", n)
	}
	if n := r.column(`SELECT count(*)::text FROM nofx.handler_tally WHERE bad0 > 0`)[0]; n != "0" {
		t.Error("a breaker counts what no driver has done")
	}
	if more := w.claim(8, 0); len(more) != 0 {
		t.Errorf("claimed again: %+v", more)
	}
	out, err := r.reseal()
	if err != nil {
		t.Errorf("reseal, with one key: %s%v", out, err) // it is under the primary key; a claim finds it out
	}
	// Another driver needs the old inputs; other inputs do not.
	i := slices.IndexFunc(dead, func(e wire.DeadStep) bool { return e.RunID == a.ID })
	if _, err := r.user.RequeueDead(t.Context(), dead[i].ID, wire.RequeueDead{Driver: "local"}, ""); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "cannot be opened") {
		t.Errorf("%v", err)
	}
	if _, err := r.user.RequeueDead(t.Context(), dead[i].ID, wire.RequeueDead{Inputs: []byte(`{"command":"true","env":{"TOKEN":"[sealed]"}}`)}, ""); err == nil || !strings.Contains(err.Error(), "give the value") {
		t.Errorf("%v", err)
	}
	r.sql(`UPDATE nofx.step SET sealed = decode($1, 'hex') WHERE run_id = $2`, keep, a.ID)
	if _, err := r.user.RequeueDead(t.Context(), dead[i].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	if l := w.one(); l.RunID != a.ID || l.Command.Env["TOKEN"] != "canary-of-a" {
		t.Errorf("%+v", l)
	}
	j := 1 - i
	if _, err := r.user.RequeueDead(t.Context(), dead[j].ID, wire.RequeueDead{Inputs: []byte(`{"command":"true","env":{"TOKEN":"new"}}`)}, ""); err != nil {
		t.Fatal(err)
	}
	if l := w.one(); l.RunID != c.ID || l.Command.Env["TOKEN"] != "new" {
		t.Errorf("%+v", l)
	}
}

// A replica whose keyset lacks the key, or that has none at all, fails such a
// step and names key and setting; with the key back, it is tried again.
func TestLostKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	r.submit(fmt.Sprintf(withEnv, "canary"))
	r.submit(`[{"name":"b","tool":"test:echo"}]`)
	have := r.cfg.KeysetFile
	id := r.keyset()[0]
	r.cfg.KeysetFile = ""
	r.bounce()
	r.user = r.again("acme user")
	w.Client = r.again("acme worker")
	if leases := w.claim(8, 0); len(leases) != 1 || leases[0].StepName != "b" {
		t.Fatalf("%+v", leases)
	}
	dead := r.dead(wire.DeadFilter{})
	if len(dead) != 1 || !strings.Contains(dead[0].Reason, id) || !strings.Contains(dead[0].Reason, "NOFX_KEYSET_FILE") {
		t.Fatalf("%+v", dead)
	}
	r.cfg.KeysetFile = have
	r.bounce()
	r.user = r.again("acme user")
	w.Client = r.again("acme worker")
	if _, err := r.user.RequeueDead(t.Context(), dead[0].ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	l := w.one()
	if l.Command.Env["TOKEN"] != "canary" {
		t.Errorf("%+v", l)
	}
	// Inputs that have nothing to hide any more lie in clear; the entries keep theirs.
	w.finish(l, exit(1))
	w.finish(w.one(), exit(1))
	if _, err := r.user.RequeueDead(t.Context(), r.dead(wire.DeadFilter{})[0].ID, wire.RequeueDead{Inputs: []byte(`{"command":"true"}`)}, ""); err != nil {
		t.Fatal(err)
	}
	if l := w.one(); l.Command.Env["TOKEN"] != "" || l.Command.Argv[2] != "true" {
		t.Errorf("%+v", l)
	}
	if n := r.column(`SELECT count(sealed)::text FROM nofx.step UNION ALL SELECT count(sealed)::text FROM nofx.step_dlq`); !slices.Equal(n, []string{"0", "2"}) {
		t.Errorf("sealed in step and step_dlq: %v", n)
	}
}

// A receiver whose ciphertext is another one's is not called; people see why,
// and it is tried again.
func TestSwappedReceiver(t *testing.T) {
	t.Parallel()
	r, in := alertRig(t, "127.0.0.0/8")
	for _, name := range []string{"one", "two"} {
		if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: name, Kind: "webhook", URL: in.URL + "/" + name}); err != nil {
			t.Fatal(err)
		}
	}
	keep := r.column(`SELECT encode(sealed, 'hex') FROM nofx.alert_receiver WHERE name = 'one'`)[0]
	r.sql(`UPDATE nofx.alert_receiver SET sealed = (SELECT o.sealed FROM nofx.alert_receiver o WHERE o.name = 'two') WHERE name = 'one'`)
	for _, name := range []string{"one", "two"} {
		if _, err := r.user.TestAlert(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if m := in.next(t); m.path != "/two" {
		t.Errorf("%+v", m)
	}
	r.eventually("what is wrong is told", func() bool {
		list, err := r.user.Alerts(t.Context())
		return err == nil && strings.HasPrefix(list.Receivers[0].Last, "test on its way: its url is sealed: what is sealed was changed, or copied")
	})
	r.sql(`UPDATE nofx.alert_receiver SET sealed = decode($1, 'hex') WHERE name = 'one'`, keep)
	r.hurry()
	if m := in.next(t); m.path != "/one" {
		t.Errorf("%+v", m)
	}
}

// What lay in clear from before is sealed by reseal, and works as it did.
func TestResealClearRows(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.HandlersDir = manifests(t, false) })
	w := r.worker("host")
	const canary = "canary-9d0b6c31f7"
	r.die(w, fmt.Sprintf(withEnv, canary))
	if _, err := r.user.RequeueDead(t.Context(), r.dead(wire.DeadFilter{})[0].ID, wire.RequeueDead{Inputs: []byte(`{"command":"true","env":{"TOKEN":"` + canary + `"}}`)}, ""); err != nil {
		t.Fatal(err)
	}
	w.finish(w.one(), exit(0))
	ended := r.submit(`[{"name":"l","tool":"x:login","inputs":{"user":"ann","words":["` + canary + `"]}}]`)
	w.finish(w.one(), exit(0))
	waits := r.submit(`[{"name":"l","tool":"x:login","inputs":{"user":"bob","words":["` + canary + `"],"input":"` + canary + `"}},{"name":"e","tool":"test:echo","inputs":{"msg":"hello"}}]`)
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "ops", Kind: "slack", URL: "https://hooks.example.com/x"}); err != nil {
		t.Fatal(err)
	}
	r.sql(`UPDATE nofx.alert_receiver SET sealed = NULL, url = 'https://hooks.example.com/` + canary + `', secret = 'whsec_` + canary + `'`)
	want := []string{"alert_receiver.secret", "alert_receiver.url", "step.command", "step.inputs", "step.outputs", "step.shown", "step_dlq.inputs"}
	if found := r.found(canary); !slices.Equal(found, want) {
		t.Fatalf("before: in %v, want %v", found, want)
	}
	r.cfg.HandlersDir = manifests(t, true)
	r.bounce()
	r.user = r.again("acme user")
	w.Client = r.again("acme worker")
	out, err := r.reseal()
	if err != nil {
		t.Fatalf("%s%v", out, err)
	}
	for _, line := range []string{"step            sealed 3, resealed 0", "step_dlq        sealed 1, resealed 0", "alert_receiver  sealed 1, resealed 0"} {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in %s", line, out)
		}
	}
	r.nowhere(canary)
	if out, err = r.reseal(); err != nil || strings.Count(out, "sealed 0, resealed 0") != 3 {
		t.Errorf("the second time: %s%v", out, err)
	}
	if s := r.run(ended.ID).Steps[0]; !strings.Contains(string(s.Outputs), `[sealed]`) || !strings.Contains(string(s.Outputs), `"success":true`) || !strings.Contains(string(s.Inputs), `"user":"ann"`) {
		t.Errorf("%s %s", s.Inputs, s.Outputs)
	}
	for _, l := range w.claim(4, 0) {
		if l.RunID != waits.ID || l.StepName == "l" && (l.Command.Argv[1] != canary || string(l.Command.Stdin) != canary) {
			t.Errorf("%+v", l)
		}
	}
	r.sql(`UPDATE nofx.step SET sealed = sealed || '\x00' WHERE run_id = $1 AND name = 'l'`, ended.ID)
	if _, err := api.RotateKeyset(r.cfg.KeysetFile, false); err != nil {
		t.Fatal(err)
	}
	if out, err = r.reseal(); err == nil || !strings.Contains(err.Error(), "1 rows are left") || !strings.Contains(out, r.run(ended.ID).Steps[0].ID+" of tenant acme: what is sealed was changed") || !strings.Contains(out, "resealed 2") {
		t.Errorf("%s%v", out, err)
	}
	if err := api.Reseal(t.Context(), api.ResealConfig{SystemURL: r.db.System}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "NOFX_KEYSET_FILE") {
		t.Errorf("without a keyset: %v", err)
	}
}
