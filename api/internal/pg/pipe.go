package pg

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
)

// pipe is a transaction that waits for the database as seldom as it can. What
// has no result is not sent on its own: the begin goes with the first statement
// that has one, statements of sqlc's kind :exec with the next that has one, and
// the commit with the last. What they are given must not change meanwhile.
//
// A statement that was sent with others fails where those are waited for, and
// Postgres does none that come after it, the commit among them.
type pipe struct {
	conn *pgx.Conn
	next []*pgx.QueuedQuery // not sent yet
	sent bool
}

var _ pgdb.DBTX = (*pipe)(nil)

// newPipe makes a transaction that begins with the given statement after its
// begin; "" = none.
func newPipe(conn *pgx.Conn, first string, args ...any) *pipe {
	p := &pipe{conn: conn}
	p.put("begin")
	if first != "" {
		p.put(first, args...)
	}
	return p
}

func (p *pipe) put(sql string, args ...any) {
	p.next = append(p.next, &pgx.QueuedQuery{SQL: sql, Arguments: args})
}

// waits reports whether a statement has a result that somebody looks at. Its
// first line is sqlc's, with its name and kind.
func waits(sql string) bool {
	head, _, _ := strings.Cut(sql, "\n")
	return !strings.HasPrefix(head, "-- name: ") || !strings.HasSuffix(head, " :exec")
}

// send sends what there is and sql, and takes the results of all but sql.
func (p *pipe) send(ctx context.Context, sql string, args []any) (pgx.BatchResults, error) {
	p.put(sql, args...)
	b := &pgx.Batch{QueuedQueries: p.next}
	p.next, p.sent = nil, true
	results := p.conn.SendBatch(ctx, b)
	for _, q := range b.QueuedQueries[:len(b.QueuedQueries)-1] {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // says the same
			return nil, ofAudit(q.SQL, q.Arguments, err)
		}
	}
	return results, nil
}

// Exec keeps a statement of the kind :exec for later.
func (p *pipe) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if !waits(sql) {
		p.put(sql, args...)
		return pgconn.CommandTag{}, nil
	}
	results, err := p.send(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	if closed := results.Close(); err == nil {
		err = closed
	}
	return tag, err
}

// Query gives rows, which must be closed before the next statement.
func (p *pipe) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	results, err := p.send(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		_ = results.Close() // says the same
		return nil, err
	}
	return &pipedRows{Rows: rows, results: results}, nil
}

// QueryRow gives one row, which must be scanned before the next statement.
func (p *pipe) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	results, err := p.send(ctx, sql, args)
	return pipedRow{results, err}
}

// commit ends a transaction. One that nothing was asked of never began.
func (p *pipe) commit(ctx context.Context) error {
	if !p.sent && !p.kept() {
		return nil
	}
	tag, err := p.Exec(ctx, "commit")
	if err == nil && tag.String() != "COMMIT" {
		err = pgx.ErrTxCommitRollback
	}
	return err
}

// kept reports whether a statement of the transaction's own is still to be sent.
func (p *pipe) kept() bool {
	for _, q := range p.next {
		if strings.HasPrefix(q.SQL, "-- name: ") {
			return true
		}
	}
	return false
}

// rollback does nothing where nothing is under way: after a commit, and on a
// connection that is broken, where the server has done it.
func (p *pipe) rollback(ctx context.Context) {
	if p.conn.IsClosed() || p.conn.PgConn().TxStatus() == 'I' {
		return
	}
	_, _ = p.conn.Exec(ctx, "rollback") // a connection that is not idle after it is not used again
}

// pipedRows are rows whose last results end with them.
type pipedRows struct {
	pgx.Rows
	results pgx.BatchResults
	closed  bool
	err     error
}

// Next closes the rows after the last one.
func (r *pipedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close may be called again.
func (r *pipedRows) Close() {
	r.Rows.Close()
	if !r.closed {
		r.closed, r.err = true, r.results.Close()
	}
}

// Err is what went wrong, once the rows are closed.
func (r *pipedRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

type pipedRow struct {
	results pgx.BatchResults
	err     error
}

// Scan takes the row.
func (r pipedRow) Scan(to ...any) error {
	if r.err != nil {
		return r.err
	}
	err := r.results.QueryRow().Scan(to...)
	if closed := r.results.Close(); err == nil {
		err = closed
	}
	return err
}
