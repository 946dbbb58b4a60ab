package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nofx-run/nofx/sdk/step"
)

// awayHint is when a client should try again after the database was away.
const awayHint = time.Second

// refusals says, by the name of the constraint that refused, what a user did
// wrong. A constraint that is not here cannot be broken from outside: breaking
// it is a defect.
var refusals = map[string]struct {
	kind    step.Kind
	message string
}{
	"step_name_unique":         {step.KindInvalid, "two steps have the same name"},
	"idempotency_pk":           {step.KindConflict, "a request with this idempotency key is being served"},
	"project_tenant_fk":        {step.KindNotFound, "no such tenant"},
	"api_key_tenant_fk":        {step.KindNotFound, "no such tenant"},
	"alert_receiver_tenant_fk": {step.KindNotFound, "no such tenant"},
	"alert_rule_tenant_fk":     {step.KindNotFound, "no such tenant"},
	"tenant_id_form":           {step.KindInvalid, "a tenant is 1 to 63 of a-z 0-9 _ - and begins with a letter or digit"},
	"worker_name_unique":       {step.KindConflict, "another worker has this name"},
}

func away(err error) *step.Error {
	return &step.Error{Kind: step.KindUnavailable, Message: "the database is not available", RetryAfter: awayHint, Err: err}
}

// translate turns the library's errors into the project's. Errors that are
// already *step.Error pass.
func translate(ctx context.Context, err error) error {
	var known *step.Error
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(err, pgx.ErrNoRows):
		return &step.Error{Kind: step.KindNotFound, Message: "not found", Err: err}
	case errors.As(err, &refused):
		return fromServer(refused, err)
	case ctx.Err() != nil:
		// The caller went away or its time is over.
		return &step.Error{Kind: step.KindUnavailable, Message: "the request was given up", RetryAfter: awayHint, Err: err}
	case broken(err):
		return away(err)
	}
	return &step.Error{Kind: step.KindInternal, Message: "internal error", Err: err}
}

func fromServer(e *pgconn.PgError, err error) error {
	if r, ok := refusals[e.ConstraintName]; ok && e.ConstraintName != "" {
		return &step.Error{Kind: r.kind, Message: r.message, Err: err}
	}
	switch {
	case e.Code == "22021", e.Code == "22P05":
		return &step.Error{Kind: step.KindInvalid, Message: "a text holds a NUL byte or is not UTF-8", Err: err}
	case e.Code == "53100":
		full := away(err)
		full.Message = "the database's disk is full"
		return full
	case strings.HasPrefix(e.Code, "08"), // connection
		strings.HasPrefix(e.Code, "57P"),                        // shutdown, crash, starting up
		strings.HasPrefix(e.Code, "53"),                         // out of connections, memory
		e.Code == "57014", e.Code == "55P03", e.Code == "25P03", // timeouts
		e.Code == "28000", e.Code == "3D000": // not set up yet
		return away(err)
	case given(e):
		return &step.Error{Kind: step.KindUnavailable, Message: "the database is busy", RetryAfter: awayHint, Err: err}
	}
	return &step.Error{Kind: step.KindInternal, Message: "internal error", Err: err}
}

// given reports whether Postgres gave the transaction up and it may be run
// again.
func given(e *pgconn.PgError) bool {
	return e.Code == "40001" || e.Code == "40P01"
}

func broken(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	var file *fs.PathError // whose numbers count as a network's, and are those of a blob
	if errors.As(err, &file) {
		return false
	}
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "closed pool")
}

// retry runs do again while Postgres gives it up.
func retry(ctx context.Context, do func() error) error {
	for n := 1; ; n++ {
		err := do()
		var refused *pgconn.PgError
		if err == nil || n == tries || !errors.As(err, &refused) || !given(refused) {
			return translate(ctx, err)
		}
		pause := time.NewTimer(time.Duration(n) * time.Duration(1+rand.IntN(10)) * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return translate(ctx, ctx.Err())
		case <-pause.C:
		}
	}
}

// ErrNoRow is the error of a query for one row that found none, inside a
// transaction's function.
var ErrNoRow = pgx.ErrNoRows

// Unfit reports whether Postgres refused values that it was given: the same ones
// will never do.
func Unfit(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && (strings.HasPrefix(refused.Code, "22") || strings.HasPrefix(refused.Code, "23"))
}

// Away reports whether the database was not there or gave up for now.
func Away(err error) bool { return step.Is(err, step.KindUnavailable) }

// Cause is the error with the text of what is behind it, for the log; its own
// text is for users and leaves that out.
func Cause(err error) error {
	var e *step.Error
	if errors.As(err, &e) && e.Err != nil {
		return fmt.Errorf("%s: %w", e.Message, e.Err)
	}
	return err
}
