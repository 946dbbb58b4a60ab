// Package reseal goes through everything that is sealed in the database and puts
// it under the keyset's primary key, and seals what lies in clear and should
// not: rows from before there were keys, or from before a handler's manifest
// marked an input.
//
// It may be stopped at any time and run again, beside an API that works: rows
// are taken one by one, and each write compares what was read. What is done
// already is left alone.
package reseal

import (
	"context"
	"fmt"
	"io"

	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/secret"
)

const (
	page     = 1000 // rows that one statement looks at
	mostTold = 20   // rows of a table that are told one by one
)

// Service is what Run and Uses work with.
type Service struct {
	DB       *pg.DB
	Keys     *secret.Keys
	Handlers *handler.Set
}

// row is one of a table, as far as it tells whether there is something to do.
type row struct {
	tenant, id string
	tool       string
	head       []byte // of what is sealed; empty = nothing is
	clear      bool   // it has something that is sealed elsewhere
}

// outcome is what became of a row.
type outcome int

const (
	left     outcome = iota // nothing to do
	sealed                  // it lay in clear
	resealed                // it was under another key
	busy                    // somebody changed it meanwhile
	outcomes                // how many there are
)

// table is one whose rows are sealed.
type table struct {
	name string
	// after are the rows after one, in their order.
	after func(context.Context, *pgdb.Queries, row) ([]row, error)
	// one does a row. Its second error says that the row cannot be opened.
	one func(context.Context, *pgdb.Queries, row) (o outcome, unopened, err error)
}

func (s *Service) tables() []table {
	return []table{
		{"step", stepsAfter(s.sensitive), s.step}, {"step_dlq", deadAfter(s.sensitive), s.dead}, {"alert_receiver", receiversAfter, s.receiver},
	}
}

// sensitive reports whether a tool's inputs may have something to hide.
func (s *Service) sensitive(tool string) bool {
	h, known := s.Handlers.Find(tool)
	return known && len(h.Sensitive()) > 0
}

// Run does all tables and prints what it did. Its error says what is left to do.
func (s *Service) Run(ctx context.Context, out io.Writer) error {
	if err := s.Keys.Ready(); err != nil {
		return err
	}
	undone := int64(0)
	for _, t := range s.tables() {
		var n [outcomes]int64
		shut := int64(0)
		err := s.walk(ctx, t, func(r row) error {
			if !r.clear && (len(r.head) == 0 || s.Keys.Current(r.head)) {
				return nil
			}
			var o outcome
			var unopened error
			err := s.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
				o, unopened, err = t.one(ctx, db, r)
				return err
			})
			if err != nil {
				return err
			}
			if n[o]++; unopened == nil {
				return nil
			}
			if shut++; shut > mostTold {
				return nil
			}
			_, err = fmt.Fprintf(out, "%s %s of tenant %s: %v\n", t.name, r.id, r.tenant, unopened)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, pg.Cause(err))
		}
		if _, err := fmt.Fprintf(out, "%-15s sealed %d, resealed %d, changed meanwhile %d, not to be opened %d\n", t.name, n[sealed], n[resealed], n[busy], shut); err != nil {
			return err
		}
		undone += n[busy] + shut
	}
	if undone > 0 {
		return fmt.Errorf("%d rows are left: run it again for what was changed meanwhile; what cannot be opened needs the key that it was sealed with", undone)
	}
	return nil
}

// Uses counts what is sealed with a key.
func (s *Service) Uses(ctx context.Context, key string) (n int64, err error) {
	for _, t := range s.tables() {
		err := s.walk(ctx, t, func(r row) error {
			if id, ok := secret.KeyOf(r.head); ok && secret.Name(id) == key {
				n++
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// walk shows every row of a table, a page at a time.
func (s *Service) walk(ctx context.Context, t table, see func(row) error) error {
	var last row
	for {
		var rows []row
		err := s.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
			rows, err = t.after(ctx, db, last)
			return err
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, r := range rows {
			if err := see(r); err != nil {
				return err
			}
		}
		last = rows[len(rows)-1]
	}
}

func wrote(n int64, o outcome) outcome {
	if n == 0 {
		return busy
	}
	return o
}
