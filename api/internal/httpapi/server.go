// Package httpapi is the API over HTTP: routes, bodies and headers, keys,
// limits, and a problem document for everything that goes wrong. What the
// routes do is in the packages that it is given.
package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nofx-run/nofx/api/internal/alert"
	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/api/internal/runs"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Limits of requests, in bytes.
const (
	maxBody       = 2 << 20
	bodyTimeout   = 30 * time.Second
	uploadTimeout = 10 * time.Minute
)

// Services are what the routes use.
type Services struct {
	Auth     *auth.Checker
	Handlers *handler.Set
	Presets  plan.Presets // of network lists
	Profiles profile.Set  // named sizes of steps
	Drivers  plan.Drivers // those that workers have
	Fleet    Fleet
	Queue    *queue.Queue
	Runs     *runs.Reader
	Alerts   *alert.Service
	Hub      *wake.Hub
	Health   func(context.Context) map[string]string // name → ok, or what is wrong
	// Tick does the background work once, for where nothing runs between
	// requests; TickToken lets it be asked for, "" = nobody may.
	Tick      func(context.Context) error
	TickToken string
	Registry  *prometheus.Registry
	Log       *slog.Logger
	// Stopping is closed when the server drains: what waits is answered.
	Stopping <-chan struct{}
}

// Fleet tells what drivers cannot do.
type Fleet interface {
	// Unable is a capability that a step needs and that its driver lacks
	// wherever it is; "" = none.
	Unable(ctx context.Context, l wire.Lease, shares bool) (driver.Capability, error)
}

type server struct {
	Services
	api      huma.API
	mux      *http.ServeMux
	stats    *stats
	patience patience
}

// New makes the handler of the whole API.
func New(s Services) (http.Handler, error) {
	srv := &server{Services: s, mux: http.NewServeMux(), patience: defaultPatience()}
	var err error
	if srv.stats, err = newStats(s.Registry); err != nil {
		return nil, err
	}
	srv.routes()
	return srv.wrap(srv.mux), nil
}

// OpenAPI is the API's document, as YAML.
func OpenAPI() ([]byte, error) {
	srv := &server{mux: http.NewServeMux()}
	srv.routes()
	return srv.api.OpenAPI().YAML()
}

func (s *server) routes() {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	s.api = humago.New(s.mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "NOFX", Version: "1", Description: "Runs untrusted steps and never loses one. " +
				"Errors are problem documents (RFC 9457). Each route below /api for users is also there without /api."},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"user":     {Type: "http", Scheme: "bearer", Description: "a key that begins with nofx_u_ or nofx_o_"},
					"worker":   {Type: "http", Scheme: "bearer", Description: "a key that begins with nofx_w_"},
					"operator": {Type: "http", Scheme: "bearer", Description: "a key that begins with nofx_o_"},
				},
			},
		},
		OpenAPIPath: "/openapi", Formats: map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{asProblem},
	})
	s.api.UseMiddleware(s.authenticate)
	s.userRoutes()
	s.alertRoutes()
	s.workerRoutes()
	s.openRoutes()
	s.describeProblems()
}

// describeProblems puts our problem where huma describes its own.
func (s *server) describeProblems() {
	schemas := s.api.OpenAPI().Components.Schemas
	ours := schemas.Schema(reflect.TypeFor[wire.Problem](), true, "Problem")
	for _, item := range s.api.OpenAPI().Paths {
		for _, op := range operations(item) {
			for _, response := range op.Responses {
				if media := response.Content[problemType]; media != nil {
					media.Schema = ours
				}
			}
		}
	}
	delete(schemas.Map(), "ErrorModel")
	delete(schemas.Map(), "ErrorDetail")
}

func operations(item *huma.PathItem) []*huma.Operation {
	return slices.DeleteFunc([]*huma.Operation{item.Get, item.Post, item.Put, item.Delete}, func(op *huma.Operation) bool { return op == nil })
}

// operation fills in what all operations share. role is who may call it; "" =
// everybody.
func operation(role auth.Role, method, path, id, summary string) huma.Operation {
	op := huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary, MaxBodyBytes: maxBody + 1, BodyReadTimeout: bodyTimeout,
		Metadata: map[string]any{"role": role}, Errors: []int{http.StatusUnprocessableEntity, http.StatusInternalServerError},
	}
	switch role {
	case auth.User, auth.Operator:
		op.Tags = []string{string(role)}
	case auth.Worker:
		op.Tags = []string{"worker"}
		op.MaxBodyBytes = maxWorkerBody
	}
	if role != "" {
		op.Security = []map[string][]string{{string(role): {}}}
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable)
	}
	return op
}

func version() string { return buildinfo.Version() }
