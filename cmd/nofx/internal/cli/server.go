package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nofx-run/nofx/cmd/nofx/internal/up"
	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
)

// server is the API that a command talks to.
type server = client.Client

// dial makes the client of an endpoint. It does not connect yet.
func dial(e up.Endpoint) (*server, error) {
	return client.New(client.Options{
		BaseURL:   e.URL,
		Key:       e.Key,
		CAFile:    e.CAFile,
		UserAgent: "nofx/" + buildinfo.Version(),
	})
}

// connect finds the server and makes its client.
func (a *app) connect() (*server, error) {
	e, err := a.endpoint()
	if err != nil {
		return nil, err
	}
	return dial(e)
}

// endpoint is what the environment says, else the local `nofx up`.
func (a *app) endpoint() (up.Endpoint, error) {
	e := up.Endpoint{URL: a.Getenv("NOFX_API_URL"), Key: a.Getenv("NOFX_API_KEY"), CAFile: a.Getenv("NOFX_CA_FILE")}
	if e.URL != "" {
		if e.Key == "" {
			return e, step.Errorf(step.KindUnauthorized, "NOFX_API_URL is set, but NOFX_API_KEY is not")
		}
		return e, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return e, err
	}
	for {
		e, err := up.ReadClientEnv(filepath.Join(dir, ".nofx", up.ClientEnv))
		switch {
		case err == nil && e.URL != "":
			return e, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return e, step.Errorf(step.KindForbidden, "the local nofx up: %w", err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return e, step.Errorf(step.KindUnavailable, "no server: set NOFX_API_URL and NOFX_API_KEY, or start one with nofx up")
		}
		dir = parent
	}
}
