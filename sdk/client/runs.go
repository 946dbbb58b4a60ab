package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Submit posts a run. A repeat with the same idempotency key ("" = none)
// returns the first answer.
func (c *Client) Submit(ctx context.Context, run wire.SubmitRun, idempotencyKey string) (wire.RunCreated, error) {
	r := call{method: http.MethodPost, path: "/api/runs", in: run}
	if idempotencyKey != "" {
		r.header = map[string]string{"X-Idempotency-Key": idempotencyKey}
	}
	var out wire.RunCreated
	return out, c.json(ctx, r, &out)
}

// Runs lists runs, newest first, a page at a time. limit 0 = the API's own.
func (c *Client) Runs(ctx context.Context, limit int, cursor string) (wire.RunList, error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	var out wire.RunList
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/runs", query: q}, &out)
}

// Run gives a run with its steps and artifacts.
func (c *Client) Run(ctx context.Context, id string) (wire.RunDetail, error) {
	var out wire.RunDetail
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/runs/" + url.PathEscape(id)}, &out)
}

// Timeline gives all events of a run so far.
func (c *Client) Timeline(ctx context.Context, id string) ([]step.Event, error) {
	var out []step.Event
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/runs/" + url.PathEscape(id) + "/timeline"}, &out)
}

// Cancel asks for the end of a run.
func (c *Client) Cancel(ctx context.Context, id string) (wire.CancelResult, error) {
	var out wire.CancelResult
	return out, c.json(ctx, call{method: http.MethodPost, path: "/api/runs/" + url.PathEscape(id) + "/cancel"}, &out)
}

// Output gives a page of the output of a step's newest attempt, from an
// offset in bytes over both streams.
func (c *Client) Output(ctx context.Context, runID, stepID string, offset int64) (wire.OutputPage, error) {
	var out wire.OutputPage
	return out, c.json(ctx, call{
		method: http.MethodGet,
		path:   "/api/runs/" + url.PathEscape(runID) + "/steps/" + url.PathEscape(stepID) + "/output",
		query:  url.Values{"offset": {strconv.FormatInt(offset, 10)}},
	}, &out)
}

// Artifact opens an artifact by its path, runs/{runId}/steps/{stepId}/{name}.
// The caller closes it and compares the sha256 with ArtifactInfo's.
func (c *Client) Artifact(ctx context.Context, path string) (io.ReadCloser, error) {
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return c.stream(ctx, call{method: http.MethodGet, path: "/artifacts/" + strings.Join(parts, "/")})
}

// Handlers lists the tools that steps can name.
func (c *Client) Handlers(ctx context.Context) (wire.HandlerList, error) {
	var out wire.HandlerList
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/handlers"}, &out)
}

// Workers lists the worker hosts and their drivers.
func (c *Client) Workers(ctx context.Context) (wire.WorkerList, error) {
	var out wire.WorkerList
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/workers"}, &out)
}

// Usage adds up what the tenant's attempts used that ended in a span of time.
// Zero times are the API's defaults: from the beginning of the month until now.
func (c *Client) Usage(ctx context.Context, since, until time.Time) (wire.UsageReport, error) {
	q := url.Values{}
	for name, t := range map[string]time.Time{"since": since, "until": until} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	var out wire.UsageReport
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/usage?" + q.Encode()}, &out)
}

// WorkerEvents lists what became of worker hosts and their drivers, the newest
// first, limit at most.
func (c *Client) WorkerEvents(ctx context.Context, limit int) (wire.WorkerEvents, error) {
	var out wire.WorkerEvents
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/workers/events?limit=" + strconv.Itoa(limit)}, &out)
}

// SetBreakers resets a handler's circuit breakers or forces them. It takes an
// operator's key.
func (c *Client) SetBreakers(ctx context.Context, in wire.SetBreaker) (wire.BreakersSet, error) {
	var out wire.BreakersSet
	return out, c.json(ctx, call{method: http.MethodPost, path: "/api/breakers", in: in}, &out)
}

// BreakerEvents lists what became of circuit breakers, the newest first.
func (c *Client) BreakerEvents(ctx context.Context, limit int) (wire.BreakerEvents, error) {
	var out wire.BreakerEvents
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/breakers/events?limit=" + strconv.Itoa(limit)}, &out)
}

// Health asks the API how it is. An API that is not ready answers 503, which
// is an error of kind unavailable here.
func (c *Client) Health(ctx context.Context) (wire.Health, error) {
	var out wire.Health
	return out, c.json(ctx, call{method: http.MethodGet, path: "/health"}, &out)
}
