package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// AnyState as the state of a filter finds resolved entries, too; an empty one
// finds open ones.
const AnyState = "all"

func deadQuery(f wire.DeadFilter) url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"tool": f.Tool, "cause": string(f.Cause), "driver": f.Driver, "state": f.State} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	return q
}

// Dead lists entries of the DLQ, newest first, a page at a time. limit 0 = the
// API's own.
func (c *Client) Dead(ctx context.Context, f wire.DeadFilter, limit int, cursor string) (wire.DeadList, error) {
	q := deadQuery(f)
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	var out wire.DeadList
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/dlq", query: q}, &out)
}

// DeadStep gives an entry with its inputs and history.
func (c *Client) DeadStep(ctx context.Context, id string) (wire.DeadStepDetail, error) {
	var out wire.DeadStepDetail
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/dlq/" + url.PathEscape(id)}, &out)
}

// ExportDead calls fn with each entry that matches, newest first, until fn
// returns an error.
func (c *Client) ExportDead(ctx context.Context, f wire.DeadFilter, fn func(wire.DeadStepDetail) error) error {
	r := call{method: http.MethodGet, path: "/api/dlq/export", query: deadQuery(f)}
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var e wire.DeadStepDetail
		switch err := dec.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return unreachable(ctx, r, err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// RequeueDead tries the step of an entry again. A repeat with the same
// idempotency key ("" = none) returns the first answer.
func (c *Client) RequeueDead(ctx context.Context, id string, change wire.RequeueDead, idempotencyKey string) (wire.Reopened, error) {
	var out wire.Reopened
	return out, c.json(ctx, once(call{method: http.MethodPost, path: "/api/dlq/" + url.PathEscape(id) + "/requeue", in: change}, idempotencyKey), &out)
}

// DiscardDead leaves an entry as it is, for good.
func (c *Client) DiscardDead(ctx context.Context, id, idempotencyKey string) (wire.Resolved, error) {
	var out wire.Resolved
	return out, c.json(ctx, once(call{method: http.MethodPost, path: "/api/dlq/" + url.PathEscape(id) + "/discard"}, idempotencyKey), &out)
}

// RequeueMany tries the steps of many entries again, or tells of which it would.
func (c *Client) RequeueMany(ctx context.Context, in wire.ResolveMany, idempotencyKey string) (wire.Resolved, error) {
	var out wire.Resolved
	return out, c.json(ctx, once(call{method: http.MethodPost, path: "/api/dlq/requeue", in: in}, idempotencyKey), &out)
}

// DiscardMany leaves many entries as they are, or tells which it would.
func (c *Client) DiscardMany(ctx context.Context, in wire.ResolveMany, idempotencyKey string) (wire.Resolved, error) {
	var out wire.Resolved
	return out, c.json(ctx, once(call{method: http.MethodPost, path: "/api/dlq/discard", in: in}, idempotencyKey), &out)
}

// RetryRun tries the steps of a run again that did not succeed, or all of them.
func (c *Client) RetryRun(ctx context.Context, runID string, in wire.RetryRun, idempotencyKey string) (wire.Reopened, error) {
	var out wire.Reopened
	return out, c.json(ctx, once(call{method: http.MethodPost, path: "/api/runs/" + url.PathEscape(runID) + "/retry", in: in}, idempotencyKey), &out)
}

// RetryStep tries one step of a run again.
func (c *Client) RetryStep(ctx context.Context, runID, stepID, idempotencyKey string) (wire.Reopened, error) {
	var out wire.Reopened
	path := "/api/runs/" + url.PathEscape(runID) + "/steps/" + url.PathEscape(stepID) + "/retry"
	return out, c.json(ctx, once(call{method: http.MethodPost, path: path}, idempotencyKey), &out)
}

func once(r call, idempotencyKey string) call {
	if idempotencyKey != "" {
		r.header = map[string]string{"X-Idempotency-Key": idempotencyKey}
	}
	return r
}
