package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/wire"
)

// maxWorkerBody is a journal request with its base64 and names around it.
const maxWorkerBody = wire.MaxJournalRequest + 1

// workerInput is a request of a worker. Bulk passes here, so that the body is
// decoded once and checked by the queue, not by its schema.
type workerInput struct {
	Protocol    string `header:"Nofx-Worker-Protocol" doc:"1"`
	ContentType string `header:"Content-Type" hidden:"true"`
	RawBody     []byte
}

func (s *server) workerRoutes() {
	workerRoute(s, "register", "Say that a worker is here", func(ctx context.Context, in wire.RegisterWorker) (wire.WorkerRegistered, error) {
		return s.Queue.Register(ctx, who(ctx), in)
	})
	workerRoute(s, "claims", "Ask for leases", func(ctx context.Context, in wire.ClaimRequest) (wire.ClaimResponse, error) {
		ctx, cancel := s.waiting(ctx)
		defer cancel()
		out, err := s.Queue.Claim(ctx, who(ctx), in)
		if err != nil && s.stopping() {
			return wire.ClaimResponse{Leases: []wire.Lease{}}, nil
		}
		return out, err
	})
	workerRoute(s, "heartbeat", "Renew leases and learn what to end", func(ctx context.Context, in wire.Heartbeat) (wire.HeartbeatAnswer, error) {
		ctx, cancel := s.waiting(ctx)
		defer cancel()
		return s.Queue.Heartbeat(ctx, who(ctx), in)
	})
	workerRoute(s, "journal", "Ship records of attempts", func(ctx context.Context, in wire.JournalRequest) (wire.JournalAnswer, error) {
		return s.Queue.Journal(ctx, who(ctx), in)
	})
	workerRoute(s, "release", "Give back leases that were never started", func(ctx context.Context, in wire.ReleaseRequest) (wire.ReleaseAnswer, error) {
		return s.Queue.Release(ctx, who(ctx), in)
	})
	s.uploadRoute()
	s.layerRoute()
}

func workerRoute[I, O any](s *server, name, summary string, do func(context.Context, I) (O, error)) {
	op := operation(auth.Worker, http.MethodPost, "/api/worker/"+name, "worker-"+name, summary)
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	op.SkipValidateBody = true
	keys := strict.For[I]()
	route(s, op, func(ctx context.Context, in *workerInput) (*ok[O], error) {
		if err := protocol(in.Protocol); err != nil {
			return nil, err
		}
		if kind, _, err := mime.ParseMediaType(in.ContentType); err != nil || kind != "application/json" {
			return nil, newProblem(http.StatusUnsupportedMediaType, "the body must be application/json", nil)
		}
		var body I
		if err := json.Unmarshal(in.RawBody, &body); err != nil {
			return nil, undecoded(err, in.RawBody, reflect.TypeFor[I]())
		}
		// A journal is bulk that the daemon wrote and that is checked record by record.
		if _, bulk := any(body).(wire.JournalRequest); !bulk {
			if err := keys.Check(in.RawBody, "body"); err != nil {
				return nil, err
			}
		}
		out, err := do(ctx, body)
		return &ok[O]{out}, err
	})
	s.api.OpenAPI().Paths[op.Path].Post.RequestBody.Content = map[string]*huma.MediaType{
		"application/json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[I](), true, name)}}
}

func protocol(given string) error {
	if given != strconv.Itoa(wire.WorkerProtocol) {
		return badRequest("header.nofx-worker-protocol", "this API serves protocol "+strconv.Itoa(wire.WorkerProtocol))
	}
	return nil
}

// waiting is for requests that are held: the time for reading the body must
// not end them, but the server's end does.
func (s *server) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	if c := callOf(ctx).control; c != nil {
		_ = c.SetReadDeadline(time.Time{}) // a connection without deadlines needs none taken away
	}
	ctx, cancel := context.WithCancel(ctx)
	if s.Stopping == nil {
		return ctx, cancel
	}
	done := make(chan struct{})
	go func() {
		select {
		case <-s.Stopping:
			cancel()
		case <-done:
		}
	}()
	return ctx, func() { close(done); cancel() }
}

func (s *server) stopping() bool {
	select {
	case <-s.Stopping:
		return true
	default:
		return false
	}
}

// Holder is a worker that says whose lease it holds.
type Holder struct {
	Protocol    string `header:"Nofx-Worker-Protocol"`
	AttemptID   string `path:"attempt_id" maxLength:"100"`
	Generation  int    `header:"Nofx-Generation" doc:"with the attempt and the epoch: the lease's fence"`
	Attempt     int    `header:"Nofx-Attempt"`
	Epoch       int64  `header:"Nofx-Epoch"`
	WorkerID    string `header:"Nofx-Worker-Id" maxLength:"200"`
	Incarnation string `header:"Nofx-Incarnation" maxLength:"200"`
}

func (h Holder) upload() queue.Upload {
	return queue.Upload{WorkerID: h.WorkerID, Incarnation: h.Incarnation,
		Fence: wire.Fence{AttemptID: h.AttemptID, Generation: h.Generation, Attempt: h.Attempt, Epoch: h.Epoch}}
}

// upload reads its body as it comes.
type upload struct {
	Holder
	SHA256 string `path:"sha256"`

	request *http.Request
}

// Resolve keeps the request.
func (u *upload) Resolve(ctx huma.Context) []error {
	u.request, _ = humago.Unwrap(ctx)
	return nil
}

var _ huma.Resolver = (*upload)(nil)

func (s *server) uploadRoute() {
	op := operation(auth.Worker, http.MethodPut, "/api/worker/artifacts/{attempt_id}/{sha256}", "worker-artifact", "Upload an artifact of an attempt")
	op.DefaultStatus, op.MaxBodyBytes = http.StatusNoContent, -1 // the queue knows how large they may be
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge)
	op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}}
	route(s, op, func(ctx context.Context, in *upload) (*struct{}, error) {
		if err := protocol(in.Protocol); err != nil {
			return nil, err
		}
		if c := callOf(ctx).control; c != nil {
			_ = c.SetReadDeadline(time.Now().Add(uploadTimeout)) // a connection without deadlines needs none
		}
		u := in.upload()
		u.SHA256, u.Size = in.SHA256, in.request.ContentLength
		return nil, s.Queue.PutArtifact(ctx, who(ctx), u, in.request.Body)
	})
}

type layerInput struct {
	Holder
	Seq int `path:"seq" minimum:"1" maximum:"2147483647"`
}

func (s *server) layerRoute() {
	op := withNotFound(operation(auth.Worker, http.MethodGet, "/api/worker/layers/{attempt_id}/{seq}", "worker-layer", "A layer of the workspace of an attempt's run"))
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict)
	op.Responses = map[string]*huma.Response{"200": {Description: "the bytes", Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}}}
	route(s, op, func(ctx context.Context, in *layerInput) (*huma.StreamResponse, error) {
		if err := protocol(in.Protocol); err != nil {
			return nil, err
		}
		content, size, err := s.Queue.Layer(ctx, who(ctx), in.upload(), in.Seq)
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer content.Close()
			_, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			_, _ = io.Copy(w, content) // who asked sees by the length that it broke off
		}}, nil
	})
}
