package api_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Another tenant's key finds nothing of this tenant's, on any route; and every
// route of the document is here or says why not.
func TestTenantsAreApartOnEveryRoute(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker("host")
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	l := w.one()
	v := exit(0)
	v.Artifacts = []step.Artifact{{Name: "x", SHA256: sum("x"), Size: 1}}
	if err := w.PutArtifact(t.Context(), w.id, w.incarnation, l.Fence, sum("x"), 1, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	w.finish(l, v, "out")
	died := r.die(w, failing)
	dead := r.dead(wire.DeadFilter{})[0].ID
	running := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	mine := w.one()
	if _, err := api.SetAlertReceiver(t.Context(), r.db.Admin, api.AlertReceiver{KeysetFile: r.cfg.KeysetFile, Tenant: "acme", Name: "ops", Kind: "webhook", URL: "https://127.0.0.1:1/"}); err != nil {
		t.Fatal(err)
	}
	r.client("rival", "user")
	rival := r.workerOf("rival", "rival-host")

	fence, err := json.Marshal(mine.Fence)
	if err != nil {
		t.Fatal(err)
	}
	as := func(id, incarnation, rest string) string {
		return `{"worker_id":"` + id + `","incarnation":"` + incarnation + `"` + rest + `}`
	}
	verdict, err := json.Marshal(wire.JournalBatch{Fence: mine.Fence, Records: records(exit(0))})
	if err != nil {
		t.Fatal(err)
	}
	proto := []string{"Nofx-Worker-Protocol", "1"}
	upload := "/api/worker/artifacts/" + mine.AttemptID + "/" + sum("y") + "?generation=1&attempt=1&epoch=1"
	covered := map[string]bool{}
	for route, tc := range map[string]struct {
		path, role, body string
		status           int
		want             string // in the answer
	}{
		"GET /api/runs/{id}":                                     {"/api/runs/" + run.ID, "user", "", 404, ""},
		"GET /api/runs/{id}/timeline":                            {"/api/runs/" + run.ID + "/timeline", "user", "", 404, ""},
		"GET /api/runs/{id}/stream":                              {"/api/runs/" + run.ID + "/stream", "user", "", 404, ""},
		"GET /api/runs/{id}/steps/{sid}/output":                  {"/api/runs/" + run.ID + "/steps/" + l.StepID + "/output", "user", "", 404, ""},
		"POST /api/runs/{id}/cancel":                             {"/api/runs/" + running.ID + "/cancel", "user", "", 404, ""},
		"GET /api/artifacts/runs/{run}/steps/{step}/{name}":      {"/artifacts/runs/" + run.ID + "/steps/" + l.StepID + "/x", "user", "", 404, ""},
		"GET /api/dlq":                                           {"/api/dlq?state=all", "user", "", 200, `{"entries":[]}`},
		"GET /api/dlq/export":                                    {"/api/dlq/export?state=all", "user", "", 200, ""},
		"GET /api/dlq/{id}":                                      {"/api/dlq/" + dead, "user", "", 404, ""},
		"POST /api/dlq/{id}/requeue":                             {"/api/dlq/" + dead + "/requeue", "user", "", 404, ""},
		"POST /api/dlq/{id}/discard":                             {"/api/dlq/" + dead + "/discard", "user", "", 404, ""},
		"POST /api/dlq/requeue":                                  {"/api/dlq/requeue", "user", `{"match":{}}`, 200, `"done":[]`},
		"POST /api/dlq/requeue by id":                            {"/api/dlq/requeue", "user", `{"ids":["` + dead + `"],"driver":"local"}`, 200, `"done":[]`},
		"POST /api/dlq/discard":                                  {"/api/dlq/discard", "user", `{"match":{}}`, 200, `"done":[]`},
		"POST /api/dlq/discard by id":                            {"/api/dlq/discard", "user", `{"ids":["` + dead + `"]}`, 200, `"done":[]`},
		"POST /api/runs/{id}/retry":                              {"/api/runs/" + died.ID + "/retry", "user", "", 404, ""},
		"POST /api/runs/{id}/steps/{sid}/retry":                  {"/api/runs/" + died.ID + "/steps/" + r.run(died.ID).Steps[0].ID + "/retry", "user", "", 404, ""},
		"GET /api/runs":                                          {"/api/runs", "user", "", 200, `{"runs":[]}`},
		"GET /api/workers":                                       {"/api/workers", "user", "", 200, `"name":"rival-host"`},
		"GET /api/usage":                                         {"/api/usage", "user", "", 200, `"rows":[]`},
		"GET /api/alerts":                                        {"/api/alerts", "user", "", 200, `"rules":[]`},
		"POST /api/alerts/rules/{rule}/silence":                  {"/api/alerts/rules/worker-lost/silence", "user", `{"minutes":5}`, 404, ""},
		"POST /api/alerts/receivers/{receiver}/test":             {"/api/alerts/receivers/ops/test", "user", "", 404, ""},
		"GET /api/workers/events":                                {"/api/workers/events", "user", "", 200, `"worker":"rival-host"`},
		"GET /api/breakers/events":                               {"/api/breakers/events", "user", "", 200, `{"events":[]}`},
		"POST /api/breakers":                                     {"/api/breakers", "user", `{"action":"reset","tool":"bash"}`, 403, ""},
		"POST /api/worker/journal":                               {"/api/worker/journal", "worker", as(w.id, w.incarnation, `,"batches":[`+string(verdict)+`]`), 409, ""},
		"POST /api/worker/journal as itself":                     {"/api/worker/journal", "worker", as(rival.id, rival.incarnation, `,"batches":[`+string(verdict)+`]`), 200, `"discard":["` + mine.AttemptID},
		"POST /api/worker/heartbeat":                             {"/api/worker/heartbeat", "worker", as(w.id, w.incarnation, `,"held":[`+string(fence)+`]`), 409, ""},
		"POST /api/worker/heartbeat as itself":                   {"/api/worker/heartbeat", "worker", as(rival.id, rival.incarnation, `,"held":[`+string(fence)+`]`), 200, `"renewed":[]`},
		"POST /api/worker/release":                               {"/api/worker/release", "worker", as(w.id, w.incarnation, `,"leases":[`+string(fence)+`]`), 409, ""},
		"POST /api/worker/release as itself":                     {"/api/worker/release", "worker", as(rival.id, rival.incarnation, `,"leases":[`+string(fence)+`]`), 200, `"released":[]`},
		"POST /api/worker/claims":                                {"/api/worker/claims", "worker", as(w.id, w.incarnation, `,"claim_id":"stolen","max":1,"drivers":["local"]`), 409, ""},
		"PUT /api/worker/artifacts/{attempt_id}/{sha256}":        {upload, "worker", "y", 409, ""},
		"PUT /api/worker/artifacts/{attempt_id}/{sha256} by key": {upload, "user", "y", 403, ""},
		"GET /api/worker/layers/{attempt_id}/{seq}":              {"/api/worker/layers/" + mine.AttemptID + "/1", "worker", "", 409, ""},
		"GET /api/worker/layers/{attempt_id}/{seq} by key":       {"/api/worker/layers/" + mine.AttemptID + "/1", "user", "", 403, ""},
		"POST /api/runs":                                         {"", "", "", 0, ""}, // makes its own
		"GET /api/handlers":                                      {"", "", "", 0, ""}, // the same for everybody; breakers: TestBreakerOfOneTenant
		"POST /api/worker/register":                              {"", "", "", 0, ""}, // names are a tenant's own
		"POST /api/tick":                                         {"", "", "", 0, ""}, // has no tenant
		"GET /health":                                            {"", "", "", 0, ""}, // has no tenant
	} {
		covered[strings.Join(strings.Fields(route)[:2], " ")] = true
		if tc.path == "" {
			continue
		}
		method, _, _ := strings.Cut(route, " ")
		resp, raw := r.call(method, tc.path, r.keys["rival "+tc.role], []byte(tc.body), proto...)
		if resp.StatusCode != tc.status || !strings.Contains(string(raw), tc.want) || strings.Contains(string(raw), `"name":"host"`) || strings.Contains(string(raw), `"worker":"host"`) {
			t.Errorf("%s: %d %s", route, resp.StatusCode, raw)
		}
	}
	if d := r.run(running.ID); d.Steps[0].Status != step.StepRunning || d.Steps[0].StartedAt != nil {
		t.Errorf("the rival changed %+v", d)
	}
	w.finish(mine, exit(0))
	if e := r.dead(wire.DeadFilter{}); len(e) != 1 || e[0].ID != dead || r.run(died.ID).Run.Status != step.RunFailed {
		t.Errorf("the rival changed %+v", e)
	}

	raw, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, methods := range doc.Paths {
		for method := range methods {
			n++
			name := strings.ToUpper(method) + " " + regexp.MustCompile(`\.\.\.\}`).ReplaceAllString(path, "}")
			if !covered[name] {
				t.Errorf("%s is not tried", name)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d routes in the document", n)
	}
}
