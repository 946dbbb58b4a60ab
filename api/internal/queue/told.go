package queue

import (
	"sync"

	"github.com/nofx-run/nofx/sdk/wire"
)

// told remembers which cancel orders went out in an answer already, so that a
// heartbeat that waits is not answered again and again while a step takes its
// grace. What it forgets is told once more, which does no harm.
type told struct {
	mu    sync.Mutex
	order map[string]bool
}

const maxTold = 10_000

func (t *told) fresh(incarnation string, orders []wire.CancelOrder) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range orders {
		if !t.order[incarnation+"\n"+o.AttemptID] {
			return true
		}
	}
	return false
}

func (t *told) note(incarnation string, orders []wire.CancelOrder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.order == nil || len(t.order)+len(orders) > maxTold {
		t.order = make(map[string]bool, len(orders))
	}
	for _, o := range orders {
		t.order[incarnation+"\n"+o.AttemptID] = true
	}
}
