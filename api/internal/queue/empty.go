package queue

import (
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	believeEmpty = 250 * time.Millisecond // as often as the poll looks, too
	mostEmpty    = 100_000                // workers
)

// empty knows which workers have just looked and found nothing, while nothing
// that anybody would have to look for has been told of since. They need no
// other look: they are answered, or wait, as if they had looked. What no wake
// tells of, they find as late as a claim that waits finds it.
type empty struct {
	mu    sync.Mutex
	looks map[string]look // by worker
}

// look is one that found nothing.
type look struct {
	incarnation, key string
	drivers          []string
	missed           uint64 // wakes that nobody had heard by then
	at               time.Time
}

// left is for how long a claim need not look.
func (e *empty) left(who auth.Principal, in wire.ClaimRequest, missed uint64) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, ok := e.looks[in.WorkerID]
	if !ok || l.missed != missed || l.incarnation != in.Incarnation || l.key != who.KeyID || !slices.Equal(l.drivers, in.Drivers) {
		return 0
	}
	return believeEmpty - time.Since(l.at)
}

// note remembers what a look came to.
func (e *empty) note(who auth.Principal, in wire.ClaimRequest, missed uint64, nothing bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !nothing {
		delete(e.looks, in.WorkerID)
		return
	}
	if e.looks == nil || len(e.looks) >= mostEmpty {
		e.looks = map[string]look{}
	}
	e.looks[in.WorkerID] = look{incarnation: in.Incarnation, key: who.KeyID, drivers: in.Drivers, missed: missed, at: time.Now()}
}
