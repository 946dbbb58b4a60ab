package follow

import (
	"context"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

// pump carries the output of one step. closed is the loop's; ended tells the
// pump that no further attempt follows.
type pump struct {
	step   wire.StepDetail
	ended  chan struct{}
	closed bool

	shown wire.StepDetail // as the view saw it last; the follower's mu guards it
	done  bool            // all of it was shown; the same
}

func (f *follower) pump(ctx context.Context, p *pump) {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		p.done = true
		f.poke()
	}()
	var offset int64
	attempt := 0
	ended := p.ended
	last := false // the step had ended before the fetch began
	var tail time.Time
	for {
		page, err := retry(ctx, f, func() (wire.OutputPage, error) { return f.fetch(ctx, p.step.ID, offset) })
		if err != nil {
			f.fail(ctx, err)
			return
		}
		if page.Attempt != attempt && attempt != 0 && offset != 0 {
			attempt, offset = page.Attempt, 0 // what came belongs to the old attempt's offset
			continue
		}
		attempt = page.Attempt
		f.mu.Lock()
		for _, c := range page.Chunks {
			f.view.Output(p.step, page.Attempt, c.Stream, c.Data)
		}
		f.mu.Unlock()
		progressed := page.NextOffset > offset
		if progressed {
			tail = time.Time{}
		}
		offset = page.NextOffset
		if progressed && !page.Done {
			if len(page.Chunks) > 0 && !pauseFor(ctx, outputPause/4) {
				return
			}
			continue
		}
		if last {
			if tail.IsZero() {
				tail = time.Now()
			}
			if page.Done || time.Since(tail) > outputTail {
				return
			}
		}
		wait := outputPause
		if page.Done {
			wait = outputIdle
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-ended:
			timer.Stop()
			ended, last = nil, true
		case <-timer.C:
		}
	}
}

func (f *follower) fetch(ctx context.Context, stepID string, offset int64) (wire.OutputPage, error) {
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return wire.OutputPage{}, context.Cause(ctx)
	}
	defer func() { <-f.slots }()
	return f.api.Output(ctx, f.runID, stepID, offset)
}
