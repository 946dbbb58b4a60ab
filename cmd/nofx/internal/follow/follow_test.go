package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// script is an API that lives in fake time: the run has two steps, the second
// is retried once, and the API can be away for a while.
type script struct {
	start  time.Time
	away   [2]time.Duration // unavailable in between
	stream bool             // events work
	mu     sync.Mutex
	calls  map[string]int
}

func newScript() *script { return &script{start: time.Now(), stream: true, calls: map[string]int{}} }

func (s *script) enter(call string) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[call]++
	at := time.Since(s.start)
	if at >= s.away[0] && at < s.away[1] {
		return at, step.Errorf(step.KindUnavailable, "connection refused")
	}
	return at, nil
}

// attempts of the steps: a runs from 1 s to 3 s, b fails from 3 s to 4 s and
// runs again from 5 s to 8 s.
func (s *script) Run(_ context.Context, id string) (wire.RunDetail, error) {
	at, err := s.enter("run")
	if err != nil {
		return wire.RunDetail{}, err
	}
	a := wire.StepDetail{ID: "a", Name: "a", Status: step.StepQueued}
	b := wire.StepDetail{ID: "b", Name: "b", Status: step.StepWaiting}
	run := wire.RunSummary{ID: id, Status: step.RunRunning}
	if at >= time.Second {
		a.Status, a.Attempt = step.StepRunning, 1
	}
	if at >= 3*time.Second {
		a.Status, b.Status, b.Attempt = step.StepSucceeded, step.StepRunning, 1
	}
	if at >= 4*time.Second {
		b.Status = step.StepQueued
	}
	if at >= 5*time.Second {
		b.Status, b.Attempt = step.StepRunning, 2
	}
	if at >= 8*time.Second {
		b.Status, run.Status = step.StepSucceeded, step.RunSucceeded
	}
	return wire.RunDetail{Run: run, Steps: []wire.StepDetail{a, b}}, nil
}

func (s *script) Events(ctx context.Context, _, _ string, fn func([]step.Event) error) error {
	if _, err := s.enter("events"); err != nil || !s.stream {
		return errors.Join(err, nil)
	}
	<-ctx.Done()
	return ctx.Err()
}

// Output gives a line for each 100 ms that the attempt has run.
func (s *script) Output(_ context.Context, _, id string, offset int64) (wire.OutputPage, error) {
	at, err := s.enter("output " + id)
	if err != nil {
		return wire.OutputPage{}, err
	}
	attempt, from, to := 1, time.Second, 3*time.Second
	if id == "b" {
		from, to = 3*time.Second, 4*time.Second
		if at >= 5*time.Second {
			attempt, from, to = 2, 5*time.Second, 8*time.Second
		}
	}
	var all strings.Builder
	for t := from; t <= min(at, to-1); t += 100 * time.Millisecond {
		fmt.Fprintf(&all, "%s%d %v\n", id, attempt, t)
	}
	text := all.String()
	if offset > int64(len(text)) {
		return wire.OutputPage{Attempt: attempt, NextOffset: offset, Done: at >= to}, nil
	}
	page := wire.OutputPage{Attempt: attempt, NextOffset: int64(len(text)), Done: at >= to}
	if data := text[offset:]; data != "" {
		page.Chunks = []wire.OutputChunk{{StepID: id, Attempt: attempt, Offset: offset, Stream: wire.Stdout, Data: []byte(data)}}
	}
	return page, nil
}

// record is a view that remembers.
type record struct {
	output  map[string]string
	trouble []string
	states  []step.RunStatus
	steps   map[string]step.Status
	late    []string // output that came after its step had ended
}

func (r *record) Steps(d wire.RunDetail) {
	r.states = append(r.states, d.Run.Status)
	r.steps = map[string]step.Status{}
	for _, s := range d.Steps {
		r.steps[s.ID] = s.Status
	}
}
func (r *record) Trouble(what string) { r.trouble = append(r.trouble, what) }
func (r *record) Output(s wire.StepDetail, attempt int, _ wire.Stream, data []byte) {
	r.output[fmt.Sprint(s.ID, attempt)] += string(data)
	if r.steps[s.ID].Terminal() {
		r.late = append(r.late, string(data))
	}
}

func (r *record) check(t *testing.T) {
	t.Helper()
	for key, span := range map[string][2]time.Duration{
		"a1": {time.Second, 3 * time.Second}, "b1": {3 * time.Second, 4 * time.Second}, "b2": {5 * time.Second, 8 * time.Second},
	} {
		var want strings.Builder
		for at := span[0]; at < span[1]; at += 100 * time.Millisecond {
			fmt.Fprintf(&want, "%s %v\n", key, at)
		}
		if r.output[key] != want.String() {
			t.Errorf("output %s: got %q, want %q", key, r.output[key], want.String())
		}
	}
}

func TestRunShowsAllOutputOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*script){
		"plain":          func(*script) {},
		"no events":      func(s *script) { s.stream = false },
		"API away early": func(s *script) { s.away = [2]time.Duration{0, 2 * time.Second} },
		"API away":       func(s *script) { s.away = [2]time.Duration{6 * time.Second, 7 * time.Second} },
		"away at end":    func(s *script) { s.away = [2]time.Duration{7500 * time.Millisecond, 70 * time.Second} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				api := newScript()
				change(api)
				view := &record{output: map[string]string{}}
				detail, err := Run(t.Context(), api, "r", view)
				if err != nil || detail.Run.Status != step.RunSucceeded {
					t.Fatalf("%s, %v", detail.Run.Status, err)
				}
				view.check(t)
				if len(view.late) > 0 {
					t.Errorf("shown after the step's end: %q", view.late)
				}
				if diff := cmp.Diff(map[string]step.Status{"a": step.StepSucceeded, "b": step.StepSucceeded}, view.steps); diff != "" {
					t.Errorf("the last states shown: %s", diff)
				}
				if away := api.away[1] > 0; away != (len(view.trouble) > 0) {
					t.Errorf("trouble shown: %q", view.trouble)
				}
				if n := api.calls["run"]; n > 40+2*int(time.Since(api.start).Seconds()) {
					t.Errorf("%d looks at the run in %v", n, time.Since(api.start))
				}
			})
		})
	}
}

func TestRunEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		_, err := Run(ctx, newScript(), "r", &record{output: map[string]string{}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

type refusing struct{ *script }

func (refusing) Run(context.Context, string) (wire.RunDetail, error) {
	return wire.RunDetail{}, step.Errorf(step.KindNotFound, "no such run")
}

func TestRunDoesNotRepeatRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, err := Run(t.Context(), refusing{newScript()}, "r", &record{output: map[string]string{}})
		if !step.Is(err, step.KindNotFound) {
			t.Errorf("got %v", err)
		}
	})
}
