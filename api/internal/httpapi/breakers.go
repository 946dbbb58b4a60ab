package httpapi

import (
	"context"
	"net/http"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/wire"
)

type setBreakerInput struct {
	Body    wire.SetBreaker
	RawBody []byte
}

type breakerEventsInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"how many at most"`
}

func (s *server) breakerRoutes() {
	route(s, operation(auth.User, http.MethodGet, "/api/breakers/events", "list-breaker-events", "What became of circuit breakers, the newest first"),
		func(ctx context.Context, in *breakerEventsInput) (*ok[wire.BreakerEvents], error) {
			list, err := s.Runs.BreakerEvents(ctx, who(ctx).TenantID, in.Limit)
			return &ok[wire.BreakerEvents]{list}, err
		})
	op := withNotFound(operation(auth.Operator, http.MethodPost, "/api/breakers", "set-breakers", "Reset a handler's circuit breakers, or force them open or closed"))
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict)
	route(s, op, func(ctx context.Context, in *setBreakerInput) (*ok[wire.BreakersSet], error) {
		if err := strict.Check[wire.SetBreaker](in.RawBody, "body"); err != nil {
			return nil, err
		}
		set, err := s.Queue.SetBreakers(ctx, who(ctx), in.Body, callOf(ctx).requestID)
		return &ok[wire.BreakersSet]{set}, err
	})
}
