package httpapi

import (
	"context"
	"net/http"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/sdk/wire"
)

type silenceInput struct {
	Rule string `path:"rule" maxLength:"100"`
	Body wire.SilenceAlert
}

type receiverInput struct {
	Receiver string `path:"receiver" maxLength:"100"`
}

func (s *server) alertRoutes() {
	route(s, operation(auth.User, http.MethodGet, "/api/alerts", "list-alerts", "Rules about what operators must know, their newest episodes, and who is told"),
		func(ctx context.Context, _ *struct{}) (*ok[wire.AlertList], error) {
			list, err := s.Alerts.List(ctx, who(ctx).TenantID)
			return &ok[wire.AlertList]{list}, err
		})
	silence := withNotFound(operation(auth.User, http.MethodPost, "/api/alerts/rules/{rule}/silence", "silence-alert", "Keep a rule from beginning an episode for a while"))
	silence.DefaultStatus = http.StatusNoContent
	route(s, silence, func(ctx context.Context, in *silenceInput) (*struct{}, error) {
		return nil, s.Alerts.Silence(ctx, who(ctx), in.Rule, in.Body.Minutes, callOf(ctx).requestID)
	})
	test := withNotFound(operation(auth.User, http.MethodPost, "/api/alerts/receivers/{receiver}/test", "test-alert", "Send a test message to a receiver"))
	test.DefaultStatus = http.StatusAccepted
	test.Errors = append(test.Errors, http.StatusConflict)
	route(s, test, func(ctx context.Context, in *receiverInput) (*ok[wire.AlertTest], error) {
		id := queue.NewID("msg")
		return &ok[wire.AlertTest]{wire.AlertTest{MessageID: id}}, s.Alerts.Test(ctx, who(ctx), in.Receiver, id, callOf(ctx).requestID)
	})
}
