package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/internal/bounded"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/invariant"
)

const (
	atOnce    = 14 // stories
	pollPause = 250 * time.Millisecond
	maxOutput = 4 << 20
)

// load lives stories through the fleet's APIs.
type load struct {
	rec     *record
	clients map[string][]*client.Client // by tenant, one an API

	mu       sync.Mutex
	told     map[string]Story // by run
	accepted int              // runs
	steps    int
}

// run tells the stories of a seed, one after the other, until more ends; those
// that have begun go on until they end or ctx does.
func (l *load) run(ctx, more context.Context, seed uint64) {
	var all sync.WaitGroup
	defer all.Wait()
	places := make(chan struct{}, atOnce)
	for n := 0; more.Err() == nil; n++ {
		s := Tell(seed, n)
		select {
		case places <- struct{}{}:
		case <-more.Done():
			return
		}
		all.Go(func() {
			defer func() { <-places }()
			l.live(ctx, s)
		})
		pause(more, s.Pause)
	}
}

// live is one story.
func (l *load) live(ctx context.Context, s Story) {
	var second sync.WaitGroup
	defer second.Wait()
	id := l.submit(ctx, s, s.API)
	if id == "" {
		return
	}
	if s.Twice {
		second.Go(func() { l.submit(ctx, s, s.API+1) })
	}
	if s.Cancel > 0 {
		second.Go(func() { l.cancel(ctx, s, id) })
	}
	if s.Follow {
		second.Go(func() { l.follow(ctx, s, id) })
	}
	d, ok := l.wait(ctx, s, id)
	if ok && s.Requeue && d.Run.Status == step.RunFailed && l.requeue(ctx, s, id) {
		d, ok = l.wait(ctx, s, id)
	}
	if ok && (s.Again || s.Retry && d.Run.Status == step.RunFailed) && l.retry(ctx, s, id) {
		d, ok = l.wait(ctx, s, id)
	}
	if ok {
		l.read(ctx, s, d)
	}
}

// ask calls an API, and the next one when it is away, until there is an answer
// or the call is refused.
func ask[T any](ctx context.Context, l *load, s Story, first int, call func(*client.Client) (T, error)) (T, error) {
	all := l.clients[s.Tenant]
	for i := first; ; i++ {
		got, err := call(all[i%len(all)])
		// What is busy with the same key is asked again, too.
		if err == nil || !step.Is(err, step.KindUnavailable) && !retryable(err) {
			return got, err
		}
		if !pause(ctx, pollPause+rand.N(pollPause)) {
			return got, ctx.Err()
		}
	}
}

func retryable(err error) bool {
	var e *step.Error
	return errors.As(err, &e) && e.RetryAfter > 0
}

func (l *load) submit(ctx context.Context, s Story, api int) string {
	all := l.clients[s.Tenant]
	sub := invariant.Submit{Op: s.Plan.Goal, Key: s.Key}
	for _, st := range s.Plan.Steps {
		sub.Steps = append(sub.Steps, st.Name)
	}
	call := func(c *client.Client) (wire.RunCreated, error) {
		return c.Submit(ctx, wire.SubmitRun{Plan: s.Plan}, s.Key)
	}
	var got wire.RunCreated
	var err error
	if s.Key == "" { // nobody can tell what became of it if there is no answer
		got, err = call(all[api%len(all)])
	} else {
		got, err = ask(ctx, l, s, api, call)
	}
	if err == nil {
		answer, _ := json.Marshal(got) // of three strings
		sub.Answered, sub.RunID, sub.Answer = true, got.ID, string(answer)
		l.mu.Lock()
		if _, again := l.told[got.ID]; !again {
			l.told[got.ID] = s
			l.accepted++
			l.steps += len(s.Plan.Steps)
		}
		l.mu.Unlock()
	}
	l.rec.with(func(h *invariant.History) { h.Submits = append(h.Submits, sub) })
	l.rec.note("%s: submitted with key %q to api-%d: run %q, %v", s.Plan.Goal, s.Key, api%len(all), got.ID, err)
	if err != nil && ctx.Err() == nil && !step.Is(err, step.KindUnavailable) {
		l.rec.violated("%s was refused: %v", s.Plan.Goal, err)
	}
	return got.ID
}

func (l *load) cancel(ctx context.Context, s Story, id string) {
	if !pause(ctx, s.Cancel) {
		return
	}
	_, err := ask(ctx, l, s, s.API, func(c *client.Client) (wire.CancelResult, error) { return c.Cancel(ctx, id) })
	l.rec.with(func(h *invariant.History) {
		h.Cancels = append(h.Cancels, invariant.Cancel{RunID: id, Answered: err == nil})
	})
	l.rec.note("%s: cancelled: %v", s.Plan.Goal, err)
}

// follow reads the run's events as they come, over as many connections as it
// takes.
func (l *load) follow(ctx context.Context, s Story, id string) {
	after := ""
	for i := s.API; ; i++ {
		c := l.clients[s.Tenant][i%apis]
		// A link that drops answers would hold the reader up for good.
		once, cancel := context.WithTimeout(ctx, 2*lease)
		err := c.Events(once, id, after, func(events []step.Event) error {
			for _, e := range events {
				after = e.ID
				l.rec.with(func(h *invariant.History) {
					h.Events = append(h.Events, invariant.Seen{Reader: "follows " + id, RunID: id, Seq: e.Seq, ID: e.ID, Type: e.Type, StepID: e.StepID, Attempt: e.Attempt})
				})
			}
			return nil
		})
		cancel()
		if err == nil || !pause(ctx, pollPause) {
			return
		}
	}
}

// wait polls the run until it has ended. It reports false when ctx ends first.
func (l *load) wait(ctx context.Context, s Story, id string) (wire.RunDetail, bool) {
	for i := 0; ; i++ {
		d, err := ask(ctx, l, s, s.API+i, func(c *client.Client) (wire.RunDetail, error) { return c.Run(ctx, id) })
		if err != nil {
			if ctx.Err() == nil {
				l.rec.violated("%s: run %s cannot be read: %v", s.Plan.Goal, id, err)
			}
			return d, false
		}
		l.rec.states(d)
		if d.Run.Status.Terminal() {
			return d, true
		}
		if !pause(ctx, pollPause) {
			return d, false
		}
	}
}

// retry opens a run again. It reports whether the API has.
func (l *load) retry(ctx context.Context, s Story, id string) bool {
	got, err := ask(ctx, l, s, s.API, func(c *client.Client) (wire.Reopened, error) {
		return c.RetryRun(ctx, id, wire.RetryRun{All: s.Again}, "retry-"+id)
	})
	l.rec.note("%s: retried: %d steps, %v", s.Plan.Goal, len(got.Steps), err)
	action := "run.retry"
	if s.Again {
		action = "run.rerun"
	}
	if err == nil {
		l.rec.with(func(h *invariant.History) {
			h.Actions = append(h.Actions, invariant.Action{Action: action, Target: id})
		})
	}
	return err == nil
}

// requeue presses the button twice for each of the run's entries in the DLQ,
// at the same time: both get the same answer. It reports whether a step was
// opened again.
func (l *load) requeue(ctx context.Context, s Story, run string) bool {
	list, err := ask(ctx, l, s, s.API, func(c *client.Client) (wire.DeadList, error) {
		return c.Dead(ctx, wire.DeadFilter{}, 200, "")
	})
	if err != nil {
		return false
	}
	list.Entries = slices.DeleteFunc(list.Entries, func(e wire.DeadStep) bool { return e.RunID != run })
	opened := false
	for _, e := range list.Entries {
		var answers [2]wire.Reopened
		var errs [2]error
		var both sync.WaitGroup
		for i := range answers {
			both.Go(func() {
				answers[i], errs[i] = ask(ctx, l, s, s.API+i, func(c *client.Client) (wire.Reopened, error) {
					return c.RequeueDead(ctx, e.ID, wire.RequeueDead{}, "requeue-"+e.ID)
				})
			})
		}
		both.Wait()
		l.rec.note("%s: requeued %s twice: %+v, %v", s.Plan.Goal, e.ID, answers, errs)
		one, two := fmt.Sprintf("%+v", answers[0]), fmt.Sprintf("%+v", answers[1])
		if ctx.Err() == nil && (one != two || (errs[0] == nil) != (errs[1] == nil)) {
			l.rec.violated("I9 entry %s requeued twice with one key: %s, %v and %s, %v", e.ID, one, errs[0], two, errs[1])
		}
		if errs[0] == nil {
			opened = true
			l.rec.with(func(h *invariant.History) {
				h.Actions = append(h.Actions, invariant.Action{Action: "dlq.requeue", Target: e.ID})
			})
		}
	}
	return opened
}

// read compares what the run's steps have left with what they do.
func (l *load) read(ctx context.Context, s Story, d wire.RunDetail) {
	events, err := ask(ctx, l, s, s.API, func(c *client.Client) ([]step.Event, error) { return c.Timeline(ctx, d.Run.ID) })
	if err != nil {
		return
	}
	l.rec.with(func(h *invariant.History) {
		for _, e := range events {
			h.Events = append(h.Events, invariant.Seen{Reader: "timeline " + d.Run.ID, RunID: d.Run.ID, Seq: e.Seq, ID: e.ID, Type: e.Type, StepID: e.StepID, Attempt: e.Attempt})
		}
	})
	for _, st := range d.Steps {
		want := s.Steps[st.Name]
		if st.Status != step.StepSucceeded {
			continue
		}
		text, err := l.output(ctx, s, d.Run.ID, st.ID)
		if err != nil {
			l.rec.note("%s: output of %s: %v", s.Plan.Goal, st.ID, err)
			continue
		}
		l.rec.with(func(h *invariant.History) {
			h.Outputs = append(h.Outputs, invariant.Output{RunID: d.Run.ID, StepID: st.ID, Text: digest(text), Want: digest(kept(want.Output, st.Verdict))})
		})
		if want.Artifact == "" {
			continue
		}
		path := fmt.Sprintf("runs/%s/steps/%s/kept-%s", d.Run.ID, st.ID, st.Name)
		got, err := ask(ctx, l, s, s.API, func(c *client.Client) (string, error) { return artifact(ctx, c, path) })
		if ctx.Err() == nil && (err != nil || got != want.Artifact) {
			l.rec.violated("%s: step %s succeeded, its artifact is %q, %v", s.Plan.Goal, st.ID, got, err)
		}
	}
}

// kept is what must be stored of a step's output: all of it, unless its verdict
// owns up to a disk that was full, and says how much there is.
func kept(output string, v *step.Verdict) string {
	if v == nil || !v.Output.Truncated || !strings.Contains(v.Message, "output could not be stored") || v.Output.TotalBytes != int64(len(output)) {
		return output
	}
	return output[:min(v.Output.StoredBytes, v.Output.TotalBytes)]
}

// digest stands for a text in the history: its end, and what tells it from
// others.
func digest(text string) string {
	return fmt.Sprintf("%d bytes, sha256 %x, ending %q", len(text), sha256.Sum256([]byte(text)), text[max(0, len(text)-30):])
}

func (l *load) output(ctx context.Context, s Story, run, id string) (string, error) {
	var all strings.Builder
	for i := 0; ; i++ {
		page, err := ask(ctx, l, s, s.API+i, func(c *client.Client) (wire.OutputPage, error) {
			return c.Output(ctx, run, id, int64(all.Len()))
		})
		if err != nil {
			return "", err
		}
		for _, c := range page.Chunks {
			if c.Offset != int64(all.Len()) {
				l.rec.violated("I5 output of %s: a piece at %d, %d bytes are before it", id, c.Offset, all.Len())
			}
			all.Write(c.Data)
		}
		if page.Done || all.Len() > maxOutput {
			return all.String(), nil
		}
		if len(page.Chunks) == 0 && !pause(ctx, pollPause) {
			return "", ctx.Err()
		}
	}
}

func artifact(ctx context.Context, c *client.Client, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*lease)
	defer cancel()
	body, err := c.Artifact(ctx, path)
	if err != nil {
		return "", err
	}
	defer body.Close()
	raw, err := bounded.Read(body, maxOutput)
	if err != nil {
		return "", step.Errorf(step.KindUnavailable, "artifact: %w", err)
	}
	return string(raw), nil
}
