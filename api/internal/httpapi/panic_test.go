package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nofx-run/nofx/sdk/wire"
)

// A defect is answered by a problem that says nothing of it, and is in the log
// under the request's id; an answer that had begun is cut off, so that nobody
// takes it for a whole one.
func TestPanics(t *testing.T) {
	t.Parallel()
	stats, err := newStats(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &server{Services: Services{Log: slog.New(slog.NewTextHandler(&log, nil))}, stats: stats, mux: http.NewServeMux(), patience: defaultPatience()}
	s.mux.HandleFunc("GET /early", func(http.ResponseWriter, *http.Request) { panic("the secret of the defect") })
	s.mux.HandleFunc("GET /late", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half an ")
		_ = http.NewResponseController(w).Flush()
		panic("late")
	})
	srv := httptest.NewServer(s.wrap(s.mux))
	defer srv.Close()
	get := func(path string) (*http.Response, []byte, error) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", "req-7")
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}

	resp, body, err := get("/early")
	var p wire.Problem
	if err != nil || json.Unmarshal(body, &p) != nil || resp.StatusCode != http.StatusInternalServerError || resp.Header.Get("Content-Type") != problemType ||
		p.Status != 500 || p.RequestID != "req-7" || p.Instance != "/early" || strings.Contains(string(body), "secret") {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	if _, body, err := get("/late"); err == nil {
		t.Errorf("half an answer passes for a whole one: %q", body)
	}
	srv.Close() // nobody writes into the log any more
	for _, want := range []string{"the secret of the defect", "request_id=req-7", "panic_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, &log)
		}
	}
}
