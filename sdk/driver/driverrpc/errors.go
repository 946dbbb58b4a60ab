package driverrpc

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nofx-run/nofx/sdk/step"
)

// kindCodes is the one table of error kinds and gRPC codes. It is read both
// ways; for a code that stands twice the first kind is meant, unless a
// RetryInfo comes with it: RESOURCE_EXHAUSTED with a hint is limited, without
// one too_large, as gRPC itself uses it for messages over the bound.
var kindCodes = []struct {
	kind step.Kind
	code codes.Code
}{
	{step.KindInvalid, codes.InvalidArgument},
	{step.KindUnauthorized, codes.Unauthenticated},
	{step.KindForbidden, codes.PermissionDenied},
	{step.KindNotFound, codes.NotFound},
	{step.KindConflict, codes.Aborted},
	{step.KindTooLarge, codes.ResourceExhausted},
	{step.KindRateLimited, codes.ResourceExhausted},
	{step.KindUnavailable, codes.Unavailable},
	{step.KindUnsupported, codes.Unimplemented},
	{step.KindInternal, codes.Internal},
}

// Bounds of an error on the wire.
const (
	maxErrorText   = 4 << 10
	maxErrorFields = 32
)

// toStatus makes a gRPC error of a driver's.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var e *step.Error
	if !errors.As(err, &e) {
		switch {
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, "the call was cancelled")
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, "the call's deadline passed")
		}
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		return status.Error(codes.Internal, clean(err.Error()))
	}
	code := codes.Internal
	for _, kc := range kindCodes {
		if kc.kind == e.Kind {
			code = kc.code
			break
		}
	}
	s := status.New(code, clean(e.Message))
	var details []protoadapt.MessageV1
	if e.RetryAfter > 0 || e.Kind == step.KindRateLimited {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields[:min(len(e.Fields), maxErrorFields)] {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: clean(f.Location), Description: clean(f.Message),
			})
		}
		details = append(details, bad)
	}
	if len(details) > 0 {
		if with, err := s.WithDetails(details...); err == nil {
			s = with
		}
	}
	return s.Err()
}

// fromStatus makes a *step.Error of what a call returned. When the caller's
// own context has ended, the error wraps the context's.
func fromStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	if cerr := ctx.Err(); cerr != nil && (s.Code() == codes.Canceled || s.Code() == codes.DeadlineExceeded || s.Code() == codes.Unavailable) {
		return &step.Error{Kind: step.KindUnavailable, Message: "the call to the driver was given up: " + cerr.Error(), Err: cerr}
	}
	e := &step.Error{Kind: step.KindInternal, Message: clean(s.Message()), Err: nil}
	hinted := false
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.RetryInfo:
			hinted = true
			e.RetryAfter = min(max(d.GetRetryDelay().AsDuration(), 0), 24*time.Hour)
		case *errdetails.BadRequest:
			for _, f := range d.GetFieldViolations()[:min(len(d.GetFieldViolations()), maxErrorFields)] {
				e.Fields = append(e.Fields, step.FieldError{Location: clean(f.GetField()), Message: clean(f.GetDescription())})
			}
		}
	}
	switch code := s.Code(); code {
	case codes.DeadlineExceeded:
		// gRPC's own clock may be a moment ahead of the context's.
		e.Kind, e.Err = step.KindUnavailable, context.DeadlineExceeded
		e.Message = "the driver did not answer in time"
	case codes.Canceled:
		e.Kind = step.KindUnavailable
	case codes.ResourceExhausted:
		e.Kind = step.KindTooLarge
		if hinted {
			e.Kind = step.KindRateLimited
		}
	default:
		for _, kc := range kindCodes {
			if kc.code == code {
				e.Kind = kc.kind
				break
			}
		}
	}
	return e
}

// clean bounds a text and makes it fit for a protobuf string, and for what it ends
// in: a NUL is no text to a database.
func clean(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText] + "…"
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
