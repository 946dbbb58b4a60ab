// Package execlog keeps one exec's output and exit in memory and streams them
// from any offset, as driver.Exec and driver.Attach must. It is for drivers
// whose sandboxes end with their process; one with CapReattach keeps output
// where it outlives it.
package execlog

import (
	"context"
	"io"
	"sort"
	"sync"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Log is one exec's.
type Log struct {
	limit int64

	mu      sync.Mutex
	events  []driver.ExecEvent // with data, contiguous
	kept    int64
	total   int64
	exit    *driver.Exit
	changed chan struct{} // closed and replaced at each change
	full    chan struct{} // closed when there is more than limit
	done    chan struct{}
}

// New makes one that keeps at most limit bytes; what comes after is counted.
func New(limit int64) *Log {
	return &Log{limit: limit, changed: make(chan struct{}), full: make(chan struct{}), done: make(chan struct{})}
}

// Writer appends to a stream. It never fails.
func (l *Log) Writer(s driver.Stream) io.Writer { return writer{l, s} }

type writer struct {
	log    *Log
	stream driver.Stream
}

func (w writer) Write(p []byte) (int, error) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.total; before <= l.limit && before+int64(len(p)) > l.limit {
		close(l.full)
	}
	l.total += int64(len(p))
	if keep := min(int64(len(p)), l.limit-l.kept); keep > 0 {
		l.events = append(l.events, driver.ExecEvent{Stream: w.stream, Offset: l.kept, Data: append([]byte(nil), p[:keep]...)})
		l.kept += keep
		l.wake()
	}
	return len(p), nil
}

// wake tells those who stream. The lock is held.
func (l *Log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// End says how the exec ended, once, after its last output. The log fills in
// how much output there was.
func (l *Log) End(exit driver.Exit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	exit.OutputBytes, exit.TotalBytes, exit.Truncated = l.kept, l.total, l.kept < l.total
	l.exit = &exit
	l.wake()
	close(l.done)
}

// Full is closed when the exec has written more than the limit.
func (l *Log) Full() <-chan struct{} { return l.full }

// Done is closed when the exec has ended.
func (l *Log) Done() <-chan struct{} { return l.done }

// State is the exec's in Recover.
func (l *Log) State(id string) driver.ExecState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return driver.ExecState{ID: id, Exit: l.exit, OutputBytes: l.kept}
}

// Stream sends what there is from offset on, and what comes, until the exec's
// end or ctx's.
func (l *Log) Stream(ctx context.Context, offset int64, sink driver.Sink) error {
	for {
		l.mu.Lock()
		// The first event that ends after offset.
		i := sort.Search(len(l.events), func(i int) bool { return l.events[i].Offset+int64(len(l.events[i].Data)) > offset })
		var next []driver.ExecEvent
		if i < len(l.events) {
			next = l.events[i:len(l.events):len(l.events)]
		}
		exit, changed := l.exit, l.changed
		l.mu.Unlock()
		for _, e := range next {
			skip := max(0, offset-e.Offset)
			e.Data, e.Offset = e.Data[skip:], e.Offset+skip
			if err := sink(e); err != nil {
				return err
			}
			offset = e.Offset + int64(len(e.Data))
		}
		if len(next) > 0 {
			continue
		}
		if exit != nil {
			return sink(driver.ExecEvent{Offset: offset, Exit: exit})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
