package httpapi

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const problemType = "application/problem+json"

// problem is a wire.Problem on its way out.
type problem struct {
	wire.Problem
	retryAfter time.Duration
	cause      error
}

func (p *problem) Error() string { return p.Detail }

// GetStatus and ContentType are what huma asks of an error.
func (p *problem) GetStatus() int { return p.Status }

func (p *problem) ContentType(string) string { return problemType }

// GetHeaders says when to try again.
func (p *problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	return h
}

const maxDetail = 1000

// newProblem makes a problem with the status that a kind stands for.
func newProblem(status int, detail string, fields []step.FieldError) *problem {
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	p := &problem{Problem: wire.Problem{
		Type: "urn:nofx:problem:" + string(wire.KindOfStatus(status)), Title: http.StatusText(status), Status: status, Detail: detail, Errors: fields,
	}}
	if status == http.StatusServiceUnavailable {
		p.retryAfter = time.Second
	}
	return p
}

// of turns any error into a problem. The cause of an internal one stays here.
func of(err error) *problem {
	var known *problem
	if errors.As(err, &known) {
		return known
	}
	var e *step.Error
	if !errors.As(err, &e) {
		p := newProblem(http.StatusInternalServerError, "internal error", nil)
		p.cause = err
		return p
	}
	message := e.Message
	if e.Kind == step.KindInternal {
		message = "internal error"
	}
	p := newProblem(wire.StatusOf(e.Kind), message, e.Fields)
	if e.RetryAfter > 0 {
		p.retryAfter = e.RetryAfter
	}
	p.cause = err
	return p
}

// badRequest is a request that cannot even be read; one that breaks a rule is
// of kind invalid.
func badRequest(location, message string) *problem {
	return newProblem(http.StatusBadRequest, location+": "+message, []step.FieldError{{Location: location, Message: message}})
}

// asProblem turns huma's own errors into problems and completes all of them.
func asProblem(ctx huma.Context, _ string, v any) (any, error) {
	var p *problem
	switch e := v.(type) {
	case *huma.ErrorModel:
		fields := make([]step.FieldError, 0, len(e.Errors))
		for _, f := range e.Errors {
			field := placed(step.FieldError{Location: f.Location, Message: clip(f.Message)})
			if f.Location != "body" { // the whole of it, which is not ours to send back
				field.Value = scalar(f.Value)
			}
			fields = append(fields, field)
		}
		detail := e.Detail
		if len(fields) == 1 {
			detail = strings.TrimPrefix(fields[0].Location+": ", ": ") + fields[0].Message
		}
		status := callOf(ctx.Context()).ofBody(e.Status)
		if status != e.Status {
			detail, fields = "body: cannot be read to its end", nil
		}
		p = newProblem(status, detail, fields)
	case *problem:
		p = e
	default:
		return v, nil
	}
	call := callOf(ctx.Context())
	p.Instance, p.RequestID = call.path, call.requestID
	call.cause = p.cause
	return p, nil
}

func clip(s string) string {
	if len(s) <= 300 {
		return s
	}
	return strings.ToValidUTF8(s[:300], "") + "…"
}

// scalar keeps short values only: a problem must not send whole bodies back.
func scalar(v any) any {
	switch x := v.(type) {
	case string:
		if len(x) <= 100 {
			return x
		}
	case bool, float64, int, int64:
		return x
	}
	return nil
}

// writeProblem answers where huma is not involved.
func (s *server) writeProblem(w http.ResponseWriter, r *http.Request, p *problem) {
	call := callOf(r.Context())
	p.Instance, p.RequestID = call.path, call.requestID
	call.cause = p.cause
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p.Problem); err != nil {
		s.Log.LogAttrs(r.Context(), slog.LevelDebug, "answer not written", slog.Any("err", err))
	}
}
