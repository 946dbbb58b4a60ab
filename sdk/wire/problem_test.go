package wire_test

import (
	"net/http"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A status that no kind stands for still says whose fault it was.
func TestKindOfStatus(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]step.Kind{
		http.StatusBadRequest: step.KindInvalid, http.StatusNotFound: step.KindNotFound, http.StatusRequestTimeout: step.KindUnavailable,
		http.StatusMethodNotAllowed: step.KindInvalid, http.StatusRequestedRangeNotSatisfiable: step.KindInvalid,
		http.StatusRequestHeaderFieldsTooLarge: step.KindInvalid, http.StatusBadGateway: step.KindUnavailable,
		http.StatusInternalServerError: step.KindInternal, http.StatusFound: step.KindInternal,
	} {
		if got := wire.KindOfStatus(status); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
	for _, kind := range []step.Kind{step.KindInvalid, step.KindConflict, step.KindTooLarge, step.KindRateLimited, step.KindUnsupported} {
		if got := wire.KindOfStatus(wire.StatusOf(kind)); got != kind {
			t.Errorf("%s became %s", kind, got)
		}
	}
}
