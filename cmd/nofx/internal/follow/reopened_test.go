package follow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// reopened is an API in fake time: step a fails after 1 s, while b keeps the run
// going; after 10 s somebody has a tried again, which takes 1 s.
type reopened struct{ start time.Time }

func (r reopened) Run(_ context.Context, id string) (wire.RunDetail, error) {
	a := wire.StepDetail{ID: "a", Name: "a", Generation: 1, Attempt: 1, Status: step.StepRunning}
	b := wire.StepDetail{ID: "b", Name: "b", Generation: 1, Status: step.StepQueued}
	run := wire.RunSummary{ID: id, Status: step.RunRunning}
	at := time.Since(r.start)
	switch {
	case at >= 11*time.Second:
		a.Generation, a.Status, run.Status = 2, step.StepSucceeded, step.RunSucceeded
	case at >= 10*time.Second:
		a.Generation = 2
	case at >= 9*time.Second:
		a.Generation, a.Attempt, a.Status = 2, 0, step.StepQueued
	case at >= time.Second:
		a.Status = step.StepFailed
	}
	return wire.RunDetail{Run: run, Steps: []wire.StepDetail{a, b}}, nil
}

func (reopened) Events(ctx context.Context, _, _ string, _ func([]step.Event) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func (r reopened) Output(_ context.Context, _, _ string, offset int64) (wire.OutputPage, error) {
	text, done := "old\n", time.Since(r.start) >= time.Second
	if at := time.Since(r.start); at >= 10*time.Second {
		text, done = "new\n", at >= 11*time.Second
	}
	page := wire.OutputPage{Attempt: 1, NextOffset: int64(len(text)), Done: done}
	if offset < page.NextOffset {
		page.Chunks = []wire.OutputChunk{{StepID: "a", Attempt: 1, Offset: offset, Stream: wire.Stdout, Data: []byte(text[offset:])}}
	}
	return page, nil
}

// The output of a step that somebody has tried again is shown, too.
func TestReopenedStep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		view := &record{output: map[string]string{}}
		d, err := Run(t.Context(), reopened{time.Now()}, "run", view)
		if err != nil || d.Run.Status != step.RunSucceeded {
			t.Fatalf("%+v %v", d, err)
		}
		if diff := cmp.Diff(map[string]string{"a1": "old\nnew\n"}, view.output); diff != "" {
			t.Error(diff)
		}
	})
}
