package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/invariant"
)

// A seed is all that it takes to have the same load and the same faults again.
func TestASeedReplays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		if diff := cmp.Diff(Schedule(seed, time.Minute), Schedule(seed, time.Minute)); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
		for n := range 15 {
			if diff := cmp.Diff(Tell(seed, n), Tell(seed, n)); diff != "" {
				t.Errorf("seed %d, story %d: %s", seed, n, diff)
			}
			if cmp.Equal(Tell(seed, n).Plan, Tell(seed+1, n).Plan) && cmp.Equal(Tell(seed, n+1).Plan, Tell(seed+1, n+1).Plan) {
				t.Errorf("seeds %d and %d tell the same stories %d and %d", seed, seed+1, n, n+1)
			}
		}
		if cmp.Equal(Schedule(seed, time.Minute), Schedule(seed+1, time.Minute)) {
			t.Errorf("seeds %d and %d have the same faults", seed, seed+1)
		}
	}
}

// No target has two faults at once, all are over in time, what must be alone
// is, and no kind is forgotten.
func TestSchedules(t *testing.T) {
	t.Parallel()
	left := map[string]bool{}
	alone := map[string]bool{}
	for _, k := range kinds() {
		left[k.name], alone[k.name] = true, k.alone
	}
	for seed := range uint64(100) {
		faults := Schedule(seed, time.Minute)
		for i, f := range faults {
			delete(left, f.Kind)
			if f.At < 0 || f.For < 0 || f.At+f.For > time.Minute {
				t.Errorf("seed %d: %v at %v", seed, f, f.At)
			}
			for _, g := range faults[:i] {
				together := f.At < g.At+g.For
				if together && (f.Target == g.Target || alone[f.Kind] || alone[g.Kind]) {
					t.Errorf("seed %d: %v and %v at once", seed, g, f)
				}
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("never in a hundred minutes: %v", left)
	}
}

// What a step's program does and what it is expected to do stand in one place:
// every story is one that the API takes, with an end for each step.
func TestStories(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for n := range 120 {
		s := Tell(1, n)
		if len(s.Plan.Steps) < 1 || len(s.Plan.Steps) > 4 || len(s.Steps) != len(s.Plan.Steps) {
			t.Errorf("story %d has %d steps and %d expectations", n, len(s.Plan.Steps), len(s.Steps))
		}
		for _, e := range s.Steps {
			seen[strings.Join(e.Verdicts, ", ")] = true
			seen[fmt.Sprintf("artifact %v", e.Artifact != "")] = true
		}
		seen[fmt.Sprintf("twice %v", s.Twice)], seen[fmt.Sprintf("cancel %v", s.Cancel > 0)] = true, true
	}
	for _, want := range []string{"exit 0", "exit 5", "exit 9", "exit 7, exit 0", "timeout", "artifact true", "artifact false", "twice true", "twice false", "cancel true", "cancel false"} {
		if !seen[want] {
			t.Errorf("no story with %s", want)
		}
	}
}

// A verdict that its program cannot have had is found, and so is a workspace
// that lost what was in it; what infrastructure, a user or a full disk explains
// is none.
func TestJudge(t *testing.T) {
	t.Parallel()
	exit := func(code int) *step.Verdict {
		return &step.Verdict{Cause: step.CauseExit, ExitCode: &code, Attested: step.AttestedKernel}
	}
	of := func(c step.Cause) *step.Verdict { return &step.Verdict{Cause: c} }
	for name, tc := range map[string]struct {
		verdict *step.Verdict
		worker  string
		cancel  time.Duration
		wrong   string // "" = it is as it must be
	}{
		"as expected":                  {verdict: exit(0)},
		"given back":                   {},
		"lost":                         {verdict: of(step.CauseLost)},
		"driver away":                  {verdict: of(step.CauseDriverError)},
		"made up":                      {verdict: exit(1), wrong: "the verdict is exit 1"},
		"timed out too early":          {verdict: of(step.CauseTimeout), wrong: "the verdict is timeout"},
		"cancelled by a user":          {verdict: of(step.CauseCancelled), cancel: time.Second},
		"cancelled by nobody":          {verdict: of(step.CauseCancelled), wrong: "the verdict is cancelled"},
		"a full disk":                  {verdict: exit(noSpace), worker: "tight"},
		"a full disk that was not":     {verdict: exit(noSpace), wrong: "the verdict is exit 28"},
		"a workspace that has lost it": {verdict: exit(missing), wrong: "is gone"},
	} {
		tables := invariant.Tables{
			Steps:    []invariant.StepRow{{ID: "step_1", RunID: "run_1", Name: "a"}},
			Attempts: []invariant.AttemptRow{{ID: "att_1", RunID: "run_1", StepID: "step_1", WorkerID: "wrk_" + tc.worker, Verdict: tc.verdict}},
			Workers:  []invariant.WorkerRow{{ID: "wrk_tight", Name: "host-2"}, {ID: "wrk_", Name: "host-0"}},
		}
		told := map[string]Story{"run_1": {Cancel: tc.cancel, Steps: map[string]Expectation{"a": {Verdicts: []string{"exit 0"}}}}}
		got := judge(tables, told, map[string]bool{"host-2": true})
		if ok := tc.wrong == "" && len(got) == 0 || tc.wrong != "" && len(got) == 1 && strings.Contains(got[0], tc.wrong); !ok {
			t.Errorf("%s: %q", name, got)
		}
	}
}
