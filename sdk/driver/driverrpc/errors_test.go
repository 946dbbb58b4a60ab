package driverrpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	kinds := map[step.Kind]bool{}
	for _, kc := range kindCodes {
		if kinds[kc.kind] {
			t.Errorf("kind %s stands twice", kc.kind)
		}
		kinds[kc.kind] = true
		for _, retry := range []time.Duration{0, 1500 * time.Millisecond} {
			if retry > 0 && kc.kind == step.KindTooLarge {
				continue // a size has no time
			}
			in := &step.Error{Kind: kc.kind, Message: "what went wrong", RetryAfter: retry}
			on := toStatus(fmt.Errorf("wrapped: %w", in))
			if got := status.Code(on); got != kc.code {
				t.Errorf("%s goes as %s, want %s", kc.kind, got, kc.code)
			}
			var out *step.Error
			if err := fromStatus(t.Context(), on); !errors.As(err, &out) || out.Kind != in.Kind || out.Message != in.Message || out.RetryAfter != retry {
				t.Errorf("%+v came as %+v", in, out)
			}
		}
	}
	for _, k := range []step.Kind{
		step.KindInvalid, step.KindUnauthorized, step.KindForbidden, step.KindNotFound, step.KindConflict, step.KindTooLarge,
		step.KindRateLimited, step.KindUnavailable, step.KindUnsupported, step.KindInternal,
	} {
		if !kinds[k] {
			t.Errorf("kind %s is not in the table", k)
		}
	}
}

func TestErrorsKeepTheirFields(t *testing.T) {
	t.Parallel()
	in := &step.Error{Kind: step.KindInvalid, Message: "m", Fields: []step.FieldError{{Location: "spec.id", Message: "too long"}}}
	var out *step.Error
	if err := fromStatus(t.Context(), toStatus(in)); !errors.As(err, &out) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(in.Fields, out.Fields); diff != "" {
		t.Error(diff)
	}
}

func TestOtherErrors(t *testing.T) {
	t.Parallel()
	if toStatus(nil) != nil || fromStatus(t.Context(), nil) != nil {
		t.Error("nil is an error")
	}
	for _, c := range []struct {
		in   error
		want step.Kind
	}{
		{errors.New("a plain one"), step.KindInternal},
		{context.Canceled, step.KindUnavailable},
		{context.DeadlineExceeded, step.KindUnavailable},
		{status.Error(codes.NotFound, "x"), step.KindNotFound},
		{status.Error(codes.DataLoss, "x"), step.KindInternal},
		{errors.New("bad \xff bytes"), step.KindInternal},
		{errors.New("no \x00 text"), step.KindInternal},
		{errors.New(strings.Repeat("x", 1<<20)), step.KindInternal},
	} {
		err := fromStatus(t.Context(), toStatus(c.in))
		if step.KindOf(err) != c.want || len(err.Error()) > maxErrorText+16 || strings.Contains(err.Error(), "\x00") {
			t.Errorf("%.40q came as %s, %d bytes", c.in, step.KindOf(err), len(err.Error()))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable} {
		if err := fromStatus(ctx, status.Error(code, "x")); !errors.Is(err, context.Canceled) || !step.Is(err, step.KindUnavailable) {
			t.Errorf("%s with an ended context: %v", code, err)
		}
	}
	if err := fromStatus(ctx, status.Error(codes.NotFound, "x")); !step.Is(err, step.KindNotFound) {
		t.Errorf("an answer that came before the context's end is lost: %v", err)
	}
}
