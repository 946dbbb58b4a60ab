package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// ok is an answer with a body.
type ok[T any] struct {
	Body T
}

// route registers an operation whose errors become problems.
func route[I, O any](s *server, op huma.Operation, do func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		callOf(ctx).begun = true
		out, err := do(ctx, in)
		if err != nil {
			return nil, of(err)
		}
		return out, nil
	})
}

// refuse ends a request before its operation.
func (s *server) refuse(ctx huma.Context, err error) {
	r, w := humago.Unwrap(ctx)
	s.writeProblem(w, r, of(err))
}

func who(ctx context.Context) auth.Principal { return callOf(ctx).who }

type submitInput struct {
	ProjectID      string `header:"X-Project-Id" doc:"the project, instead of the body's projectId"`
	IdempotencyKey string `header:"X-Idempotency-Key" doc:"8 to 255 of A-Z a-z 0-9 _ -; a repeat within 24 h gives the first answer again"`
	CorrelationID  string `header:"X-Correlation-Id" doc:"1 to 128 of A-Z a-z 0-9 . _ : / + = @ -; is kept with the run and in its events"`
	RequestID      string `header:"X-Request-Id" doc:"the same; is sent back"`
	Body           wire.SubmitRun
	RawBody        []byte
}

type submitOutput struct {
	Status   int
	Replayed string `header:"X-Idempotency-Replayed"`
	Location string `header:"Location"`
	Body     wire.RunCreated
}

var (
	projectForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	idempotencyForm = regexp.MustCompile(`^[A-Za-z0-9_-]{8,255}$`)
)

const defaultProject = "default"

type runInput struct {
	ID string `path:"id" maxLength:"100"`
}

type listInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor string `query:"cursor" maxLength:"300"`
}

type outputInput struct {
	ID     string `path:"id" maxLength:"100"`
	StepID string `path:"sid" maxLength:"100"`
	Offset int64  `query:"offset" minimum:"0" doc:"bytes over both streams"`
}

func (s *server) userRoutes() {
	op := operation(auth.User, http.MethodPost, "/api/runs", "submit-run", "Submit a plan")
	op.DefaultStatus = http.StatusCreated
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	route(s, op, s.submit)

	route(s, operation(auth.User, http.MethodGet, "/api/runs", "list-runs", "List runs, the newest first"),
		func(ctx context.Context, in *listInput) (*ok[wire.RunList], error) {
			list, err := s.Runs.List(ctx, who(ctx).TenantID, in.Limit, in.Cursor)
			return &ok[wire.RunList]{list}, err
		})
	route(s, withNotFound(operation(auth.User, http.MethodGet, "/api/runs/{id}", "get-run", "A run with its steps and artifacts")),
		func(ctx context.Context, in *runInput) (*ok[wire.RunDetail], error) {
			run, err := s.Runs.Get(ctx, who(ctx).TenantID, in.ID)
			return &ok[wire.RunDetail]{run}, err
		})
	route(s, withNotFound(operation(auth.User, http.MethodGet, "/api/runs/{id}/timeline", "get-timeline", "All events of a run")),
		func(ctx context.Context, in *runInput) (*ok[[]step.Event], error) {
			events, err := s.Runs.Timeline(ctx, who(ctx).TenantID, in.ID)
			return &ok[[]step.Event]{events}, err
		})
	route(s, withNotFound(operation(auth.User, http.MethodGet, "/api/runs/{id}/steps/{sid}/output", "get-output", "Output of a step's newest attempt")),
		func(ctx context.Context, in *outputInput) (*ok[wire.OutputPage], error) {
			page, err := s.Runs.Output(ctx, who(ctx).TenantID, in.ID, in.StepID, in.Offset)
			return &ok[wire.OutputPage]{page}, err
		})
	cancel := withNotFound(operation(auth.User, http.MethodPost, "/api/runs/{id}/cancel", "cancel-run", "Cancel a run"))
	cancel.Errors = append(cancel.Errors, http.StatusConflict)
	route(s, cancel, func(ctx context.Context, in *runInput) (*ok[wire.CancelResult], error) {
		result, err := s.Queue.Cancel(ctx, who(ctx), in.ID, callOf(ctx).requestID)
		return &ok[wire.CancelResult]{result}, err
	})
	route(s, operation(auth.User, http.MethodGet, "/api/handlers", "list-handlers", "The tools that steps can name"),
		func(ctx context.Context, _ *struct{}) (*ok[wire.HandlerList], error) {
			list, err := s.Runs.Health(ctx, who(ctx).TenantID, s.Handlers.List())
			return &ok[wire.HandlerList]{wire.HandlerList{Handlers: list}}, err
		})
	route(s, operation(auth.User, http.MethodGet, "/api/workers", "list-workers", "Worker hosts and their drivers"),
		func(ctx context.Context, _ *struct{}) (*ok[wire.WorkerList], error) {
			list, err := s.Runs.Workers(ctx, who(ctx).TenantID)
			return &ok[wire.WorkerList]{list}, err
		})
	route(s, operation(auth.User, http.MethodGet, "/api/usage", "get-usage", "What the tenant's attempts used, by tool and driver"),
		func(ctx context.Context, in *usageInput) (*ok[wire.UsageReport], error) {
			since, until, err := in.span(time.Now())
			if err != nil {
				return nil, err
			}
			report, err := s.Runs.Usage(ctx, who(ctx).TenantID, since, until)
			return &ok[wire.UsageReport]{report}, err
		})
	route(s, operation(auth.User, http.MethodGet, "/api/workers/events", "list-worker-events", "What became of worker hosts and their drivers, the newest first"),
		func(ctx context.Context, in *workerEventsInput) (*ok[wire.WorkerEvents], error) {
			list, err := s.Runs.WorkerEvents(ctx, who(ctx).TenantID, in.Limit)
			return &ok[wire.WorkerEvents]{list}, err
		})
	s.deadRoutes()
	s.againRoutes()
	s.breakerRoutes()
	s.streamRoute()
	s.artifactRoute()
}

type usageInput struct {
	Since time.Time `query:"since" doc:"when they ended, at the earliest; the beginning of this month (UTC) when it is not given"`
	Until time.Time `query:"until" doc:"before then; now when it is not given"`
}

// maxUsageSpan bounds what one request adds up.
const maxUsageSpan = 400 * 24 * time.Hour

func (in *usageInput) span(now time.Time) (since, until time.Time, _ error) {
	now = now.UTC()
	since, until = in.Since, in.Until
	if since.IsZero() {
		since = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	if until.IsZero() {
		until = now
	}
	switch {
	case !since.Before(until):
		return since, until, fieldError("query.since", "must be before until")
	case until.Sub(since) > maxUsageSpan:
		return since, until, fieldError("query.since", "must be at most 400 days before until")
	}
	return since, until, nil
}

type workerEventsInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"how many at most"`
}

func withNotFound(op huma.Operation) huma.Operation {
	op.Errors = append(op.Errors, http.StatusNotFound)
	return op
}

func (s *server) submit(ctx context.Context, in *submitInput) (*submitOutput, error) {
	if !utf8.Valid(in.RawBody) {
		return nil, badRequest("body", "is not UTF-8")
	}
	if err := strict.Check[wire.SubmitRun](in.RawBody, "body"); err != nil {
		return nil, err
	}
	if in.IdempotencyKey != "" && !idempotencyForm.MatchString(in.IdempotencyKey) {
		return nil, badRequest("header.x-idempotency-key", "must be 8 to 255 of A-Z a-z 0-9 _ -")
	}
	if in.ProjectID != "" && !projectForm.MatchString(in.ProjectID) {
		return nil, badRequest("header.x-project-id", "must be 1 to 128 of A-Z a-z 0-9 . _ -")
	}
	project := in.Body.ProjectID
	switch {
	case project == "":
		project = in.ProjectID
	case in.ProjectID != "" && in.ProjectID != project:
		return nil, fieldError("body.projectId", "differs from the header x-project-id")
	case !projectForm.MatchString(project):
		return nil, fieldError("body.projectId", "must be 1 to 128 of A-Z a-z 0-9 . _ -")
	}
	if project == "" {
		project = defaultProject
	}
	steps, err := plan.Compile(ctx, in.Body.Plan, s.catalog())
	if err != nil {
		return nil, err
	}
	fingerprint, err := fingerprintOf(in.RawBody, project)
	if err != nil {
		return nil, badRequest("body", "is not JSON")
	}
	c := callOf(ctx)
	created, replayed, err := s.Queue.Submit(ctx, c.who, queue.Submission{Goal: in.Body.Plan.Goal, Steps: steps, RetryBudget: plan.Budget(in.Body.Plan), Turn: plan.TurnOf(in.Body.Plan), ProjectID: project,
		CorrelationID: c.correlationID, RequestID: c.requestID, IdempotencyKey: in.IdempotencyKey, Fingerprint: fingerprint})
	if err != nil {
		return nil, err
	}
	out := &submitOutput{Status: http.StatusCreated, Location: "/api/runs/" + created.ID, Body: created}
	if replayed {
		out.Replayed = strconv.FormatBool(true)
	}
	return out, nil
}

func (s *server) catalog() plan.Catalog {
	return plan.Catalog{Handlers: s.Handlers, Drivers: s.Drivers, Presets: s.Presets, Profiles: s.Profiles}
}

func fieldError(location, message string) error {
	return &step.Error{Kind: step.KindInvalid, Message: location + ": " + message, Fields: []step.FieldError{{Location: location, Message: message}}}
}

// fingerprintOf tells one request from another, whatever spaces are in it.
func fingerprintOf(body []byte, project string) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		return nil, err
	}
	b.WriteString("\n" + project)
	sum := sha256.Sum256(b.Bytes())
	return sum[:], nil
}
