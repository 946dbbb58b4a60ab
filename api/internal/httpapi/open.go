package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"html/template"
	"net/http"
	"sort"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

type healthInput struct {
	Probe string `query:"probe" enum:"live,ready" doc:"live: answer 200 while the process lives"`
}

type healthOutput struct {
	Status int
	Body   wire.Health
}

// openRoutes need no key.
func (s *server) openRoutes() {
	op := operation("", http.MethodGet, "/health", "health", "How the API is")
	op.Tags = []string{"open"}
	route(s, op, func(ctx context.Context, in *healthInput) (*healthOutput, error) {
		out := &healthOutput{Status: http.StatusOK, Body: wire.Health{Status: "ok", Live: true, Ready: true, Version: version(), Checks: map[string]string{}}}
		if in.Probe == "live" {
			return out, nil
		}
		out.Body.Checks = s.Health(ctx)
		for _, check := range out.Body.Checks {
			if check != "ok" {
				out.Status, out.Body.Status, out.Body.Ready = http.StatusServiceUnavailable, "unavailable", false
			}
		}
		return out, nil
	})
	tick := withNotFound(operation("", http.MethodPost, "/api/tick", "tick", "Do the background work once (where nothing runs between requests)"))
	tick.Tags, tick.DefaultStatus, tick.Errors = []string{"open"}, http.StatusNoContent, append(tick.Errors, http.StatusUnauthorized, http.StatusServiceUnavailable)
	route(s, tick, s.tick)
	if s.Registry != nil {
		s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{}))
	}
	s.mux.HandleFunc("GET /docs", s.docs)
}

type tickInput struct {
	Authorization string `header:"Authorization" doc:"Bearer and the value of NOFX_TICK_TOKEN"`
}

func (s *server) tick(ctx context.Context, in *tickInput) (*struct{}, error) {
	if s.TickToken == "" {
		return nil, step.Errorf(step.KindNotFound, "no NOFX_TICK_TOKEN is set, so that there is no tick over HTTP")
	}
	given, want := sha256.Sum256([]byte(in.Authorization)), sha256.Sum256([]byte("Bearer "+s.TickToken))
	if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
		return nil, step.Errorf(step.KindUnauthorized, "the token is not the one of NOFX_TICK_TOKEN")
	}
	return nil, s.Tick(ctx)
}

type docsRow struct {
	Method, Path, Summary string
	Tags                  []string
}

// docs is a page that needs nothing from elsewhere.
func (s *server) docs(w http.ResponseWriter, r *http.Request) {
	var rows []docsRow
	for path, item := range s.api.OpenAPI().Paths {
		for _, op := range operations(item) {
			rows = append(rows, docsRow{op.Method, path, op.Summary, op.Tags})
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Path+rows[i].Method < rows[j].Path+rows[j].Method })
	page, err := template.New("docs").Parse(docsPage)
	if err != nil {
		s.writeProblem(w, r, of(err))
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	if err := page.Execute(w, rows); err != nil {
		callOf(r.Context()).cause = err
	}
}

const docsPage = `<!doctype html><meta charset="utf-8"><title>NOFX API</title>
<style>body{font:15px system-ui;margin:2em;max-width:60em}td{padding:.2em 1em .2em 0}code{font-size:14px}</style>
<h1>NOFX API</h1>
<p>The whole description is in <a href="openapi.json">openapi.json</a> and <a href="openapi.yaml">openapi.yaml</a>.</p>
<table>{{range .}}<tr><td><code>{{.Method}}</code><td><code>{{.Path}}</code><td>{{.Summary}}<td>{{range .Tags}}{{.}} {{end}}</tr>
{{end}}</table>`
