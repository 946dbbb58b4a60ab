package httpapi

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A client that goes away is no trouble of ours: its request is not told as
// one that the API could not serve.
func TestClientThatWentAwayIsQuiet(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	stats, err := newStats(registry)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Services: Services{Log: slog.New(slog.NewTextHandler(&log, nil))}, stats: stats}

	here := httptest.NewRequest(http.MethodGet, "/api/runs", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.observe(here.WithContext(ctx), &call{}, http.StatusServiceUnavailable, "GET /api/runs", 0)
	if log.Len() != 0 {
		t.Errorf("logged %s", &log)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.Contains(f.String(), `"503"`) {
			t.Errorf("counted as %s", f)
		}
	}
	s.observe(here, &call{}, http.StatusServiceUnavailable, "GET /api/runs", 0)
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("a real one is logged as %q", &log)
	}
}
