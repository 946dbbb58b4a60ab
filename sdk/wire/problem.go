package wire

import (
	"net/http"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Problem is an RFC 9457 problem document, the body of every error answer.
type Problem struct {
	Type      string            `json:"type"` // "urn:nofx:problem:<kind>"
	Title     string            `json:"title"`
	Status    int               `json:"status"`
	Detail    string            `json:"detail,omitempty"`
	Instance  string            `json:"instance,omitempty"`   // the request's path
	RequestID string            `json:"request_id,omitempty"` // to find it in the logs
	Errors    []step.FieldError `json:"errors,omitempty"`
}

// kinds is the one table between error kinds and HTTP statuses.
var kinds = []struct {
	kind   step.Kind
	status int
}{
	{step.KindInvalid, http.StatusUnprocessableEntity},
	{step.KindInvalid, http.StatusBadRequest},
	{step.KindUnauthorized, http.StatusUnauthorized},
	{step.KindForbidden, http.StatusForbidden},
	{step.KindNotFound, http.StatusNotFound},
	{step.KindGone, http.StatusGone},
	{step.KindConflict, http.StatusConflict},
	{step.KindTooLarge, http.StatusRequestEntityTooLarge},
	{step.KindRateLimited, http.StatusTooManyRequests},
	{step.KindUnavailable, http.StatusServiceUnavailable},
	{step.KindUnsupported, http.StatusNotImplemented},
	{step.KindInternal, http.StatusInternalServerError},
}

// StatusOf is the HTTP status for an error kind.
func StatusOf(k step.Kind) int {
	for _, row := range kinds {
		if row.kind == k {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// KindOfStatus is the error kind that an HTTP status stands for.
func KindOfStatus(status int) step.Kind {
	for _, row := range kinds {
		if row.status == status {
			return row.kind
		}
	}
	switch {
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout, status == http.StatusRequestTimeout:
		return step.KindUnavailable
	case status >= 400 && status < 500:
		return step.KindInvalid
	}
	return step.KindInternal
}

// Err is the problem as an error with its kind. retryAfter is the value of
// the Retry-After header, in seconds.
func (p Problem) Err(retryAfter string) *step.Error {
	e := &step.Error{Kind: KindOfStatus(p.Status), Message: p.Detail, Fields: p.Errors}
	if e.Message == "" {
		e.Message = p.Title
	}
	if s, err := strconv.Atoi(retryAfter); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}
