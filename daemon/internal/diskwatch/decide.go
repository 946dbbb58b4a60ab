package diskwatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"time"
)

// Over is a workspace above its bound.
type Over struct {
	Bytes, Limit     int64
	Files, MostFiles int64
	Left             int64 // bytes on a disk that is as good as full; 0 = that is not the reason
}

// String tells of it with both numbers.
func (o Over) String() string {
	switch {
	case o.Left > 0:
		return fmt.Sprintf("the worker's disk is as good as full, with %s left, and the workspace is the largest without a disk_mb of its own: %s", mib(o.Left), mib(o.Bytes))
	case o.Bytes > o.Limit:
		return fmt.Sprintf("the workspace holds %s, more than the %s that a step without disk_mb has here", mib(o.Bytes), mib(o.Limit))
	}
	return fmt.Sprintf("the workspace holds %d files, more than the %d that a step without disk_mb has here", o.Files, o.MostFiles)
}

// mib rounds up: what is above a bound does not look like it.
func mib(n int64) string { return fmt.Sprintf("%.1f MiB", math.Ceil(float64(n)*10/(1<<20))/10) }

// over tells whether the folder is above its bound, as far as was seen.
func (f *folder) over() *Over {
	if f.limit == 0 || f.size.Bytes <= f.limit && f.size.Files <= f.mostFiles() {
		return nil
	}
	return &Over{Bytes: f.size.Bytes, Limit: f.limit, Files: f.size.Files, MostFiles: f.mostFiles()}
}

func (f *folder) mostFiles() int64 { return f.limit / inodeSize }

// account asks how full the disk is. The caller holds the lock.
func (w *Watch) account() {
	use, err := w.disk.Use()
	if err != nil {
		return // what it has grown by shows later
	}
	if w.known {
		w.grown.bytes += max(use.Used-w.last.Used, 0)
		w.grown.files += max(use.Files-w.last.Files, 0)
	} else {
		w.alarm = min(use.reserve(), use.Free/2)
	}
	w.last, w.known = use, true
}

// suspect reports whether the disk has grown by what the folder had left when it
// was last looked at. The caller holds the lock.
func (w *Watch) suspect(f *folder) bool {
	return f.limit > 0 && (w.grown.bytes-f.at.bytes > f.limit-f.size.Bytes || w.grown.files-f.at.files > f.mostFiles()-f.size.Files)
}

// due reports whether a folder is to be looked at.
func (w *Watch) due(f *folder, now time.Time) bool {
	took := f.done.Sub(f.began)
	switch {
	case f.stays == 0 || f.walking:
		return false
	case !f.known:
		return true
	case now.Sub(f.done) < restShare*took:
		return false
	}
	return w.suspect(f) || now.Sub(f.began) >= max(backstop, backShare*took)
}

// tick looks at the disk, and at what may be above its bound.
func (w *Watch) tick(ctx context.Context, walking *sync.WaitGroup) {
	now := time.Now()
	var volumes []*Stay
	w.mu.Lock()
	w.account()
	for s := range w.stays {
		if s.f == nil {
			volumes = append(volumes, s)
			continue
		}
		f := s.f
		if !w.due(f, now) {
			continue
		}
		select {
		case w.walks <- struct{}{}:
		default:
			continue // the next time
		}
		f.walking = true
		walking.Go(func() {
			defer func() { <-w.walks }()
			w.walk(ctx, f)
			w.mu.Lock()
			defer w.mu.Unlock()
			f.walking = false
		})
	}
	if w.scarce() {
		w.calling = true
		walking.Go(func() { w.relieve(ctx) })
	}
	w.mu.Unlock()
	for _, s := range volumes {
		w.look(s)
	}
}

// walk looks at a folder, and tells those in it when it is above its bound.
func (w *Watch) walk(ctx context.Context, f *folder) {
	ctx, cancel := context.WithTimeout(ctx, walkTime)
	defer cancel()
	w.mu.Lock()
	at, began, seen := w.grown, time.Now(), folder{limit: f.limit}
	var processes []func() []int
	for s := range w.stays {
		if s.f == f && s.v.Pids != nil {
			processes = append(processes, s.v.Pids)
		}
	}
	w.mu.Unlock()
	var pids []int
	for _, of := range processes {
		pids = append(pids, of()...)
	}
	size, err := w.disk.Size(ctx, f.dir, seen.mostFiles(), pids)
	if seen.size = size; seen.over() != nil {
		// What was moved or replaced while somebody looked may have counted twice.
		size, err = w.disk.Size(ctx, f.dir, seen.mostFiles(), pids)
	}
	if ctx.Err() != nil {
		err = nil // as far as it came
	}
	if errors.Is(err, fs.ErrNotExist) {
		size, err = Size{}, nil // it is being removed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.known && began.Before(f.began) {
		return // somebody else knows better
	}
	f.size, f.at, f.known, f.began, f.done = size, at, true, began, time.Now()
	over := f.over()
	if (err != nil || size.Part && over == nil) && !f.torn {
		f.torn = true
		w.log.Warn("a workspace cannot be seen whole: what it holds may be more than is known", "dir", f.dir, "bytes", size.Bytes, "files", size.Files, "err", err)
	}
	for s := range w.stays {
		if s.f != f {
			continue
		}
		if s.peak = max(s.peak, size.Bytes); over != nil {
			s.tell(*over)
		}
	}
}

// tell has the step end, once. The caller holds the lock.
func (s *Stay) tell(over Over) {
	if s.over == nil {
		s.over = &over
	}
	if !s.ended && s.v.End != nil {
		s.ending.Go(func() { s.v.End(over) })
	}
	s.ended = true
}
