package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Onced is the header of requests that may be repeated. It is exported for
// huma, which looks into no other.
type Onced struct {
	IdempotencyKey string `header:"X-Idempotency-Key" doc:"8 to 255 of A-Z a-z 0-9 _ -; a repeat within 24 h gives the first answer again"`
}

// once is what makes a repeat of the request known. The body is in it as it was
// read, and the path.
func (in Onced) once(ctx context.Context, route string, body any) (queue.Once, error) {
	if in.IdempotencyKey == "" {
		return queue.Once{}, nil
	}
	if !idempotencyForm.MatchString(in.IdempotencyKey) {
		return queue.Once{}, badRequest("header.x-idempotency-key", "must be 8 to 255 of A-Z a-z 0-9 _ -")
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return queue.Once{}, err
	}
	sum := sha256.Sum256(append([]byte(callOf(ctx).path+"\n"), raw...))
	return queue.Once{Route: route, Key: in.IdempotencyKey, Fingerprint: sum[:]}, nil
}

// replayable is an answer that may be a repeat.
type replayable[T any] struct {
	Replayed string `header:"X-Idempotency-Replayed"`
	Body     T
}

func answered[T any](body T, replayed bool, err error) (*replayable[T], error) {
	if err != nil {
		return nil, err
	}
	out := &replayable[T]{Body: body}
	if replayed {
		out.Replayed = strconv.FormatBool(true)
	}
	return out, nil
}

type retryRunInput struct {
	Onced
	ID      string         `path:"id" maxLength:"100"`
	Body    *wire.RetryRun `required:"false"`
	RawBody []byte
}

type retryStepInput struct {
	Onced
	ID     string `path:"id" maxLength:"100"`
	StepID string `path:"sid" maxLength:"100"`
}

type requeueInput struct {
	Onced
	ID      string            `path:"id" maxLength:"100"`
	Body    *wire.RequeueDead `required:"false"`
	RawBody []byte
}

type discardInput struct {
	Onced
	ID string `path:"id" maxLength:"100"`
}

type manyInput struct {
	Onced
	Body    wire.ResolveMany
	RawBody []byte
}

// changing is an operation that changes what is there.
func changing(path, id, summary string) huma.Operation {
	op := withNotFound(operation(auth.User, http.MethodPost, path, id, summary))
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict)
	return op
}

// routeWithout registers an operation that needs no body. Where the body is
// read as it is, too, huma takes it to be needed.
func routeWithout[I, O any](s *server, op huma.Operation, do func(context.Context, *I) (*O, error)) {
	op.RequestBody = &huma.RequestBody{}
	route(s, op, do)
	op.RequestBody.Required = false
}

// againRoutes try steps again, or say that nobody will.
func (s *server) againRoutes() {
	routeWithout(s, changing("/api/runs/{id}/retry", "retry-run", "Try the steps of a run again that did not succeed, or all of them"), s.retryRun)
	route(s, changing("/api/runs/{id}/steps/{sid}/retry", "retry-step", "Try a step again that did not succeed, and what was cancelled because of it"),
		func(ctx context.Context, in *retryStepInput) (*replayable[wire.Reopened], error) {
			o, err := in.once(ctx, "POST /api/runs/{id}/steps/{sid}/retry", nil)
			if err != nil {
				return nil, err
			}
			return answered(s.Queue.RetryStep(ctx, who(ctx), in.ID, in.StepID, o, callOf(ctx).requestID))
		})
	routeWithout(s, changing("/api/dlq/{id}/requeue", "requeue-dead-step", "Try the step of an entry again, with other inputs or on another driver if asked to"), s.requeueOne)
	route(s, changing("/api/dlq/{id}/discard", "discard-dead-step", "Leave an entry as it is, for good"),
		func(ctx context.Context, in *discardInput) (*replayable[wire.Resolved], error) {
			o, err := in.once(ctx, "POST /api/dlq/{id}/discard", nil)
			if err != nil {
				return nil, err
			}
			return answered(s.Queue.DiscardOne(ctx, who(ctx), in.ID, queue.Discard{Once: o, RequestID: callOf(ctx).requestID}))
		})
	route(s, changing("/api/dlq/requeue", "requeue-dead-steps", "Try the steps of many entries again"), s.requeueMany)
	route(s, changing("/api/dlq/discard", "discard-dead-steps", "Leave many entries as they are, for good"), s.discardMany)
}

func (s *server) retryRun(ctx context.Context, in *retryRunInput) (*replayable[wire.Reopened], error) {
	if err := strict.Check[wire.RetryRun](in.RawBody, "body"); err != nil {
		return nil, err
	}
	o, err := in.once(ctx, "POST /api/runs/{id}/retry", in.Body)
	if err != nil {
		return nil, err
	}
	all := in.Body != nil && in.Body.All
	return answered(s.Queue.RetryRun(ctx, who(ctx), in.ID, all, o, callOf(ctx).requestID))
}

func (s *server) requeueOne(ctx context.Context, in *requeueInput) (*replayable[wire.Reopened], error) {
	if err := strict.Check[wire.RequeueDead](in.RawBody, "body"); err != nil {
		return nil, err
	}
	o, err := in.once(ctx, "POST /api/dlq/{id}/requeue", in.Body)
	if err != nil {
		return nil, err
	}
	r := queue.Requeue{Once: o, RequestID: callOf(ctx).requestID}
	if in.Body != nil {
		r.Change = plan.Change{Inputs: in.Body.Inputs, Driver: in.Body.Driver}
	}
	r.Render = s.renderer(r.Change)
	return answered(s.Queue.RequeueOne(ctx, who(ctx), in.ID, r))
}

// renderer makes steps anew, as at their submission, and asks whether their
// driver can do what they need.
func (s *server) renderer(to plan.Change) func(context.Context, wire.PlanStep, json.RawMessage) (plan.Step, error) {
	return func(ctx context.Context, spec wire.PlanStep, inputs json.RawMessage) (plan.Step, error) {
		st, err := plan.Again(ctx, spec, inputs, to, s.catalog())
		if err != nil {
			return st, err
		}
		missing, err := s.Fleet.Unable(ctx, wire.Lease{Driver: st.Driver, Resources: st.Resources, TimeoutMS: st.TimeoutMS, Network: st.Network,
			Command: st.Command, Artifacts: st.Artifacts}, st.Shares())
		if err == nil && missing != "" {
			err = fieldError("body.driver", fmt.Sprintf("the driver %s lacks the capability %s, which the step needs", st.Driver, missing))
		}
		return st, err
	}
}

// chosen checks which entries are meant.
func chosen(in *manyInput) (queue.Choice, error) {
	b := in.Body
	if err := strict.Check[wire.ResolveMany](in.RawBody, "body"); err != nil {
		return queue.Choice{}, err
	}
	switch {
	case (len(b.IDs) > 0) == (b.Match != nil):
		return queue.Choice{}, fieldError("body.ids", "give either ids or match")
	case len(b.IDs) > wire.MaxResolve:
		return queue.Choice{}, fieldError("body.ids", fmt.Sprintf("at most %d", wire.MaxResolve))
	}
	if b.Cursor != "" && (b.Match == nil || !deadID.MatchString(b.Cursor)) {
		return queue.Choice{}, fieldError("body.cursor", "is not the next_cursor of an answer for the same match")
	}
	seen := map[string]bool{}
	for i, id := range b.IDs {
		at := fmt.Sprintf("body.ids[%d]", i)
		switch {
		case !deadID.MatchString(id):
			return queue.Choice{}, fieldError(at, "is not the id of an entry")
		case seen[id]:
			return queue.Choice{}, fieldError(at, "is there twice")
		}
		seen[id] = true
	}
	if m := b.Match; m != nil {
		if m.State != "" && m.State != wire.DeadOpen {
			return queue.Choice{}, fieldError("body.match.state", "only open entries can be resolved: leave it out")
		}
		for at, text := range map[string]string{"tool": m.Tool, "driver": m.Driver} {
			if len(text) > maxFilter {
				return queue.Choice{}, fieldError("body.match."+at, fmt.Sprintf("at most %d bytes", maxFilter))
			}
		}
		if err := checkFilter("body.match", *m); err != nil {
			return queue.Choice{}, err
		}
	}
	return queue.Choice{IDs: b.IDs, Match: b.Match, Cursor: b.Cursor}, nil
}

const maxFilter = 200

func (s *server) requeueMany(ctx context.Context, in *manyInput) (*replayable[wire.Resolved], error) {
	choice, err := chosen(in)
	if err != nil {
		return nil, err
	}
	r := queue.Requeue{Choice: choice, Change: plan.Change{Driver: in.Body.Driver}, DryRun: in.Body.DryRun, RequestID: callOf(ctx).requestID}
	r.Render = s.renderer(r.Change)
	if !r.DryRun { // which may be asked any number of times
		if r.Once, err = in.once(ctx, "POST /api/dlq/requeue", in.Body); err != nil {
			return nil, err
		}
	}
	return answered(s.Queue.RequeueMany(ctx, who(ctx), r))
}

func (s *server) discardMany(ctx context.Context, in *manyInput) (*replayable[wire.Resolved], error) {
	choice, err := chosen(in)
	if err != nil {
		return nil, err
	}
	if in.Body.Driver != "" {
		return nil, fieldError("body.driver", "is of no use for what is discarded: leave it out")
	}
	d := queue.Discard{Choice: choice, DryRun: in.Body.DryRun, RequestID: callOf(ctx).requestID}
	if !d.DryRun {
		if d.Once, err = in.once(ctx, "POST /api/dlq/discard", in.Body); err != nil {
			return nil, err
		}
	}
	return answered(s.Queue.DiscardMany(ctx, who(ctx), d))
}
