package api_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// What is not there is named, so that who reads the error alone knows.
func TestNotFoundNamesWhat(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	id := r.run(run.ID).Steps[0].ID
	for path, want := range map[string]string{
		"/runs/run_x":                                         "no run run_x",
		"/runs/run_x/timeline":                                "no run run_x",
		"/runs/run_x/stream":                                  "no run run_x",
		"/runs/run_x/steps/step_x/output":                     "no step step_x in run run_x",
		"/runs/" + run.ID + "/steps/step_x/output":            "no step step_x in run " + run.ID,
		"/artifacts/runs/" + run.ID + "/steps/" + id + "/x/y": "no artifact x/y of step " + id,
	} {
		resp, raw := r.call("GET", path, r.keys["acme user"], nil)
		var p wire.Problem
		if err := json.Unmarshal(raw, &p); err != nil || resp.StatusCode != http.StatusNotFound || p.Detail != want {
			t.Errorf("%s: %d %q, want %q", path, resp.StatusCode, p.Detail, want)
		}
	}
	resp, raw := r.call("GET", "/runs/"+run.ID+"/stream", r.keys["acme user"], nil, "Last-Event-ID", run.ID+".99")
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an event that is not there: %d %s", resp.StatusCode, raw)
	}
	resp, raw = r.call("GET", "/workers", r.keys["acme user"], nil)
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(raw)) != `{"workers":[]}` {
		t.Errorf("no workers: %d %s", resp.StatusCode, raw)
	}
}

// A header that says one thing is taken once, and a media type in any case.
func TestHeadersOfARun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, tc := range map[string]struct {
		header   http.Header
		status   int
		location string
	}{
		"one of each":            {http.Header{"X-Idempotency-Key": {"key-one-1"}, "X-Project-Id": {"p"}, "Accept": {"a/b", "c/d"}}, 201, ""},
		"type in capitals":       {http.Header{"Content-Type": {"Application/JSON; Charset=UTF-8"}}, 201, ""},
		"two idempotency keys":   {http.Header{"X-Idempotency-Key": {"key-two-1", "key-two-2"}}, 400, "header.x-idempotency-key"},
		"the same twice":         {http.Header{"X-Idempotency-Key": {"key-two-1", "key-two-1"}}, 400, "header.x-idempotency-key"},
		"two projects":           {http.Header{"X-Project-Id": {"a", "b"}}, 400, "header.x-project-id"},
		"two ids":                {http.Header{"X-Request-Id": {"a", "b"}}, 400, "header.x-request-id"},
		"two types":              {http.Header{"Content-Type": {"application/json", "text/plain"}}, 400, "header.content-type"},
		"type in quotes":         {http.Header{"Content-Type": {`application/json;charset="utf-8"`}}, 201, ""},
		"type of a vendor":       {http.Header{"Content-Type": {"application/vnd.x+json"}}, 201, ""},
		"no coding":              {http.Header{"Content-Encoding": {"Identity"}}, 201, ""},
		"no type":                {http.Header{"Content-Type": {";;;"}}, 400, "header.content-type"},
		"half a parameter":       {http.Header{"Content-Type": {"application/json; charset"}}, 400, "header.content-type"},
		"other letters":          {http.Header{"Content-Type": {"application/json; charset=utf-16"}}, 415, "header.content-type"},
		"packed":                 {http.Header{"Content-Encoding": {"gzip"}}, 415, "header.content-encoding"},
		"two keys of a caller's": {http.Header{"Authorization": {"Bearer " + r.keys["acme user"], "Bearer x"}}, 400, "header.authorization"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/api/runs", strings.NewReader(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]}}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = tc.header
			for key, value := range map[string]string{"Authorization": "Bearer " + r.keys["acme user"], "Content-Type": "application/json"} {
				if len(req.Header[key]) == 0 {
					req.Header.Set(key, value)
				}
			}
			resp, err := r.http().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var p wire.Problem
			if resp.StatusCode != tc.status {
				t.Fatalf("%d, want %d", resp.StatusCode, tc.status)
			}
			if tc.location != "" && (json.NewDecoder(resp.Body).Decode(&p) != nil || len(p.Errors) != 1 || p.Errors[0].Location != tc.location) {
				t.Errorf("errors %+v, want at %s", p.Errors, tc.location)
			}
		})
	}
}

// Every refusal is a problem document with its status and request id.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.client("acme", "worker")
	user, worker := r.keys["acme user"], r.keys["acme worker"]
	plan := func(steps string) string { return `{"plan":{"goal":"g","steps":` + steps + `}}` }
	one := plan(`[{"name":"a","tool":"test:echo"}]`)
	for name, tc := range map[string]struct {
		method, path, key, body string
		header                  []string
		status                  int
		location                string
	}{
		"empty steps":             {"POST", "/api/runs", user, plan(`[]`), nil, 422, "body.plan.steps"},
		"no steps":                {"POST", "/api/runs", user, `{"plan":{"goal":"g"}}`, nil, 422, "body.plan"},
		"too many steps":          {"POST", "/api/runs", user, plan(`[` + strings.Repeat(`{"name":"a","tool":"test:echo"},`, 1000) + `{"name":"b","tool":"test:echo"}]`), nil, 422, "body.plan.steps"},
		"3 MB":                    {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"x":"` + strings.Repeat("x", 3<<20) + `"}}]`), nil, 413, ""},
		"unknown tool":            {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"nosuch"}]`), nil, 422, "body.plan.steps[0].tool"},
		"unknown driver":          {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","driver":"x"}]`), nil, 422, "body.plan.steps[0].driver"},
		"unknown field":           {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","colour":"red"}]`), nil, 422, "body.plan.steps[0].colour"},
		"unknown field above":     {"POST", "/api/runs", user, `{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]},"x":1}`, nil, 422, "body.x"},
		"key twice":               {"POST", "/api/runs", user, `{"plan":{"goal":"g","goal":"h","steps":[{"name":"a","tool":"test:echo"}]}}`, nil, 422, "body.plan.goal"},
		"input twice":             {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"bash","inputs":{"command":"true","command":"false"}}]`), nil, 422, "body.plan.steps[0].inputs.command"},
		"half a character":        {"POST", "/api/runs", user, `{"plan":{"goal":"g\ud800","steps":[{"name":"a","tool":"test:echo"}]}}`, nil, 422, "body.plan.goal"},
		"half of an input":        {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"x":["\udc00"]}}]`), nil, 422, "body.plan.steps[0].inputs.x[0]"},
		"other case":              {"POST", "/api/runs", user, plan(`[{"name":"a","Tool":"test:echo"}]`), nil, 422, "body.plan.steps[0].Tool"},
		"other case beside":       {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","DRIVER":"local"}]`), nil, 422, "body.plan.steps[0].DRIVER"},
		"other case above":        {"POST", "/api/runs", user, `{"Plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]}}`, nil, 422, "body.Plan"},
		"other case below inputs": {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"_resources":{"CPU":1}}}]`), nil, 422, "body.plan.steps[0].inputs._resources.CPU"},
		"worker's key twice":      {"POST", "/api/worker/claims", worker, `{"max":1,"max":2}`, []string{"Nofx-Worker-Protocol", "1"}, 422, "body.max"},
		"depends on nothing":      {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","depends_on":["b"]}]`), nil, 422, "body.plan.steps[0].depends_on[0]"},
		"circle":                  {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","depends_on":["b"]},{"name":"b","tool":"test:echo","depends_on":["a"]}]`), nil, 422, "body.plan.steps[0].depends_on"},
		"double name":             {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo"},{"name":"a","tool":"test:echo"}]`), nil, 422, "body.plan.steps[1].name"},
		"cwd":                     {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"bash","inputs":{"command":"ls","cwd":"../../etc"}}]`), nil, 422, "body.plan.steps[0].inputs.cwd"},
		"short idempotency key":   {"POST", "/api/runs", user, one, []string{"X-Idempotency-Key", "abcde"}, 400, "header.x-idempotency-key"},
		"bad correlation id":      {"POST", "/api/runs", user, one, []string{"X-Correlation-Id", "order 7"}, 400, "header.x-correlation-id"},
		"long correlation id":     {"GET", "/runs", user, "", []string{"X-Correlation-Id", strings.Repeat("x", 129)}, 400, "header.x-correlation-id"},
		"project twice":           {"POST", "/api/runs", user, `{"projectId":"a","plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]}}`, []string{"X-Project-Id", "b"}, 422, "body.projectId"},
		"bad project":             {"POST", "/api/runs", user, one, []string{"X-Project-Id", "a/b"}, 400, "header.x-project-id"},
		"not JSON":                {"POST", "/api/runs", user, `{"plan":`, nil, 400, "body"},
		"exponent":                {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo"},{"name":"b","tool":"test:echo","resources":{"memory_mb":1e3}}]`), nil, 422, "body.plan.steps[1].resources.memory_mb"},
		"fraction":                {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","timeout":3.0}]`), nil, 422, "body.plan.steps[0].timeout"},
		"number in quotes":        {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","resources":{"pids":"64"}}]`), nil, 422, "body.plan.steps[0].resources.pids"},
		"number beyond all":       {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","priority":99999999999999999999}]`), nil, 422, "body.plan.steps[0].priority"},
		"exponent below inputs":   {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"_resources":{"memory_mb":1e3}}}]`), nil, 422, "body.plan.steps[0].inputs._resources.memory_mb"},
		"quotes below inputs":     {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"_resources":{"memory_mb":"64"}}}]`), nil, 422, "body.plan.steps[0].inputs._resources.memory_mb"},
		"list below inputs":       {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"_dependsOn":"b"}}]`), nil, 422, "body.plan.steps[0].inputs._dependsOn"},
		"input beyond all":        {"POST", "/api/runs", user, plan(`[{"name":"a","tool":"test:echo","inputs":{"n":1e400}}]`), nil, 400, "body.plan.steps[0].inputs.n"},
		"worker's exponent":       {"POST", "/api/worker/claims", worker, `{"max":1e1}`, []string{"Nofx-Worker-Protocol", "1"}, 422, "body.max"},
		"more after the JSON":     {"POST", "/api/runs", user, one + "x", nil, 400, "body"},
		"not UTF-8":               {"POST", "/api/runs", user, plan("[{\"name\":\"a\xff\",\"tool\":\"test:echo\"}]"), nil, 400, "body"},
		"no body":                 {"POST", "/api/runs", user, "", nil, 400, ""},
		"wrong type":              {"POST", "/api/runs", user, one, []string{"Content-Type", "text/plain"}, 415, ""},
		"wrong kind":              {"POST", "/api/runs", user, `{"plan":7}`, nil, 422, "body.plan"},
		"no such path":            {"GET", "/api/nosuch", user, "", nil, 404, ""},
		"no such path at all":     {"GET", "/", "", "", nil, 404, ""},
		"no such method":          {"DELETE", "/api/runs", user, "", nil, 405, ""},
		"slashes in the path":     {"GET", "/api//runs", user, "", nil, 404, ""},
		"dots in the path":        {"GET", "/api/runs/../runs", user, "", nil, 404, ""},
		"broken query":            {"GET", "/api/runs?limit=%zz", user, "", nil, 400, "query"},
		"no such run, old path":   {"GET", "/runs/run_x", user, "", nil, 404, ""},
		"no such run":             {"GET", "/api/runs/run_x", user, "", nil, 404, ""},
		"NUL in the path":         {"GET", "/api/runs/run%00x", user, "", nil, 404, ""},
		"bad limit":               {"GET", "/api/runs?limit=0", user, "", nil, 422, "query.limit"},
		"bad cursor":              {"GET", "/api/runs?cursor=zzz", user, "", nil, 422, "query.cursor"},
		"bad offset":              {"GET", "/api/runs/x/steps/y/output?offset=-1", user, "", nil, 422, "query.offset"},
		"no key":                  {"POST", "/api/runs", "", one, nil, 401, ""},
		"unknown key":             {"POST", "/api/runs", "nofx_u_" + strings.Repeat("A", 49), one, nil, 401, ""},
		"worker on user's route":  {"GET", "/api/runs", worker, "", nil, 403, ""},
		"user on worker's route":  {"POST", "/api/worker/claims", user, `{}`, nil, 403, ""},
		"no worker protocol":      {"POST", "/api/worker/claims", worker, `{}`, nil, 400, "header.nofx-worker-protocol"},
		"unregistered worker":     {"POST", "/api/worker/journal", worker, `{"worker_id":"x","incarnation":"y","batches":[{"attempt_id":"a","generation":1,"attempt":1,"epoch":1,"records":[]}]}`, []string{"Nofx-Worker-Protocol", "1"}, 409, ""},
		"unregistered heartbeat":  {"POST", "/api/worker/heartbeat", worker, `{"worker_id":"x","incarnation":"y"}`, []string{"Nofx-Worker-Protocol", "1"}, 409, ""},
		"journal of 5 MB":         {"POST", "/api/worker/journal", worker, `{"worker_id":"` + strings.Repeat("x", 5<<20) + `"}`, []string{"Nofx-Worker-Protocol", "1"}, 413, ""},
		"journal that is no JSON": {"POST", "/api/worker/journal", worker, `{`, []string{"Nofx-Worker-Protocol", "1"}, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := r.in(t)
			resp, raw := r.call(tc.method, tc.path, tc.key, []byte(tc.body), append([]string{"X-Request-Id", "req-7"}, tc.header...)...)
			var p wire.Problem
			err := json.Unmarshal(raw, &p)
			if resp.StatusCode != tc.status || err != nil || p.Status != tc.status || p.RequestID != "req-7" ||
				resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("X-Request-Id") != "req-7" ||
				!strings.HasPrefix(p.Type, "urn:nofx:problem:") || p.Title == "" || p.Detail == "" {
				t.Fatalf("%d %s %v", resp.StatusCode, raw, resp.Header)
			}
			if tc.location != "" && (len(p.Errors) == 0 || p.Errors[0].Location != tc.location) {
				t.Errorf("errors %+v, want at %s", p.Errors, tc.location)
			}
			for _, words := range []string{"Go ", "json:", "unmarshal", "int64", "strconv", `\u0000`} {
				if strings.Contains(string(raw), words) && !strings.Contains(tc.path, "%00") {
					t.Errorf("%q is no word for users: %s", words, raw)
				}
			}
			for _, e := range p.Errors {
				if e.Location == "body" && e.Value != nil {
					t.Errorf("the problem sends the body back: %s", raw)
				}
			}
			if path, _, _ := strings.Cut(tc.path, "?"); p.Instance != strings.ReplaceAll(path, "%00", "\x00") {
				t.Errorf("instance %q", p.Instance)
			}
			if len(raw) > 8<<10 {
				t.Errorf("the problem has %d bytes", len(raw))
			}
			if tc.status == http.StatusMethodNotAllowed && resp.Header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
		})
	}
}

// A body in a form that HTTP does not know is the client's mistake.
func TestBodyInNoForm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	addr := strings.TrimPrefix(r.url, "https://")
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: r.roots}}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/runs HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", addr, r.keys["acme user"])
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p wire.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != http.StatusBadRequest || p.Status != http.StatusBadRequest || !strings.HasPrefix(p.Detail, "body: ") {
		t.Errorf("%d %+v %v", resp.StatusCode, p, err)
	}
}

// raw is a connection for requests that no client would send.
func (r *rig) raw() (net.Conn, *bufio.Reader) {
	r.t.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: r.roots}}).DialContext(r.t.Context(), "tcp", strings.TrimPrefix(r.url, "https://"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() }) // nothing is lost with it
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// Who asks whether to send a body hears that it is too large before it was
// sent, on each route; one that is not is asked for.
func TestTooLargeBeforeItIsSent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.client("acme", "worker")
	const body = `{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]}}`
	for name, tc := range map[string]struct {
		head   string
		length int
		status int
	}{
		"run":              {"POST /api/runs HTTP/1.1\r\nAuthorization: Bearer " + r.keys["acme user"], 3 << 20, http.StatusRequestEntityTooLarge},
		"journal":          {"POST /api/worker/journal HTTP/1.1\r\nNofx-Worker-Protocol: 1\r\nAuthorization: Bearer " + r.keys["acme worker"], 50 << 20, http.StatusRequestEntityTooLarge},
		"nobody's":         {"POST /api/runs HTTP/1.1", 3 << 20, http.StatusUnauthorized},
		"small enough run": {"POST /api/runs HTTP/1.1\r\nAuthorization: Bearer " + r.keys["acme user"], len(body), http.StatusContinue},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := r.in(t)
			conn, in := r.raw()
			fmt.Fprintf(conn, "%s\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", tc.head, tc.length)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Fatalf("%d, want %d", resp.StatusCode, tc.status)
			}
			if tc.status == http.StatusContinue {
				fmt.Fprint(conn, body)
				if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusCreated {
					t.Fatalf("%+v %v", resp, err)
				}
				resp.Body.Close()
				return
			}
			var p wire.Problem
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Status != tc.status {
				t.Errorf("%+v %v", p, err)
			}
		})
	}
}

// The head of a stream is all that HEAD asks for: the connection is free again.
func TestHeadOfAStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.submit(`[{"name":"a","tool":"test:echo"}]`)
	conn, in := r.raw()
	for _, path := range []string{"/runs/" + run.ID + "/stream", "/runs/" + run.ID} {
		fmt.Fprintf(conn, "HEAD %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, r.keys["acme user"])
		resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodHead})
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %+v %v", path, resp, err)
		}
		resp.Body.Close()
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	post := func(body string, header ...string) (*http.Response, wire.RunCreated) {
		t.Helper()
		resp, raw := r.call("POST", "/runs", r.keys["acme user"], []byte(body), header...)
		var out wire.RunCreated
		_ = json.Unmarshal(raw, &out)
		return resp, out
	}
	const body, other = `{"plan":{"goal":"g","steps":[{"name":"a","tool":"test:echo"}]}}`, `{"plan":{"goal":"h","steps":[{"name":"a","tool":"test:echo"}]}}`
	resp, first := post(body, "X-Idempotency-Key", "abcdefgh", "X-Correlation-Id", "corr-1")
	if resp.StatusCode != http.StatusCreated || resp.Header.Get("X-Idempotency-Replayed") != "" || resp.Header.Get("X-Correlation-Id") != "corr-1" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	resp, again := post(strings.ReplaceAll(body, `":`, `" : `), "X-Idempotency-Key", "abcdefgh")
	if resp.StatusCode != http.StatusCreated || resp.Header.Get("X-Idempotency-Replayed") != "true" || again != first {
		t.Errorf("%d %v %+v", resp.StatusCode, resp.Header, again)
	}
	if resp, _ := post(other, "X-Idempotency-Key", "abcdefgh"); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("another body: %d", resp.StatusCode)
	}
	if resp, _ := post(body, "X-Idempotency-Key", "abcdefgh", "X-Project-Id", "p"); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("another project: %d", resp.StatusCode)
	}
	if resp, second := post(body); resp.StatusCode != http.StatusCreated || second.ID == first.ID {
		t.Errorf("without a key: %d %+v", resp.StatusCode, second)
	}
	// Many at once make one run; those that come too early are told so.
	type result struct {
		status int
		id     string
	}
	results := make(chan result, 20)
	for range 20 {
		go func() {
			resp, out := post(body, "X-Idempotency-Key", "at-the-same-time")
			results <- result{resp.StatusCode, out.ID}
		}()
	}
	ids := map[string]bool{}
	for range 20 {
		switch x := <-results; x.status {
		case 201:
			ids[x.id] = true
		case 409:
		default:
			t.Errorf("%+v", x)
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d runs", len(ids))
	}
	list, err := r.user.Runs(t.Context(), 50, "")
	if err != nil || len(list.Runs) != 3 {
		t.Errorf("%+v %v", list, err)
	}
}

// Pages of a list join without gap or overlap.
func TestListPages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := map[string]bool{}
	for range 7 {
		want[r.submit(`[{"name":"a","tool":"test:echo"}]`).ID] = true
	}
	cursor, last := "", ""
	for pages := 1; ; pages++ {
		list, err := r.user.Runs(t.Context(), 3, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range list.Runs {
			if !want[run.ID] || last != "" && run.ID > last || run.Title != "test" || run.Status != step.RunQueued {
				t.Errorf("%+v", run)
			}
			delete(want, run.ID)
			last = run.ID
		}
		if cursor = list.NextCursor; cursor == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if len(want) != 0 {
		t.Errorf("missing %v", want)
	}
}

// What needs no key, and what is there below /api and without it.
func TestOpenRoutes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"/health", "/metrics", "/openapi.json", "/openapi.yaml", "/docs"} {
		for _, prefix := range []string{"", "/api"} {
			if resp, body := r.call("GET", prefix+path, "", nil); resp.StatusCode != http.StatusOK {
				t.Errorf("%s%s: %d %.200s", prefix, path, resp.StatusCode, body)
			}
		}
	}
	id := r.submit(`[{"name":"a","tool":"test:echo"}]`).ID
	for _, path := range []string{"/runs", "/runs/" + id, "/runs/" + id + "/timeline", "/handlers", "/workers"} {
		for _, prefix := range []string{"", "/api"} {
			if resp, body := r.call("GET", prefix+path, r.keys["acme user"], nil); resp.StatusCode != http.StatusOK {
				t.Errorf("%s%s: %d %.200s", prefix, path, resp.StatusCode, body)
			}
		}
	}
	h, err := r.user.Health(t.Context())
	if err != nil || h.Status != "ok" || !h.Ready || fmt.Sprint(h.Checks) != "map[blobs:ok database:ok]" {
		t.Errorf("%+v %v", h, err)
	}
}
