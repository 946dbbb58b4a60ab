package queue

import (
	"errors"
	"math"

	"github.com/nofx-run/nofx/api/internal/pg"
)

// none reports whether a query found no row.
func none(err error) bool { return errors.Is(err, pg.ErrNoRow) }

// i32 is n as the database's integer, at its end where n is beyond it.
func i32(n int) int32 { return int32(max(min(n, math.MaxInt32), math.MinInt32)) } //nolint:gosec // bounded on this line
