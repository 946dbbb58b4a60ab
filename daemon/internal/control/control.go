// Package control is how an operator on the host speaks to the running daemon:
// HTTP on a socket that only root can open.
//
//	GET  /alive   204 at once
//	GET  /sweep   what a sweep would remove
//	POST /sweep   sweep now
package control

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// SocketName is the socket's in the daemon's data folder.
const SocketName = "nofxd.sock"

// Server serves one daemon.
type Server struct {
	Socket string
	Sweep  func(ctx context.Context, dry bool) wire.SweepReport
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", s.Socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(s.Socket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = errors.Join(server.Close(), <-done)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	answer := func(dry bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(s.Sweep(r.Context(), dry)) // who asked may be gone
		}
	}
	mux.HandleFunc("GET /alive", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /sweep", answer(true))
	mux.HandleFunc("POST /sweep", answer(false))
	return mux
}
