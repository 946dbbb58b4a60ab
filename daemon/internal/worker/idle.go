package worker

import (
	"context"
	"sync"
)

// idle counts what is going on and lets others wait for nothing.
type idle struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed while n is 0
}

func newIdle() *idle {
	i := &idle{zero: make(chan struct{})}
	close(i.zero)
	return i
}

func (i *idle) add() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n++; i.n == 1 {
		i.zero = make(chan struct{})
	}
}

func (i *idle) done() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n--; i.n == 0 {
		close(i.zero)
	}
}

func (i *idle) wait(ctx context.Context) error {
	i.mu.Lock()
	zero := i.zero
	i.mu.Unlock()
	select {
	case <-zero:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
