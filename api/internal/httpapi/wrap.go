package httpapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/nofx-run/nofx/api/internal/auth"
)

// call is what is known of one request.
type call struct {
	path          string // as it was asked for
	requestID     string
	correlationID string
	who           auth.Principal
	cause         error // of a problem, for the log
	read          bool  // somebody has asked for the body
	cut           bool  // the body cannot be read to its end
	begun         bool  // the operation has begun: all that it needs was read
	control       *http.ResponseController
}

type callKey struct{}

// callOf is the request's call; an empty one where there is none, which only
// tests of parts see.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// traceID is the header's value, or a new one when it is missing or refused.
func traceID(given string) string {
	if idForm.MatchString(given) {
		return given
	}
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

const (
	drainBytes = 32 << 20 // of a body that was refused for its size
	drainTime  = 10 * time.Second
)

// wrap puts around every request what all of them need: ids, a log line,
// metrics, and an answer when something panics or is not there.
func (s *server) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		bad := cmp.Or(badHeader(r.Header), badForm(r.Header))
		c := &call{path: r.URL.Path, requestID: traceID(r.Header.Get("X-Request-Id")), control: http.NewResponseController(w)}
		a := &answer{ResponseWriter: w, control: c.control, patience: s.patience.reader}
		if r.ContentLength != 0 { // whatever nobody asks for of it is read before the answer goes out
			_ = c.control.SetReadDeadline(begin.Add(s.patience.sender)) // a connection without deadlines needs none
		}
		c.correlationID = r.Header.Get("X-Correlation-Id")
		if !idForm.MatchString(c.correlationID) {
			c.correlationID = c.requestID
		}
		h := w.Header()
		h.Set("X-Request-Id", c.requestID)
		h.Set("X-Correlation-Id", c.correlationID)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		r = canonical(r).WithContext(context.WithValue(r.Context(), callKey{}, c))
		body := r.Body
		r.Body = open{body, c}
		_, route := s.mux.Handler(r)
		func() {
			defer s.recovered(a, r)
			if bad != nil {
				s.writeProblem(a, r, bad)
				return
			}
			if route == "" || !utf8.ValidString(r.URL.Path) || strings.ContainsRune(r.URL.Path, 0) || !clean(r.URL) {
				s.unrouted(a, r)
				return
			}
			if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
				s.writeProblem(a, r, badRequest("query", "cannot be read: "+clip(err.Error())))
				return
			}
			next.ServeHTTP(a, r)
		}()
		if a.status == http.StatusRequestEntityTooLarge && (c.read || r.Header.Get("Expect") == "") {
			// Who still sends would see a broken connection, not the answer.
			_ = c.control.SetReadDeadline(time.Now().Add(drainTime))
			_, _ = io.Copy(io.Discard, io.LimitReader(body, drainBytes))
		}
		s.observe(r, c, a.status, route, time.Since(begin))
	})
}

// recovered answers after a panic; the connection is cut when the answer had
// begun.
func (s *server) recovered(a *answer, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the documented sentinel, thrown as it is
		panic(v)
	}
	c := callOf(r.Context())
	s.Log.LogAttrs(r.Context(), slog.LevelError, "panic", slog.String("request_id", c.requestID),
		slog.String("panic", clip(fmt.Sprint(v))), slog.String("stack", string(debug.Stack())))
	if a.status != 0 {
		panic(http.ErrAbortHandler)
	}
	s.writeProblem(a, r, newProblem(http.StatusInternalServerError, "internal error", nil))
}

// canonical gives a request the one path of its route: users' routes are below
// /api and without it, the others are at the root and below /api.
func canonical(r *http.Request) *http.Request {
	asked := r.URL.Path
	first, _, _ := strings.Cut(strings.TrimPrefix(asked, "/"), "/")
	add := false
	switch first {
	case "runs", "artifacts", "handlers", "workers", "dlq":
		add = true
	case "api":
		second, _, _ := strings.Cut(strings.TrimPrefix(asked, "/api/"), "/")
		switch second {
		case "health", "metrics", "openapi.json", "openapi.yaml", "docs":
		default:
			return r
		}
	default:
		return r
	}
	u := *r.URL
	if add {
		u.Path = "/api" + u.Path
		if u.RawPath != "" {
			u.RawPath = "/api" + u.RawPath
		}
	} else {
		u.Path, u.RawPath = strings.TrimPrefix(u.Path, "/api"), strings.TrimPrefix(u.RawPath, "/api")
	}
	out := *r
	out.URL = &u
	return &out
}

// clean reports whether the path is the one of its route as it is written. The
// mux would answer others with a redirect, in HTML.
func clean(u *url.URL) bool {
	written := u.EscapedPath()
	return strings.TrimSuffix(written, "/") == strings.TrimSuffix(path.Clean(written), "/")
}

// unrouted answers for paths and methods that are not there. The mux knows
// which; its answer is plain text.
func (s *server) unrouted(w http.ResponseWriter, r *http.Request) {
	probe := &headers{header: http.Header{}}
	s.mux.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		s.writeProblem(w, r, newProblem(http.StatusMethodNotAllowed, r.Method+" is not allowed here", nil))
		return
	}
	s.writeProblem(w, r, newProblem(http.StatusNotFound, "no such path", nil))
}

// headers takes an answer and keeps its head only.
type headers struct {
	header http.Header
	status int
}

func (h *headers) Header() http.Header         { return h.header }
func (h *headers) Write(p []byte) (int, error) { return len(p), nil }
func (h *headers) WriteHeader(status int)      { h.status = status }

// statusGone stands in logs and metrics for a request whose client went away
// before the answer; nobody sees it.
const statusGone = 499

func (s *server) observe(r *http.Request, c *call, status int, route string, took time.Duration) {
	if status == 0 {
		status = http.StatusOK
	}
	if status == http.StatusServiceUnavailable && r.Context().Err() != nil {
		status = statusGone
	}
	s.stats.request(route, status, took)
	level := slog.LevelDebug
	if status >= 500 && status != http.StatusServiceUnavailable {
		level = slog.LevelError
	} else if status == http.StatusServiceUnavailable {
		level = slog.LevelWarn
	}
	if !s.Log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("route", route), slog.Int("status", status), slog.Duration("took", took),
		slog.String("request_id", c.requestID), slog.String("correlation_id", c.correlationID),
	}
	if c.who.TenantID != "" {
		attrs = append(attrs, slog.String("tenant", c.who.TenantID), slog.String("key", c.who.KeyID))
	}
	if c.cause != nil && status >= 500 {
		attrs = append(attrs, slog.String("err", chain(c.cause)))
	}
	s.Log.LogAttrs(r.Context(), level, "request", attrs...)
}

// chain is an error with what it wraps, which its own text may leave out.
func chain(err error) string {
	text := err.Error()
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return text
		}
		err = u.Unwrap()
		if !strings.Contains(text, err.Error()) {
			text += ": " + err.Error()
		}
	}
}

// authenticate lets a request pass whose key is right for the operation.
func (s *server) authenticate(ctx huma.Context, next func(huma.Context)) {
	role, _ := ctx.Operation().Metadata["role"].(auth.Role)
	if role != "" {
		who, err := s.Auth.Check(ctx.Context(), ctx.Header("Authorization"), role)
		if err != nil {
			s.refuse(ctx, err)
			return
		}
		callOf(ctx.Context()).who = who
	}
	r, _ := humago.Unwrap(ctx)
	if most := ctx.Operation().MaxBodyBytes; most > 0 && r.ContentLength >= most { // before who asked whether to send it has sent it
		s.refuse(ctx, newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the request's body has %d bytes, and must have less than %d", r.ContentLength, most), nil))
		return
	}
	next(readable{ctx})
}
