package harness

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Bash is a step that runs a script.
func Bash(name, script string, after ...string) wire.PlanStep {
	inputs, err := json.Marshal(map[string]any{"command": script, "timeout": 120000})
	if err != nil {
		panic(err) // strings always marshal
	}
	return wire.PlanStep{Name: name, Tool: "bash", Inputs: inputs, DependsOn: after}
}

// Submit posts a run of these steps and returns its id.
func (s *System) Submit(steps ...wire.PlanStep) string {
	s.t.Helper()
	created, err := s.api.Submit(s.t.Context(), wire.SubmitRun{Plan: wire.Plan{Goal: s.t.Name(), Steps: steps}}, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return created.ID
}

// Run is the run as it stands. An API that is away is no failure: ok is false
// then.
func (s *System) Run(id string) (detail wire.RunDetail, ok bool) {
	s.t.Helper()
	detail, err := s.api.Run(s.context(), id)
	if err != nil && !step.Is(err, step.KindUnavailable) {
		s.t.Fatalf("run %s: %v", id, err)
	}
	return detail, err == nil
}

// Wait waits until the run has ended.
func (s *System) Wait(id string) wire.RunDetail {
	s.t.Helper()
	var detail wire.RunDetail
	s.Eventually("run "+id+" ends", func() bool {
		d, ok := s.Run(id)
		if ok {
			detail = d
		}
		return ok && d.Run.Status.Terminal()
	})
	return detail
}

// Step is the run's step called name.
func (s *System) Step(d wire.RunDetail, name string) wire.StepDetail {
	s.t.Helper()
	for _, st := range d.Steps {
		if st.Name == name {
			return st
		}
	}
	s.t.Fatalf("run %s has no step %s", d.Run.ID, name)
	return wire.StepDetail{}
}

// Output is all that the step's newest attempt has written so far, both
// streams in the order of their offsets. It fails the test where pieces
// overlap or leave a gap.
func (s *System) Output(runID, stepID string) (text string, done bool) {
	s.t.Helper()
	var all strings.Builder
	var offset int64
	for {
		page, err := s.api.Output(s.context(), runID, stepID, offset)
		if step.Is(err, step.KindUnavailable) {
			return all.String(), false
		}
		if err != nil {
			s.t.Fatalf("output of %s: %v", stepID, err)
		}
		for _, c := range page.Chunks {
			if c.Offset != int64(all.Len()) {
				s.t.Fatalf("output of %s: a piece at %d, expected at %d", stepID, c.Offset, all.Len())
			}
			all.Write(c.Data)
		}
		if page.Done || page.NextOffset == offset {
			return all.String(), page.Done
		}
		offset = page.NextOffset
	}
}

// WaitOutput waits until the step has written want.
func (s *System) WaitOutput(runID, name, want string) {
	s.t.Helper()
	s.Eventually(name+" writes "+want, func() bool {
		d, ok := s.Run(runID)
		if !ok || s.Step(d, name).Attempt == 0 {
			return false
		}
		text, _ := s.Output(runID, s.Step(d, name).ID)
		return strings.Contains(text, want)
	})
}

// Timeline is the run's events.
func (s *System) Timeline(runID string) []step.Event {
	s.t.Helper()
	events, err := s.api.Timeline(s.context(), runID)
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

// context is the test's, or a free one in its cleanup.
func (s *System) context() context.Context {
	if s.t.Context().Err() != nil {
		return context.Background()
	}
	return s.t.Context()
}
