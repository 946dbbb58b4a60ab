package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"path"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/step"
)

const (
	keepAlive  = 15 * time.Second
	streamPoll = 2 * time.Second  // in case a wake was lost
	streamLook = 10 * time.Second // for one look at the database, which may be gone without a word
)

type streamInput struct {
	ID          string `path:"id" maxLength:"100"`
	LastEventID string `header:"Last-Event-ID" doc:"id of the last event that was seen"`
}

func (s *server) streamRoute() {
	op := withNotFound(operation(auth.User, http.MethodGet, "/api/runs/{id}/stream", "stream-run", "Follow a run's events (SSE)"))
	op.Description = "Event init, then append; the data is a list of events, the id that of the last one in it. It ends with the run."
	op.Errors = append(op.Errors, http.StatusBadRequest)
	op.Responses = map[string]*huma.Response{"200": {Description: "events", Content: map[string]*huma.MediaType{
		"text/event-stream": {Schema: huma.SchemaFromType(s.api.OpenAPI().Components.Schemas, reflect.TypeFor[[]step.Event]())}}}}
	route(s, op, func(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
		f := follower{s: s, tenant: who(ctx).TenantID, run: in.ID}
		if in.LastEventID != "" {
			seq, ok := event.ParseID(in.ID, in.LastEventID)
			if !ok {
				return nil, badRequest("header.last-event-id", "is not the id of an event of this run")
			}
			f.after = seq
		}
		woken, cancel := s.Hub.Wait(wake.Run(in.ID))
		first, ended, err := s.Runs.Events(ctx, f.tenant, f.run, f.after)
		if err != nil {
			cancel()
			if step.Is(err, step.KindInvalid) {
				err = badRequest("header.last-event-id", "is the id of an event that the run does not have")
			}
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer cancel()
			r, w := humago.Unwrap(hc)
			f.follow(r.Context(), w, woken, first, ended || r.Method == http.MethodHead)
		}}, nil
	})
}

// follower sends one reader the events of one run.
type follower struct {
	s           *server
	tenant, run string
	after       int64
}

func (f *follower) follow(ctx context.Context, w http.ResponseWriter, woken <-chan struct{}, events []step.Event, ended bool) {
	control := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if f.send(control, w, "init", events) != nil {
		return
	}
	_ = control.SetReadDeadline(time.Time{}) // all of the request has come; its context ends with this deadline
	keep, poll := time.NewTicker(keepAlive), time.NewTicker(streamPoll)
	defer keep.Stop()
	defer poll.Stop()
	for !ended {
		select {
		case <-woken:
		case <-poll.C:
		case <-keep.C:
			if f.write(control, w, ": keep\n\n") != nil {
				return
			}
			continue
		case <-f.s.Stopping:
			return
		case <-ctx.Done():
			return
		}
		var err error
		look, cancel := context.WithTimeout(ctx, streamLook)
		events, ended, err = f.s.Runs.Events(look, f.tenant, f.run, f.after)
		cancel()
		if err != nil {
			if ctx.Err() == nil && (step.Is(err, step.KindUnavailable) || errors.Is(err, context.DeadlineExceeded)) {
				continue // the reader is still there when the database is back
			}
			callOf(ctx).cause = err
			return
		}
		if len(events) > 0 && f.send(control, w, "append", events) != nil {
			return
		}
	}
}

func (f *follower) send(control *http.ResponseController, w http.ResponseWriter, name string, events []step.Event) error {
	if events == nil {
		events = []step.Event{}
	}
	data, err := json.Marshal(events)
	if err != nil {
		return err
	}
	id := ""
	if len(events) > 0 {
		f.after = events[len(events)-1].Seq
		id = "id: " + event.ID(f.run, f.after) + "\n"
	}
	return f.write(control, w, fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, name, data))
}

func (f *follower) write(control *http.ResponseController, w http.ResponseWriter, text string) error {
	if _, err := w.Write([]byte(text)); err != nil {
		return err
	}
	return control.Flush()
}

type artifactInput struct {
	Run  string `path:"run" maxLength:"100"`
	Step string `path:"step" maxLength:"100"`
	Name string `path:"name" maxLength:"4096"`
}

func (s *server) artifactRoute() {
	op := withNotFound(operation(auth.User, http.MethodGet, "/api/artifacts/runs/{run}/steps/{step}/{name...}", "get-artifact", "The bytes of an artifact"))
	op.Errors = append(op.Errors, http.StatusGone)
	op.Responses = map[string]*huma.Response{"200": {Description: "the bytes", Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}}}
	route(s, op, func(ctx context.Context, in *artifactInput) (*huma.StreamResponse, error) {
		f, err := s.Runs.Artifact(ctx, who(ctx).TenantID, in.Run, in.Step, in.Name)
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer f.Close()
			r, w := humago.Unwrap(hc)
			h := w.Header()
			// A step wrote it: a browser must not run it in our name.
			h.Set("Content-Type", "application/octet-stream")
			h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
			h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(in.Name)}))
			h.Set("Etag", `"`+f.Sha256+`"`)
			http.ServeContent(&ranged{ResponseWriter: w, s: s, r: r}, r, "", f.CreatedAt, f)
		}}, nil
	})
}

// ranged puts a problem where http.ServeContent has plain text for a range
// that is not in the file.
type ranged struct {
	http.ResponseWriter
	s       *server
	r       *http.Request
	refused bool
}

func (w *ranged) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	w.s.writeProblem(w.ResponseWriter, w.r, newProblem(status, "the range is not in the file", nil))
}

func (w *ranged) Write(p []byte) (int, error) {
	if w.refused {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}
