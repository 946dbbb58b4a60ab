package api_test

import (
	"testing"

	"github.com/nofx-run/nofx/sdk/wire"
)

// A step that is given back, for a drain or a breaker, has its place in the queue
// again: what came after it does not go first.
func TestGivenBackKeepsItsPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w, other := r.worker("host"), r.worker("other")
	for _, name := range []string{"first", "second", "third"} {
		r.submit(`[{"name":"` + name + `",` + alone + `}]`)
	}
	l := w.one()
	if _, err := w.Release(t.Context(), wire.ReleaseRequest{WorkerID: w.id, Incarnation: w.incarnation, Leases: []wire.Fence{l.Fence}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second", "third"} {
		if got := other.one(); got.StepName != want || got.Attempt != 1 {
			t.Errorf("claimed %s, attempt %d; want %s", got.StepName, got.Attempt, want)
		}
	}
}
