package pg

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nofx-run/nofx/sdk/step"
)

// A full disk is told as what it is: the database is there, and takes nothing.
func TestFromServer(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"53100": "the database's disk is full", "53300": "the database is not available", "57P01": "the database is not available", "40001": "the database is busy",
	} {
		err := translate(t.Context(), &pgconn.PgError{Code: code})
		if !step.Is(err, step.KindUnavailable) || err.Error() != want {
			t.Errorf("%s: %v, want %q", code, err, want)
		}
	}
}
