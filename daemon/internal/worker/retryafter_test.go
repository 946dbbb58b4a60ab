package worker

import (
	"fmt"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// When a driver says how long it wants to be left alone, the verdict says so.
func TestVerdictCarriesRetryAfter(t *testing.T) {
	t.Parallel()
	a := &attempt{}
	asked := func(d time.Duration) error {
		return fmt.Errorf("create: %w", &step.Error{Kind: step.KindRateLimited, Message: "too many", RetryAfter: d})
	}
	for want, err := range map[int64]error{90_000: asked(90 * time.Second), 86_400_000: asked(1000 * time.Hour), 0: asked(-time.Second)} {
		if v := a.verdictOf(t.Context(), err); v.Cause != step.CauseDriverError || v.RetryAfterMS != want {
			t.Errorf("%v: %+v", err, v)
		}
	}
	if v := a.verdictOf(t.Context(), fmt.Errorf("%w: %w", errLost, asked(time.Second))); v.Cause != step.CauseLost || v.RetryAfterMS != 0 {
		t.Errorf("%+v", v)
	}
}
