package chaos

import (
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/invariant"
)

// record collects the history of a run of the suite, from many goroutines.
type record struct {
	mu    sync.Mutex
	h     invariant.History
	log   io.Writer // gets notes as they come
	begin time.Time
	seen  map[string]string // by step: generation and status, as last noted
	wrong []string          // what the suite itself saw that must not be
}

func newRecord(log io.Writer) *record {
	return &record{log: log, begin: time.Now(), seen: map[string]string{}}
}

// note says that something happened.
func (r *record) note(format string, args ...any) {
	n := invariant.Note{At: time.Now().UTC(), Up: uptime(), What: fmt.Sprintf(format, args...)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Notes = append(r.h.Notes, n)
	fmt.Fprintf(r.log, "%s %8.2fs %s\n", n.At.Format("15:04:05.000"), n.At.Sub(r.begin).Seconds(), n.What)
}

// uptime is that of the hosts whose clock is ours, in seconds.
func uptime() float64 {
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) // cannot fail on Linux
	return float64(up.Nano()) / 1e9
}

// violated says that something is not as it must be, which the tables do not
// show.
func (r *record) violated(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	r.note("VIOLATION %s", what)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, what)
}

// with changes the history.
func (r *record) with(do func(h *invariant.History)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do(&r.h)
}

// states notes what a client saw of a run, where it is news.
func (r *record) states(d wire.RunDetail) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range d.Steps {
		now := fmt.Sprintf("%d %s", s.Generation, s.Status)
		if r.seen[s.ID] == now {
			continue
		}
		r.seen[s.ID] = now
		r.h.States = append(r.h.States, invariant.State{RunID: d.Run.ID, StepID: s.ID, Generation: s.Generation, Status: s.Status})
	}
}
