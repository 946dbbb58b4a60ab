package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// DeadQuery chooses entries. It is exported for huma, which looks into no other.
type DeadQuery struct {
	Tool   string    `query:"tool" maxLength:"200" doc:"of steps with this tool"`
	Cause  string    `query:"cause" maxLength:"50" doc:"whose last attempt ended by this cause"`
	Driver string    `query:"driver" maxLength:"200"`
	Since  time.Time `query:"since" doc:"made then or later"`
	State  string    `query:"state" enum:"open,requeued,discarded,all" default:"open"`
}

// filter is what the query asks for.
func (in *DeadQuery) filter() (wire.DeadFilter, error) {
	f := wire.DeadFilter{Tool: in.Tool, Cause: step.Cause(in.Cause), Driver: in.Driver, Since: in.Since, State: in.State}
	if f.State == "all" {
		f.State = ""
	}
	return f, checkFilter("query", f)
}

func checkFilter(at string, f wire.DeadFilter) error {
	if f.Cause != "" && !f.Cause.Valid() {
		return fieldError(at+".cause", "is not a known cause")
	}
	return nil
}

type listDeadInput struct {
	DeadQuery
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor string `query:"cursor" maxLength:"100"`
}

// deadID is the form of an entry's id, which is a cursor, too.
var deadID = regexp.MustCompile(`^dead_[0-9a-z]{1,60}$`)

type deadInput struct {
	ID string `path:"id" maxLength:"100"`
}

func (s *server) deadRoutes() {
	route(s, operation(auth.User, http.MethodGet, "/api/dlq", "list-dead-steps", "Steps that are not tried again by themselves, the newest first"),
		func(ctx context.Context, in *listDeadInput) (*ok[wire.DeadList], error) {
			f, err := in.filter()
			if err != nil {
				return nil, err
			}
			if in.Cursor != "" && !deadID.MatchString(in.Cursor) {
				return nil, fieldError("query.cursor", "not a cursor of a DLQ list")
			}
			list, err := s.Runs.Dead(ctx, who(ctx).TenantID, f, in.Limit, in.Cursor)
			return &ok[wire.DeadList]{list}, err
		})
	route(s, withNotFound(operation(auth.User, http.MethodGet, "/api/dlq/{id}", "get-dead-step", "An entry of the DLQ with its inputs and the history of its attempts")),
		func(ctx context.Context, in *deadInput) (*ok[wire.DeadStepDetail], error) {
			entry, err := s.Runs.DeadStep(ctx, who(ctx).TenantID, in.ID)
			return &ok[wire.DeadStepDetail]{entry}, err
		})
	s.exportRoute()
}

func (s *server) exportRoute() {
	op := operation(auth.User, http.MethodGet, "/api/dlq/export", "export-dead-steps", "Entries of the DLQ in full, one JSON value a line")
	op.Responses = map[string]*huma.Response{"200": {Description: "entries, the newest first", Content: map[string]*huma.MediaType{
		"application/x-ndjson": {Schema: huma.SchemaFromType(s.api.OpenAPI().Components.Schemas, reflect.TypeFor[wire.DeadStepDetail]())}}}}
	route(s, op, func(ctx context.Context, in *DeadQuery) (*huma.StreamResponse, error) {
		f, err := in.filter()
		if err != nil {
			return nil, err
		}
		tenant := who(ctx).TenantID
		page, next, err := s.Runs.DeadPage(ctx, tenant, f, "")
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			if err := s.export(r.Context(), w, tenant, f, page, next); err != nil {
				callOf(r.Context()).cause = err
				panic(http.ErrAbortHandler) // so that what is cut off does not look complete
			}
		}}, nil
	})
}

func (s *server) export(ctx context.Context, w http.ResponseWriter, tenant string, f wire.DeadFilter, page []wire.DeadStepDetail, next string) (err error) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if err := control.Flush(); err != nil {
		return err
	}
	_ = control.SetReadDeadline(time.Time{}) // all of the request has come; its context ends with this deadline
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for {
		for _, e := range page {
			if err := enc.Encode(e); err != nil {
				return err
			}
		}
		if next == "" {
			return control.Flush()
		}
		if page, next, err = s.Runs.DeadPage(ctx, tenant, f, next); err != nil {
			return err
		}
	}
}
