package wire

import "github.com/nofx-run/nofx/sdk/step"

// Retry says how a step is tried again after a failure. What a step leaves open
// is its handler's. The four lists belong together: a step that gives one of
// them leaves none of them to its handler. Without lists every failure of the
// step's own counts.
//
// Losses by infrastructure (lost, driver_error) have rules of their own: a step
// that may have touched the outside is not run again after one unless it is
// idempotent, whatever stands here.
type Retry struct {
	Attempts       int          `json:"attempts,omitempty"`        // tries in all, 1 to 20
	BackoffMS      int64        `json:"backoff_ms,omitempty"`      // the longest wait before the second try; doubles with each; the wait is drawn from 0 to that
	MaxBackoffMS   int64        `json:"max_backoff_ms,omitempty"`  // where doubling stops; 0 = an hour
	On             []step.Cause `json:"on,omitzero"`               // these causes are tried again
	ExitCodes      []int        `json:"exit_codes,omitzero"`       // and exits with these codes; other exits are not
	NeverOn        []step.Cause `json:"never_on,omitzero"`         // these are not, which goes before all else
	NeverExitCodes []int        `json:"never_exit_codes,omitzero"` // nor exits with these codes
}

// Limits of retries.
const (
	MaxAttempts      = 20
	MaxRetryBackoff  = 24 * 60 * 60 * 1000 // milliseconds
	MaxRetryBudget   = 20_000
	LeastRetryBudget = 100 // of a plan that names none; one for each step where those are more
	MaxRetryList     = 64  // entries of each list
)
