package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/sdk/wire"
)

// staleBeat is the age of the last answered heartbeat from which on the
// daemon does not call itself ready.
const staleBeat = time.Minute

// serve answers /metrics and /health on the local port until ctx ends.
func (d *Daemon) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metrics.Handler())
	mux.HandleFunc("GET /health", d.health)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = srv.Close() // scrapes are not worth waiting for
	}()
	err := srv.Serve(l)
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (d *Daemon) health(w http.ResponseWriter, _ *http.Request) {
	h := wire.Health{Status: "ok", Live: true, Ready: true, Version: buildinfo.Version(), Checks: map[string]string{"api": "ok"}}
	if age := d.metrics.HeartbeatAge(); age > staleBeat {
		h.Checks["api"] = "no heartbeat was answered for " + age.Round(time.Second).String()
		h.Ready = false
	}
	for _, info := range d.plugins.Infos() {
		h.Checks["driver "+info.Name] = "ok"
		if !info.Healthy {
			h.Checks["driver "+info.Name] = info.Message
		}
	}
	status := http.StatusOK
	if !h.Ready {
		h.Status, status = "unavailable", http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // the reader may be gone
}
