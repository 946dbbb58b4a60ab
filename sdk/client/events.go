package client

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
)

// maxEventLine bounds one line of an event stream, in bytes.
const maxEventLine = 16 << 20

// Events follows a run: fn gets each batch of its events after the one with
// the id after ("" = from the first), in order. It returns nil when the
// stream ends, which the API does once the run has ended, and fn's error when
// fn returns one. A stream in which nothing comes for Options.StreamSilence,
// not even what keeps it open, is unavailable. Call it again with the last id to go on.
func (c *Client) Events(ctx context.Context, runID, after string, fn func([]step.Event) error) error {
	r := call{method: http.MethodGet, path: "/api/runs/" + url.PathEscape(runID) + "/stream",
		header: map[string]string{"Accept": "text/event-stream"}}
	if after != "" {
		r.header["Last-Event-ID"] = after
	}
	body, err := c.stream(ctx, r)
	if err != nil {
		return err
	}
	defer body.Close()
	err = readEvents(body, func(data string) error {
		var batch []step.Event
		if err := json.Unmarshal([]byte(data), &batch); err != nil {
			return step.Errorf(step.KindInternal, "event stream: %w", err)
		}
		if len(batch) == 0 {
			return nil
		}
		return fn(batch)
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readEvents calls fn with the data of each server-sent event.
func readEvents(r io.Reader, fn func(data string) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxEventLine)
	var data []string
	for sc.Scan() {
		line := sc.Text()
		if line == "" {
			if len(data) > 0 {
				if err := fn(strings.Join(data, "\n")); err != nil {
					return err
				}
			}
			data = data[:0]
			continue
		}
		if field, value, _ := strings.Cut(line, ":"); field == "data" {
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	if err := sc.Err(); err != nil {
		return step.Errorf(step.KindUnavailable, "event stream: %w", err)
	}
	return nil
}
