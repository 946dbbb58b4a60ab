// Package diskwatch bounds what steps put into workspaces that are plain folders
// on the worker's disk. Nothing in the kernel bounds those, so somebody looks: at
// the disk as a whole in short intervals, which costs a system call, and at the
// files of a workspace only when the disk has come to hold so much more that the
// workspace may be above its bound. What is above it is told, once for each step
// that is at work there, and whoever asked ends the step.
//
// Of workspaces that are file systems of their own (package volume) it only keeps
// the most that was in use, and whether they were full.
package diskwatch

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	every     = 50 * time.Millisecond // how often the disk is asked how full it is
	backstop  = 10 * time.Second      // no workspace goes without a look for longer: others' deletions hide growth
	backShare = 20                    // or than so many times what the last look took
	restShare = 3                     // nor is it looked at again before so many times that: a large tree costs a quarter of a core at most
	walkTime  = 30 * time.Second      // that one look may take
	mostWalks = 2                     // at a time
	quickLook = 5000                  // files that a look at a step's end takes at most, when it is only for the figure
	inodeSize = 16 << 10              // bytes of a bound for which there is one file: as a file system of that size would have
)

// Disk is what the watch looks at.
type Disk interface {
	// Use is that of the disk that plain workspaces are on.
	Use() (Use, error)
	// Volume is the use of a workspace that is a file system of its own.
	Volume(dir string) (Volume, error)
	// Size adds up what a folder holds, at most so many files of it, and what
	// processes hold open that is in no folder any more.
	Size(ctx context.Context, dir string, mostFiles int64, pids []int) (Size, error)
}

// Use is how much of a disk is in use.
type Use struct {
	Size, Used, Free int64 // bytes
	Files            int64 // 0 = not known
}

// Volume is how much of a file system of its own is in use.
type Volume struct {
	Used int64
	Full bool
}

// Size is what a workspace holds.
type Size struct {
	Bytes, Files int64
	Part         bool // at least: not all of it was seen
}

// Visit is one step's stay in a workspace.
type Visit struct {
	Dir    string
	Own    bool         // a file system of its own, which bounds it
	Limit  int64        // bytes; 0 = none
	Shared bool         // others come here afterwards
	Pids   func() []int // the step's processes
	End    func(Over)   // called at most once, when the step is to end; Leave waits for it
}

// Watch is one host's. Make it with New.
type Watch struct {
	disk  Disk
	log   *slog.Logger
	wake  chan struct{}
	walks chan struct{} // one token per look at a tree

	mu      sync.Mutex
	folders map[string]*folder
	stays   map[*Stay]struct{}
	last    Use
	known   bool
	grown   growth
	alarm   int64 // with less left on the disk, somebody's step has to end
	calling bool  // whose step ends is being looked at
}

// growth is by how much the disk's use has grown, all in all: what was removed in
// between does not count against it.
type growth struct{ bytes, files int64 }

type folder struct {
	dir   string
	limit int64
	stays int

	size        Size
	known       bool
	at          growth // when it was last looked at
	walking     bool
	torn        bool // it was said that it cannot be seen whole
	began, done time.Time
}

// Stay is a visit under way.
type Stay struct {
	w     *Watch
	v     Visit
	f     *folder // nil with a file system of its own
	peak  int64
	full  bool
	over  *Over
	ended bool // somebody has been told

	ending sync.WaitGroup // End
}

// Peak is the most that was seen during a stay.
type Peak struct {
	Bytes int64
	Full  bool  // a file system of its own had no block or no inode left
	Over  *Over // it was above its bound
}

// New makes a watch that does nothing yet.
func New(disk Disk, log *slog.Logger) *Watch {
	return &Watch{disk: disk, log: log, wake: make(chan struct{}, 1), walks: make(chan struct{}, mostWalks), folders: map[string]*folder{}, stays: map[*Stay]struct{}{}}
}

// Run looks until ctx ends, as long as anybody is staying.
func (w *Watch) Run(ctx context.Context) error {
	var walking sync.WaitGroup
	defer walking.Wait()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		w.mu.Lock()
		idle := len(w.stays) == 0
		w.mu.Unlock()
		if idle {
			select {
			case <-w.wake:
				ticker.Reset(every)
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-ticker.C:
			w.tick(ctx, &walking)
		case <-ctx.Done():
			return nil
		}
	}
}

// Enter begins a stay. In a folder that is above its bound already nothing is to
// begin: Over says so.
func (w *Watch) Enter(ctx context.Context, v Visit) (*Stay, *Over) {
	s := &Stay{w: w, v: v}
	if !v.Own && w.enter(s) { // it may have been emptied since
		w.walk(ctx, s.f)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stays[s] = struct{}{}
	if s.f != nil && s.f.known {
		if s.over = s.f.over(); s.over != nil {
			s.peak, s.ended = s.f.size.Bytes, true
		}
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return s, s.over
}

// enter gives a stay its folder, and reports whether that was above its bound when
// it was last looked at.
func (w *Watch) enter(s *Stay) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.account()
	f := w.folders[s.v.Dir]
	if f == nil {
		f = &folder{dir: s.v.Dir}
		w.folders[s.v.Dir] = f
	}
	f.limit, f.stays = s.v.Limit, f.stays+1
	s.f = f
	return f.known && f.over() != nil
}

// Leave ends the stay.
func (s *Stay) Leave() {
	s.w.leave(s)
	s.ending.Wait()
}

func (w *Watch) leave(s *Stay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, here := w.stays[s]; !here {
		return
	}
	delete(w.stays, s)
	if s.f == nil {
		return
	}
	if s.f.stays--; s.f.stays == 0 && !s.v.Shared && w.folders[s.f.dir] == s.f {
		delete(w.folders, s.f.dir)
	}
}

// Forget says that a shared folder is no more.
func (w *Watch) Forget(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.folders, dir)
}

// Last looks once more, when the step has ended, and tells the most that was seen.
func (s *Stay) Last(ctx context.Context) Peak {
	w := s.w
	w.mu.Lock()
	s.ended = true // there is nothing to end any more
	w.mu.Unlock()
	switch {
	case s.f == nil:
		w.look(s)
	case w.unsure(s.f):
		w.walk(ctx, s.f)
	default:
		s.quick(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return Peak{Bytes: s.peak, Full: s.full, Over: s.over}
}

// unsure reports whether a folder may be above its bound, or nobody has looked yet.
func (w *Watch) unsure(f *folder) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.account()
	return !f.known || w.suspect(f)
}

// quick measures a folder for the figure alone, when it is small.
func (s *Stay) quick(ctx context.Context) {
	size, err := s.w.disk.Size(ctx, s.f.dir, quickLook, nil)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	switch {
	case err == nil && !size.Part:
		s.peak = max(s.peak, size.Bytes)
	case s.peak == 0:
		s.peak = s.f.size.Bytes // what was known last
	}
}

// look keeps what a file system of its own has in use.
func (w *Watch) look(s *Stay) {
	use, err := w.disk.Volume(s.v.Dir)
	if err != nil {
		return // it is gone with the host's last start
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.peak, s.full = max(s.peak, use.Used), s.full || use.Full
}
