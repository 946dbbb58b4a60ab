package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// Each process dies in the middle of a step. The sandbox does not notice: the
// output is complete and in order, and the step succeeds, once.
func TestKillInMidStep(t *testing.T) {
	t.Parallel()
	for name, disturb := range map[string]func(*harness.System){
		"daemon":             func(s *harness.System) { s.Kill("nofxd") },
		"daemon twice":       func(s *harness.System) { s.Kill("nofxd"); s.Kill("nofxd") },
		"plugin":             func(s *harness.System) { s.Kill("nofx-driver-local") },
		"plugin twice":       func(s *harness.System) { s.Kill("nofx-driver-local"); s.Kill("nofx-driver-local") },
		"API":                func(s *harness.System) { s.Kill("nofx-api") },
		"Postgres crash":     func(s *harness.System) { s.Kill("postgres") },
		"Postgres restart":   func(s *harness.System) { s.Restart("postgres", syscall.SIGINT) },
		"daemon and API":     func(s *harness.System) { s.Signal("nofxd", syscall.SIGKILL); s.Kill("nofx-api") },
		"daemon and plugin":  func(s *harness.System) { s.Signal("nofx-driver-local", syscall.SIGKILL); s.Kill("nofxd") },
		"nofx up":            func(s *harness.System) { s.KillUp(); s.Up() },
		"everything at once": func(s *harness.System) { killAll(s) },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			midStep(t, harness.Start(t), "local", disturb)
		})
	}
}

// The same for a step in a container, whose engine may restart as well.
func TestKillInMidStepOfAContainer(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, "--live-restore")
	args := []string{"--docker", engine.Socket(), "--image", debianImage(t, engine)}
	for name, disturb := range map[string]func(*harness.System){
		"daemon": func(s *harness.System) { s.Kill("nofxd") },
		"plugin": func(s *harness.System) { s.Kill("nofx-driver-container") },
		"engine": func(*harness.System) {
			if err := engine.Restart(t.Context(), syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		},
		"everything at once": func(s *harness.System) {
			s.Signal("nofx-driver-container", syscall.SIGKILL)
			killAll(s)
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			midStep(t, harness.StartWith(t, args), "container", disturb)
		})
	}
}

// midStep runs a step that counts, disturbs it in the middle, and checks that
// nothing of it is lost and nothing runs twice.
func midStep(t *testing.T, s *harness.System, driver string, disturb func(*harness.System)) {
	t.Helper()
	script, want := count("count", 300)
	first, second := harness.Bash("count", script), harness.Bash("after", "echo after", "count")
	first.Driver, second.Driver = driver, driver
	id := s.Submit(first, second)
	s.WaitOutput(id, "count", "count line 40\n")
	disturb(s)
	detail := s.Wait(id)
	if detail.Run.Status != step.RunSucceeded {
		t.Fatalf("run %s: %+v", detail.Run.Status, detail.Steps)
	}
	st := s.Step(detail, "count")
	if st.Attempt != 1 || st.Generation != 1 {
		t.Errorf("attempt %d of generation %d: the step did not survive", st.Attempt, st.Generation)
	}
	got, done := s.Output(id, st.ID)
	if got != want || !done {
		t.Errorf("done %v, output of %d bytes, want %d: %s", done, len(got), len(want), firstDifference(got, want))
	}
	once(t, s, id)
}

func killAll(s *harness.System) {
	for _, name := range []string{"nofx-driver-local", "nofxd", "nofx-api", "postgres"} {
		s.Signal(name, syscall.SIGKILL)
	}
	s.KillUp()
	s.Up()
}

// once checks that each step has exactly one end, and the run too.
func once(t *testing.T, s *harness.System, id string) {
	t.Helper()
	ends := map[string]int{}
	for i, e := range s.Timeline(id) {
		if e.Seq != int64(i+1) {
			t.Errorf("event %d has number %d", i+1, e.Seq)
		}
		switch e.Type {
		case step.EventStepSucceeded, step.EventStepFailed, step.EventStepTimeout, step.EventStepCancelled, step.EventStepDead, step.EventStepRetry:
			ends["step "+e.StepName]++
		case step.EventRunSucceeded, step.EventRunFailed, step.EventRunCancelled:
			ends["run"]++
		}
	}
	for what, n := range ends {
		if n != 1 {
			t.Errorf("%s ended %d times", what, n)
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.SplitAfter(got, "\n"), strings.SplitAfter(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got " + g[i] + " instead of " + w[i]
		}
	}
	return "one ends early"
}
