package step

import (
	"errors"
	"fmt"
	"time"
)

// Kind is one of the few classes of error that callers act on. sdk/wire maps
// kinds to HTTP statuses and sdk/driver/driverrpc to gRPC codes.
type Kind string

const (
	KindInvalid      Kind = "invalid"      // the request breaks a rule; do not repeat it
	KindUnauthorized Kind = "unauthorized" // no valid key or token
	KindForbidden    Kind = "forbidden"    // the principal may not do this
	KindNotFound     Kind = "not_found"
	KindGone         Kind = "gone"        // the API had it and does not keep it any more
	KindConflict     Kind = "conflict"    // the state forbids it, or the writer is stale
	KindTooLarge     Kind = "too_large"   // over a size limit
	KindRateLimited  Kind = "limited"     // too many; RetryAfter says when
	KindUnavailable  Kind = "unavailable" // try again, RetryAfter may hint when
	KindUnsupported  Kind = "unsupported" // this driver or version cannot do it
	KindInternal     Kind = "internal"    // a defect; details are in the log
)

// Valid reports whether k is one of the kinds above.
func (k Kind) Valid() bool {
	switch k {
	case KindInvalid, KindUnauthorized, KindForbidden, KindNotFound, KindGone, KindConflict, KindTooLarge, KindRateLimited,
		KindUnavailable, KindUnsupported, KindInternal:
		return true
	}
	return false
}

// Error is an error with a kind. Message is safe to show to users.
type Error struct {
	Kind       Kind
	Message    string
	RetryAfter time.Duration // with unavailable and limited; 0 = no hint
	Fields     []FieldError  // with invalid: what is wrong where
	Err        error         // cause, never shown to users
}

// FieldError names one field of a request and how to mend it.
type FieldError struct {
	Location string `json:"location"` // like "body.plan.steps[1].depends_on[0]"
	Message  string `json:"message"`
	Value    any    `json:"value,omitempty"`
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind; %w works.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// KindOf is the kind of the outermost *Error in err's chain, KindInternal for
// other errors, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }
