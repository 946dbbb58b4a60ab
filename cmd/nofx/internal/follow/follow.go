// Package follow watches a run from the outside until it has ended: its
// steps' states, and their output as it comes.
//
// The run's detail is the truth; the event stream only says when to look
// again. So nothing is missed when the stream breaks, the API restarts or
// events were dropped: a look once a second is made in any case.
package follow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// API is what following needs of the client.
type API interface {
	Run(ctx context.Context, runID string) (wire.RunDetail, error)
	// Events calls fn with each batch of the run's events after the one with
	// the id after ("" = from the first) until the stream ends.
	Events(ctx context.Context, runID, after string, fn func([]step.Event) error) error
	// Output returns the output of the step's newest attempt from offset on.
	Output(ctx context.Context, runID, stepID string, offset int64) (wire.OutputPage, error)
}

// View shows what happens. Its methods are called one at a time.
type View interface {
	// Steps gets the run as it stands whenever something about it changed.
	Steps(wire.RunDetail)
	// Output gets a piece of a step's output, in order within the step.
	// A new attempt starts from the first byte again.
	Output(s wire.StepDetail, attempt int, stream wire.Stream, data []byte)
	// Trouble gets a line about the connection, "" when it is over.
	Trouble(string)
}

const (
	lookAgain   = time.Second            // with no event
	settle      = 20 * time.Millisecond  // events in this time count as one
	lookShare   = 9                      // a look takes at most one part in this many and one
	outputPause = 40 * time.Millisecond  // between looks at a running step's output
	outputIdle  = 400 * time.Millisecond // between looks when nothing comes
	fetches     = 8                      // outputs fetched at once
	outputTail  = 5 * time.Second        // how long an ended step's output may stay incomplete
	retryPause  = 500 * time.Millisecond
)

// Run follows the run until it has ended and all its output was shown, and
// returns its last state. An API that is away is waited for, until ctx is
// done; other errors end it.
func Run(ctx context.Context, api API, runID string, view View) (wire.RunDetail, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{
		api: api, runID: runID, view: view,
		pumps: map[string]*pump{},
		slots: make(chan struct{}, fetches),
		wake:  make(chan struct{}, 1),
	}
	var events sync.WaitGroup
	defer events.Wait()
	defer f.pumping.Wait()
	defer cancel()
	events.Go(func() { f.listen(ctx) })
	return f.loop(ctx)
}

type follower struct {
	api     API
	runID   string
	pumps   map[string]*pump // by step id; the loop's alone
	pumping sync.WaitGroup
	slots   chan struct{}
	wake    chan struct{}

	mu      sync.Mutex // guards view and what follows
	view    View
	trouble bool
	err     error // first permanent error of a pump
}

func (f *follower) loop(ctx context.Context) (wire.RunDetail, error) {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		asked := time.Now()
		detail, err := retry(ctx, f, func() (wire.RunDetail, error) { return f.api.Run(ctx, f.runID) })
		if err != nil {
			return detail, err
		}
		// A large run costs the API something to tell: it is asked the less often.
		pause := max(settle, lookShare*time.Since(asked))
		f.show(ctx, detail)
		if detail.Run.Status.Terminal() {
			f.pumping.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			f.view.Steps(detail)
			if f.err == nil {
				f.err = ctx.Err()
			}
			return detail, f.err
		}
		select {
		case <-ctx.Done():
			return detail, context.Cause(ctx)
		case <-ticker.C:
		case <-f.wake:
			if !pauseFor(ctx, min(pause, lookAgain)) {
				return detail, context.Cause(ctx)
			}
		}
	}
}

// show hands the state to the view and keeps one pump for each step that has
// had an attempt.
func (f *follower) show(ctx context.Context, detail wire.RunDetail) {
	for _, s := range detail.Steps {
		p := f.pumps[s.ID]
		if p == nil || p.closed && p.step.Generation != s.Generation { // new, or tried again by somebody
			if s.Attempt == 0 {
				continue
			}
			p = &pump{step: s, ended: make(chan struct{})}
			f.pumps[s.ID] = p
			f.pumping.Go(func() { f.pump(ctx, p) })
		}
		if s.Status.Terminal() && !p.closed {
			p.closed = true
			close(p.ended)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.view.Steps(f.held(detail))
}

// held is the run as the view may see it: a step has not ended before all of
// its output was shown.
func (f *follower) held(detail wire.RunDetail) wire.RunDetail {
	detail.Steps = slices.Clone(detail.Steps)
	for i, s := range detail.Steps {
		p := f.pumps[s.ID]
		if p == nil || !s.Status.Terminal() || p.done {
			continue
		}
		if p.shown.Attempt != s.Attempt {
			p.shown = s
			p.shown.Status, p.shown.Verdict, p.shown.EndedAt = step.StepRunning, nil, nil
		}
		detail.Steps[i] = p.shown
	}
	for _, s := range detail.Steps {
		if p := f.pumps[s.ID]; p != nil {
			p.shown = s
		}
	}
	return detail
}

// listen turns the event stream into wake-ups and opens it again when it
// breaks.
func (f *follower) listen(ctx context.Context) {
	after := ""
	for ctx.Err() == nil {
		err := f.api.Events(ctx, f.runID, after, func(batch []step.Event) error {
			if len(batch) > 0 {
				after = batch[len(batch)-1].ID
			}
			f.poke()
			return nil
		})
		if err != nil && !transient(err) {
			return // the loop sees the same error, or can do without the stream
		}
		pauseFor(ctx, retryPause)
	}
}

// poke makes the loop look again.
func (f *follower) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *follower) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// retry repeats call while the API is away.
func retry[T any](ctx context.Context, f *follower, call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err == nil {
			f.say("")
			return v, nil
		}
		if ctx.Err() != nil {
			return v, context.Cause(ctx)
		}
		if !transient(err) {
			return v, err
		}
		f.say(err.Error())
		var e *step.Error
		pause := retryPause
		if errors.As(err, &e) && e.RetryAfter > 0 {
			pause = min(e.RetryAfter, 10*time.Second)
		}
		if !pauseFor(ctx, pause) {
			return v, context.Cause(ctx)
		}
	}
}

func (f *follower) say(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if trouble := line != ""; trouble != f.trouble {
		f.trouble = trouble
		f.view.Trouble(line)
	}
}

func transient(err error) bool {
	return step.Is(err, step.KindUnavailable) || step.Is(err, step.KindRateLimited)
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
