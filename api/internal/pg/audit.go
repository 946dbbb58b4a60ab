package pg

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// auditRefusedError is that Postgres refused rows of the audit log, and with them
// what they tell of.
type auditRefusedError struct {
	tenant string
	rows   int
	err    error
}

func (e *auditRefusedError) Error() string { return e.err.Error() }
func (e *auditRefusedError) Unwrap() error { return e.err }

// ofAudit marks the error of a statement that adds to the audit log.
func ofAudit(sql string, args []any, err error) error {
	rows := 1
	switch {
	case strings.HasPrefix(sql, "-- name: InsertAudits "):
		ids, _ := args[1].([]string) // principals
		rows = len(ids)
	case !strings.HasPrefix(sql, "-- name: InsertAudit "):
		return err
	}
	tenant, _ := args[0].(string)
	return &auditRefusedError{tenant: tenant, rows: rows, err: err}
}

// noteRefused notes for the tenant's alerts that an action failed because its row
// in the audit log was refused. What Postgres could not do at that moment, and can
// when it is asked again, is not that.
// Several rows are of several actions, each of which is tried on its own, unless
// the database is not able to at all.
func (db *DB) noteRefused(ctx context.Context, err error) {
	var audit *auditRefusedError
	var why *pgconn.PgError
	if !errors.As(err, &audit) || !errors.As(err, &why) || ctx.Err() != nil ||
		given(why) || strings.HasPrefix(why.Code, "08") || strings.HasPrefix(why.Code, "57P") ||
		audit.rows > 1 && !step.Is(err, step.KindUnavailable) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), acquireTimeout)
	defer cancel()
	err = db.SystemQuery(ctx, func(q *pgdb.Queries) error {
		return q.NoteAuditTrouble(ctx, audit.tenant, why.Code+": "+why.Message)
	})
	if err != nil && db.log != nil {
		db.log.LogAttrs(ctx, slog.LevelError, "a row of the audit log was refused, and that cannot be noted", slog.String("tenant", audit.tenant), slog.Any("err", Cause(err)))
	}
}
