package memdriver

import (
	"context"
	"sort"
	"sync"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of an exec's output, in bytes.
const (
	chunkSize = 64 << 10
	maxOutput = 256 << 20 // what an exec without a limit may keep
)

// output is what an exec has written, and its end. Any number of readers
// follow it, each from an offset of its own.
type output struct {
	limit int64 // bytes that are kept
	mode  step.OutputMode
	over  func() // called when the limit is passed and mode is kill

	mu      sync.Mutex
	chunks  []chunk
	kept    int64
	total   int64
	exit    *driver.Exit
	changed chan struct{} // closed at each change; nil while nobody waits
}

type chunk struct {
	stream driver.Stream
	offset int64
	data   []byte // what is in it never changes; it may grow within its capacity
}

func newOutput(limit int64, mode step.OutputMode, over func()) *output {
	if limit <= 0 || limit > maxOutput {
		limit = maxOutput
	}
	return &output{limit: limit, mode: mode, over: over}
}

// write appends p, or the part of it that the limit leaves.
func (o *output) write(stream driver.Stream, p []byte) {
	o.mu.Lock()
	passed := o.exit == nil && o.total <= o.limit && o.total+int64(len(p)) > o.limit
	if o.exit == nil {
		o.total += int64(len(p))
		p = p[:min(int64(len(p)), o.limit-o.kept)]
		for len(p) > 0 {
			n := o.appendSome(stream, p)
			p = p[n:]
			o.kept += int64(n)
		}
		o.wake()
	}
	o.mu.Unlock()
	if passed && o.mode == step.OutputKill {
		o.over()
	}
}

// appendSome puts as much of p as fits into one chunk.
func (o *output) appendSome(stream driver.Stream, p []byte) int {
	if last := len(o.chunks) - 1; last >= 0 && o.chunks[last].stream == stream {
		c := &o.chunks[last]
		if n := min(len(p), cap(c.data)-len(c.data)); n > 0 {
			c.data = append(c.data, p[:n]...)
			return n
		}
	}
	n := min(len(p), chunkSize)
	size := chunkSize
	if len(o.chunks) == 0 {
		size = max(n, 256) // most steps say little
	}
	o.chunks = append(o.chunks, chunk{stream: stream, offset: o.kept, data: append(make([]byte, 0, size), p[:n]...)})
	return n
}

// finish records the end.
func (o *output) finish(exit driver.Exit) {
	o.mu.Lock()
	defer o.mu.Unlock()
	exit.OutputBytes, exit.TotalBytes, exit.Truncated = o.kept, o.total, o.total > o.kept
	exit.Usage.OutputBytes = o.total
	o.exit = &exit
	o.wake()
}

func (o *output) wake() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// end is the exit, nil while it runs, and how much can be read.
func (o *output) end() (*driver.Exit, int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.exit == nil {
		return nil, o.kept
	}
	x := *o.exit
	return &x, o.kept
}

// stream hands everything from offset on to sink, and then the exit.
func (o *output) stream(ctx context.Context, offset int64, sink driver.Sink) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, exit, changed := o.next(offset)
		switch {
		case len(c.data) > 0:
			if err := sink(driver.ExecEvent{Stream: c.stream, Offset: c.offset, Data: c.data}); err != nil {
				return err
			}
			offset = c.offset + int64(len(c.data))
		case exit != nil:
			return sink(driver.ExecEvent{Offset: exit.OutputBytes, Exit: exit})
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// next is the output at offset; or the exit, if there is no more; or what to
// wait for.
func (o *output) next(offset int64) (chunk, *driver.Exit, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if offset < o.kept {
		i := sort.Search(len(o.chunks), func(i int) bool {
			return o.chunks[i].offset+int64(len(o.chunks[i].data)) > offset
		})
		c := o.chunks[i]
		skip := offset - c.offset
		n := len(c.data)
		return chunk{stream: c.stream, offset: offset, data: c.data[skip:n:n]}, nil, nil
	}
	if o.exit != nil {
		x := *o.exit
		return chunk{}, &x, nil
	}
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return chunk{}, nil, o.changed
}
