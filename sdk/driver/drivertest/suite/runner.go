package suite

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Status is how a case ended.
type Status string

const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped" // for want of a capability; a refusal was checked where there is one
)

// Result is one case's.
type Result struct {
	Name     string
	Group    Group
	Status   Status
	Duration time.Duration
	Seen     []string // what was seen: failures, or why it was skipped
}

// Options say how to run cases.
type Options struct {
	Timeout  time.Duration // of one case with its cleanups; 0 = 2 min
	Parallel int           // at a time; 0 = 4
	Done     func(Result)  // called as each case ends, one at a time; may be nil
}

// maxSeen bounds what one case may report.
const maxSeen = 50

// Run runs cases outside `go test` and gives their results in the cases'
// order. A panic fails its case alone. A case that passes its time is failed:
// its context ends, and if it does not end then either, it is left behind.
// When ctx ends, the cases under way are ended so and the others are skipped.
func Run(ctx context.Context, f Factory, cases []Case, o Options) []Result {
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	results := make([]Result, len(cases))
	slots := make(chan struct{}, o.Parallel)
	var wg sync.WaitGroup
	var told sync.Mutex
	run := func(i int) {
		c := cases[i]
		results[i] = Try(ctx, c.Name, c.Group, o.Timeout, func(t T) { c.Run(t, f) })
		told.Lock()
		defer told.Unlock()
		if o.Done != nil {
			o.Done(results[i])
		}
	}
	for i, c := range cases {
		if c.Alone {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			run(i)
		})
	}
	wg.Wait()
	for i, c := range cases {
		if c.Alone {
			run(i)
		}
	}
	return results
}

// Try runs one function as a case.
func Try(ctx context.Context, name string, group Group, timeout time.Duration, f func(T)) Result {
	r := Result{Name: name, Group: group}
	if ctx.Err() != nil {
		r.Status, r.Seen = Skipped, []string{"interrupted"}
		return r
	}
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	t := &caseT{ctx: ctx, cancel: cancel, ended: make(chan struct{})}
	go t.run(f)
	select {
	case <-t.ended:
	case <-ctx.Done():
		// Its calls end with the context; its cleanups have a time of their own.
		timer := time.NewTimer(timeout/4 + 10*time.Second)
		select {
		case <-t.ended:
		case <-timer.C:
			t.Errorf("it did not end, and was left behind")
		}
		timer.Stop()
		if ctx.Err() == context.DeadlineExceeded {
			t.Errorf("the case took more than %v", timeout)
		}
	}
	cancel()
	r.Status, r.Seen = t.close()
	r.Duration = time.Since(started)
	return r
}

// caseT is the T of one case.
type caseT struct {
	ctx    context.Context //nolint:containedctx // it is what Context returns, as in testing.T
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	closed   bool
	failed   bool
	skipped  bool
	seen     []string
	cleanups []func()
}

var _ T = (*caseT)(nil)

// run runs f and the cleanups, each in a goroutine that Fatal may end.
func (t *caseT) run(f func(T)) {
	defer close(t.ended)
	t.guarded(func() { f(t) })
	t.cancel()
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		last := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		t.guarded(last)
	}
}

func (t *caseT) guarded(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		f()
	}()
	<-done
}

// close gives the result; what is reported later is nobody's.
func (t *caseT) close() (Status, []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	switch {
	case t.failed:
		return Failed, t.seen
	case t.skipped:
		return Skipped, t.seen
	}
	return Passed, t.seen
}

func (t *caseT) report(text string, failed, skipped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.failed = t.failed || failed
	t.skipped = t.skipped || skipped
	switch n := len(t.seen); {
	case n < maxSeen:
		t.seen = append(t.seen, strings.TrimSpace(text))
	case n == maxSeen:
		t.seen = append(t.seen, "and more")
	}
}

func (t *caseT) Helper()           {}
func (t *caseT) Error(args ...any) { t.report(fmt.Sprintln(args...), true, false) }
func (t *caseT) Errorf(format string, args ...any) {
	t.report(fmt.Sprintf(format, args...), true, false)
}

func (t *caseT) Fatal(args ...any) {
	t.Error(args...)
	runtime.Goexit()
}

func (t *caseT) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

func (t *caseT) Skip(args ...any) {
	t.report(fmt.Sprintln(args...), false, true)
	runtime.Goexit()
}

func (t *caseT) Skipf(format string, args ...any) {
	t.report(fmt.Sprintf(format, args...), false, true)
	runtime.Goexit()
}

func (t *caseT) Logf(format string, args ...any) {
	t.report(fmt.Sprintf(format, args...), false, false)
}

func (t *caseT) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *caseT) TempDir() string {
	dir, err := os.MkdirTemp("", "nofx-case")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing a temporary folder: %v", err)
		}
	})
	return dir
}

func (t *caseT) Context() context.Context { return t.ctx }
