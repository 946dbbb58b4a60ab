package api_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/configs"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// login has what is sensitive in every part of a command, and in what people
// see of it.
const login = `tool: x:login
description: x
driver: local
resources: {cpu: 1, memory_mb: 128, pids: 32, output_kb: 4096}
timeout_ms: 30000
inputs:
  type: object
  additionalProperties: false
  properties:
    user: {type: string}
    words: {type: array, x-sensitive: true, items: {type: string}}
    input: {type: string, x-sensitive: true}
    files: {type: array, x-sensitive: true, items: {type: object}}
command: {argv: [login, {input: words}], stdin: {input: input}, files: [{input: files}]}
shown: {inputs: json}
outputs: shell
`

// manifests are those that NOFX ships, without any mark if asked to, and login.
func manifests(t testing.TB, marks bool) string {
	t.Helper()
	shipped, err := configs.Handlers()
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(shipped, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"login.yaml": login}
	for _, name := range names {
		raw, err := fs.ReadFile(shipped, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(raw)
	}
	dir := t.TempDir()
	for name, text := range files {
		var m map[string]any
		if err := yaml.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		properties, _ := m["inputs"].(map[string]any)["properties"].(map[string]any)
		for _, p := range properties {
			if !marks {
				delete(p.(map[string]any), "x-sensitive")
			}
		}
		raw, err := yaml.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// found are the columns of the database in which a text is, in whatever form.
func (r *rig) found(text string) []string {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.db.Admin)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close(r.t.Context()) }()
	forms := []string{text, hex.EncodeToString([]byte(text))}
	for skip := range 3 { // base64 has three forms, by where in a text it begins
		whole := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", skip) + text))
		forms = append(forms, whole[4*((skip+2)/3):len(whole)-4])
	}
	rows, err := conn.Query(r.t.Context(), `SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns
		WHERE table_schema = 'nofx' AND (data_type IN ('text', 'character varying', 'json', 'jsonb', 'bytea') OR data_type = 'ARRAY')`)
	if err != nil {
		r.t.Fatal(err)
	}
	columns, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c [3]string, err error) { return c, row.Scan(&c[0], &c[1], &c[2]) })
	if err != nil || len(columns) < 100 {
		r.t.Fatalf("%d columns: %v", len(columns), err)
	}
	var found []string
	for _, c := range columns {
		test := fmt.Sprintf(`position(f in %q::text) > 0`, c[1])
		if c[2] == "bytea" {
			test = fmt.Sprintf(`position(convert_to(f, 'UTF8') in %q) > 0`, c[1])
		}
		var n int
		if err := conn.QueryRow(r.t.Context(), fmt.Sprintf(`SELECT count(*) FROM nofx.%q, unnest($1::text[]) f WHERE %s`, c[0], test), forms).Scan(&n); err != nil {
			r.t.Fatal(err)
		}
		if n > 0 {
			found = append(found, c[0]+"."+c[1])
		}
	}
	slices.Sort(found)
	return found
}

// nowhere fails where a text is in the database or the log, or in what an API
// call answers.
func (r *rig) nowhere(texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		if found := r.found(text); len(found) > 0 {
			r.t.Errorf("%s is in %v", text, found)
		}
		if strings.Contains(r.log.String(), text) {
			r.t.Errorf("%s is in the log", text)
		}
	}
}

// get is the text of an answer that must not have what is sealed.
func (r *rig) get(path string, without ...string) string {
	r.t.Helper()
	resp, raw := r.call("GET", path, r.keys["acme user"], nil)
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %d %s", path, resp.StatusCode, raw)
	}
	for _, text := range without {
		if strings.Contains(string(raw), text) {
			r.t.Errorf("%s is in %s: %s", text, path, raw)
		}
	}
	return string(raw)
}

// What is sensitive is nowhere in the database: not when it is submitted, not
// when its step dies, and not when it is tried again with other inputs. The
// worker has it.
func TestSealedAtRest(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.HandlersDir = manifests(t, true) })
	w := r.worker("host", offering("local", able...), offering("other", able...))
	const canary, later, plain = "canary-4fb1c7d2e9", "canary-0a93e5f816", "visible-77c0d1b3"
	body := []byte(`{"plan":{"goal":"test","steps":[
		{"name":"a","tool":"bash","inputs":{"command":"exit 1 # ` + plain + `","env":{"TOKEN":"` + canary + `","NAME":"` + canary + `"}},"retry":{"attempts":2,"backoff_ms":1}},
		{"name":"b","tool":"x:login","depends_on":["a"],"inputs":{"user":"ann","words":["-p","` + canary + `"],"input":"` + canary + `","files":[{"path":"f","content":"` + canary + `"}]}},
		{"name":"c","tool":"bash","depends_on":["a"],"tools_allowed":["none"],"inputs":{"command":"true","env":{"TOKEN":"` + canary + `"}}}]}}`)
	var created wire.RunCreated
	for range 2 {
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], body, "x-idempotency-key", "idempotent-1")
		if resp.StatusCode != http.StatusCreated || json.Unmarshal(raw, &created) != nil {
			t.Fatalf("%d %s", resp.StatusCode, raw)
		}
	}
	key := r.run(created.ID).Steps[0].IdempotencyKey
	for range 2 {
		l := w.one()
		if l.Command.Env["TOKEN"] != canary || !strings.Contains(l.Command.Argv[2], plain) {
			t.Fatalf("%+v", l.Command)
		}
		w.finish(l, exit(1))
	}
	r.nowhere(canary)
	if found := r.found(plain); !slices.Contains(found, "step.inputs") || !slices.Contains(found, "step.outputs") {
		t.Fatalf("what is not sensitive is in %v: the search finds nothing", found)
	}
	e := r.dead(wire.DeadFilter{})[0]
	for _, path := range []string{"/api/runs/" + created.ID, "/api/runs/" + created.ID + "/timeline", "/api/dlq", "/api/dlq/" + e.ID, "/api/dlq/export"} {
		text := r.get(path, canary)
		if strings.Contains(text, plain) && !strings.Contains(text, `"TOKEN":"[sealed]"`) {
			t.Errorf("%s: %s", path, text)
		}
	}

	// Edited: what still is a place holder stays, what is new is sealed.
	change := func(inputs string) error {
		_, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{Inputs: json.RawMessage(inputs)}, "")
		return err
	}
	if err := change(`{"command":"true","env":{"OTHER":"[sealed]"}}`); err == nil || !strings.Contains(err.Error(), "body.inputs.env.OTHER") || !strings.Contains(err.Error(), "give the value") {
		t.Fatalf("a place holder of nothing: %v", err)
	}
	if err := change(`{"command":"exit 2","env":{"TOKEN":"[sealed]","MORE":"` + later + `"}}`); err != nil {
		t.Fatal(err)
	}
	s := r.run(created.ID).Steps[0]
	if string(s.Inputs) != `{"command":"exit 2","env":{"TOKEN":"[sealed]","MORE":"[sealed]"}}` || s.IdempotencyKey == key {
		t.Errorf("%s %s", s.Inputs, s.IdempotencyKey)
	}
	for range 2 {
		l := w.one()
		if env := l.Command.Env; env["TOKEN"] != canary || env["MORE"] != later || env["NAME"] != "" {
			t.Fatalf("%v", env)
		}
		w.finish(l, exit(2))
	}
	r.nowhere(canary, later)
	if text := r.get("/api/dlq/"+e.ID, canary, later); !strings.Contains(text, `"NAME":"[sealed]"`) {
		t.Errorf("the first entry has lost its inputs: %s", text)
	}

	// Another driver, then as it is; both have what was sealed.
	e = r.dead(wire.DeadFilter{})[0]
	for _, answer := range []int{http.StatusOK, http.StatusOK} {
		resp, raw := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], []byte(`{"driver":"other"}`), "x-idempotency-key", "idempotent-2")
		if resp.StatusCode != answer || strings.Contains(string(raw), canary) {
			t.Fatalf("%d %s", resp.StatusCode, raw)
		}
	}
	l := w.one()
	if l.Driver != "other" || l.Command.Env["TOKEN"] != canary || l.Command.Env["MORE"] != later {
		t.Fatalf("%+v", l)
	}
	w.finish(l, exit(1))
	w.finish(w.one(), exit(1))
	if _, err := r.user.RetryRun(t.Context(), created.ID, wire.RetryRun{}, ""); err != nil {
		t.Fatal(err)
	}
	if l = w.one(); l.Command.Env["TOKEN"] != canary {
		t.Fatalf("%+v", l)
	}
	w.finish(l, exit(0))
	l = w.one()
	if c := l.Command; !slices.Equal(c.Argv, []string{"login", "-p", canary}) || string(c.Stdin) != canary || string(c.Files[0].Data) != canary {
		t.Fatalf("%+v", c)
	}
	w.finish(l, exit(3))
	r.nowhere(canary, later)
	b := r.run(created.ID).Steps[1]
	var out struct{ Command string }
	if err := json.Unmarshal(b.Outputs, &out); err != nil || out.Command != `{"user":"ann","words":"[sealed]","input":"[sealed]","files":"[sealed]"}` {
		t.Errorf("%s %v", b.Outputs, err)
	}
	if sealed := r.column(`SELECT name FROM nofx.step WHERE sealed IS NOT NULL ORDER BY 1`); !slices.Equal(sealed, []string{"a", "b", "c"}) {
		t.Errorf("sealed are %v", sealed)
	}
	// Neither does a fault tell it.
	for _, env := range []string{`{"A B":"` + canary + `"}`, `"` + canary + `"`, `{"A":{"x":"` + canary + `"}}`, `{"A":"[sealed]"}`} {
		resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"x","steps":[{"name":"a","tool":"bash","inputs":{"command":"x","env":`+env+`}}]}}`))
		if resp.StatusCode != http.StatusUnprocessableEntity || strings.Contains(string(raw), canary) || !strings.Contains(string(raw), "inputs.env") {
			t.Errorf("%s: %d %s", env, resp.StatusCode, raw)
		}
	}
	r.nowhere(canary)
}

// A step without sensitive inputs is kept as ever, also beside one that has
// some.
func TestSealedBesideOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	var steps []string
	for i := range 7 {
		env := ""
		if i == 2 || i == 5 {
			env = fmt.Sprintf(`,"env":{"N":"secret-%d"}`, i)
		}
		steps = append(steps, fmt.Sprintf(`{"name":"s%d","tool":"bash","inputs":{"command":"echo %d"%s}}`, i, i, env))
	}
	r.submit("[" + strings.Join(steps, ",") + "]")
	if sealed := r.column(`SELECT name FROM nofx.step WHERE sealed IS NOT NULL ORDER BY 1`); !slices.Equal(sealed, []string{"s2", "s5"}) {
		t.Errorf("sealed are %v", sealed)
	}
	first := w.claimAs("claim-1", 7, 0)
	again := w.claimAs("claim-1", 7, 0) // the answer was lost
	if len(first) != 7 || len(again) != 7 {
		t.Fatalf("%d and %d leases", len(first), len(again))
	}
	for _, l := range slices.Concat(first, again) {
		n := strings.TrimPrefix(l.StepName, "s")
		want := map[string]string{"2": "secret-2", "5": "secret-5"}[n]
		if l.Command.Argv[2] != "echo "+n || l.Command.Env["N"] != want {
			t.Errorf("%+v", l)
		}
	}
}

// Without a keyset nothing sensitive is taken, and all else is.
func TestWithoutKeyset(t *testing.T) {
	t.Parallel()
	var keyset string
	r := newRig(t, func(c *api.Config) { keyset, c.KeysetFile = c.KeysetFile, "" })
	w := r.worker("host")
	const canary = "canary-77d5b0c1aa"
	const sensitive = `[{"name":"z","tool":"bash","inputs":{"command":"true"}},{"name":"a","tool":"bash","inputs":{"command":"exit 1","env":{"TOKEN":"` + canary + `"}},"retry":{"attempts":2,"backoff_ms":1}}]`
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"x","steps":`+sensitive+`}}`))
	var p wire.Problem
	if json.Unmarshal(raw, &p) != nil || resp.StatusCode != http.StatusUnprocessableEntity || len(p.Errors) != 1 || p.Errors[0].Location != "body.plan.steps[1].inputs" ||
		!strings.Contains(p.Detail, "NOFX_KEYSET_FILE") || strings.Contains(string(raw), canary) {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	r.nowhere(canary)
	run := r.submit(`[{"name":"a","tool":"bash","inputs":{"command":"exit 1","env":{}},"retry":{"attempts":2,"backoff_ms":1}}]`)
	// One from before there were keys is read, run and tried again as it is.
	r.sql(`UPDATE nofx.step SET inputs = '{"command":"exit 1","env":{"TOKEN":"old"}}', command = jsonb_set(command::jsonb, '{env,TOKEN}', '"old"')::json`)
	for range 2 {
		l := w.one()
		if l.Command.Env["TOKEN"] != "old" {
			t.Fatalf("%+v", l)
		}
		w.finish(l, exit(1))
	}
	e := r.dead(wire.DeadFilter{})[0]
	if text := r.get("/api/dlq/" + e.ID); !strings.Contains(text, `"TOKEN":"old"`) {
		t.Errorf("%s", text)
	}
	for _, body := range []string{`{"inputs":{"command":"true","env":{"TOKEN":"` + canary + `"}}}`, `{"inputs":{"command":"true","env":{"TOKEN":"[sealed]"}}}`} {
		resp, raw := r.call("POST", "/api/dlq/"+e.ID+"/requeue", r.keys["acme user"], []byte(body))
		if resp.StatusCode != http.StatusUnprocessableEntity || strings.Contains(string(raw), canary) || !strings.Contains(string(raw), "body.inputs") {
			t.Errorf("%s: %d %s", body, resp.StatusCode, raw)
		}
	}
	r.nowhere(canary)
	if _, err := r.user.RequeueDead(t.Context(), e.ID, wire.RequeueDead{}, ""); err != nil {
		t.Fatal(err)
	}
	w.finish(w.one(), exit(0))
	if d := r.run(run.ID); d.Run.Status != step.RunSucceeded {
		t.Errorf("%+v", d)
	}
	receiver := api.AlertReceiver{Tenant: "acme", Name: "ops", Kind: "slack", URL: "https://hooks.example.com/" + canary}
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, receiver); err == nil || !strings.Contains(err.Error(), "NOFX_KEYSET_FILE") || strings.Contains(err.Error(), canary) {
		t.Errorf("%v", err)
	}
	r.nowhere(canary)
	receiver.KeysetFile = keyset
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, receiver); err != nil {
		t.Fatal(err)
	}
	r.nowhere(canary)
	if found := r.found("hooks.example.com"); !slices.Contains(found, "alert_receiver.place") {
		t.Errorf("the host is in %v", found)
	}
	if err := os.Chmod(keyset, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := r.cfg
	cfg.KeysetFile = keyset
	if a, err := api.New(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), "NOFX_KEYSET_FILE") || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a keyset that all can read: %v %v", a, err)
	}
}
