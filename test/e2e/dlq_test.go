package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// entries are those of the DLQ, as the CLI lists them.
func entries(t *testing.T, s *harness.System, flags ...string) []wire.DeadStep {
	t.Helper()
	r := s.Nofx("", append([]string{"dlq:inspect", "--json"}, flags...)...)
	var list wire.DeadList
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil || r.Code != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	return list.Entries
}

// Twice, then dead: one run however often it is posted, attempts with back-off,
// one entry with the history of all of them; then tried again, and discarded.
func TestTwiceThenDead(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	submit := func() string {
		t.Helper()
		created, err := s.API().Submit(t.Context(), wire.SubmitRun{Plan: wire.Plan{Goal: "feed", Steps: []wire.PlanStep{
			{Name: "feed", Tool: "test:fail", Inputs: json.RawMessage(`{"feed":"warehouse-7"}`)}}}}, "warehouse-7-of-today")
		if err != nil {
			t.Fatal(err)
		}
		return created.ID
	}
	id := submit()
	if again := submit(); again != id {
		t.Errorf("two runs: %s and %s", id, again)
	}
	if d := s.Wait(id); d.Run.Status != step.RunFailed || d.Steps[0].Attempt != 3 {
		t.Fatalf("%+v", d)
	}
	retries := 0
	for _, e := range s.Timeline(id) {
		if wait, ok := e.Payload["wait_ms"].(float64); e.Type == step.EventStepRetry && ok && wait >= 0 && wait <= 1000 {
			retries++
		}
	}
	list := entries(t, s, "--tool", "test:fail")
	if retries != 2 || len(list) != 1 || list[0].Attempts != 3 || list[0].RunID != id {
		t.Fatalf("%d retries, %+v", retries, list)
	}
	r := s.Nofx("", "dlq", "inspect", list[0].ID)
	if r.Code != 0 || strings.Count(r.Stdout, "exit 1") != 3 || !strings.Contains(r.Stdout, `"feed": "warehouse-7"`) || !strings.Contains(r.Stdout, "all of its 3 attempts failed") {
		t.Errorf("%+v", r)
	}
	// Three failures open its breaker, too, a moment after the run's end; the operator resets it.
	s.Eventually("the breaker opens", func() bool { return breakerOf(t, s, "test:fail").State == "open" })
	if r := s.Nofx("", "handlers", "reset", "test:fail"); r.Code != 0 || !strings.Contains(r.Stdout, "local") {
		t.Fatalf("%+v", r)
	}
	if r := s.Nofx("", "dlq", "requeue", list[0].ID); r.Code != 0 || !strings.Contains(r.Stdout, "feed  queued  2") {
		t.Fatalf("%+v", r)
	}
	if d := s.Wait(id); d.Run.Status != step.RunFailed || d.Steps[0].Generation != 2 || d.Steps[0].Attempt != 3 {
		t.Errorf("%+v", d)
	}
	second := entries(t, s)
	if len(second) != 1 || second[0].Generation != 2 || len(entries(t, s, "--state", client.AnyState)) != 2 {
		t.Fatalf("%+v", second)
	}
	if r := s.Nofx("", "dlq", "discard", second[0].ID); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if r := s.Nofx("", "dlq", "requeue", second[0].ID); r.Code != 3 || !strings.Contains(r.Stderr, "discarded already") {
		t.Errorf("%+v", r)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("%+v", left)
	}
}

// A step whose inputs were wrong is mended and goes on where its run stopped:
// in the same workspace, on the driver that is asked for, with what came after.
func TestRequeueMended(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	disk := &step.Resources{DiskMB: 32} // so that the workspace is one with a mount
	fetch := harness.Bash("fetch", "echo from the first step >kept")
	build := harness.Bash("build", "cat kept; exit 9", "fetch")
	build.Retry = &wire.Retry{Attempts: 2, BackoffMS: 10}
	after := harness.Bash("after", "cat kept built", "build")
	for _, st := range []*wire.PlanStep{&fetch, &build, &after} {
		st.Resources = disk
	}
	id := s.Submit(fetch, build, after)
	if d := s.Wait(id); d.Run.Status != step.RunFailed || s.Step(d, "after").Attempt != 0 {
		t.Fatalf("%+v", d)
	}
	list := entries(t, s)
	if len(list) != 1 || list[0].StepName != "build" || list[0].Cause != step.CauseExit || list[0].WorkerID == "" {
		t.Fatalf("%+v", list)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "inputs.json"), []byte(`{"command":"cat kept; echo mended >built"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte(`{"command":"true","cwd":"../../etc"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.Nofx(dir, "dlq", "requeue", list[0].ID, "--edit-inputs", "bad.json"); r.Code != 2 || !strings.Contains(r.Stderr, "body.inputs.cwd") {
		t.Errorf("%+v", r)
	}
	if r := s.Nofx(dir, "dlq", "requeue", list[0].ID, "--driver", "nosuch"); r.Code != 2 || !strings.Contains(r.Stderr, "body.driver") {
		t.Errorf("%+v", r)
	}
	if r := s.Nofx(dir, "dlq", "requeue", list[0].ID, "--edit-inputs", "inputs.json", "--driver", "local"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	d := s.Wait(id)
	if d.Run.Status != step.RunSucceeded || s.Step(d, "fetch").Generation != 1 || s.Step(d, "build").Generation != 2 || s.Step(d, "after").Generation != 2 {
		t.Fatalf("%+v", d)
	}
	s.Eventually("the last step sees what both before it left", func() bool {
		text, _ := s.Output(id, s.Step(d, "after").ID)
		return text == "from the first step\nmended\n"
	})
	if r := s.Nofx("", "runs", "retry", id); r.Code != 3 || !strings.Contains(r.Stderr, "no step of the run has failed") {
		t.Errorf("%+v", r)
	}

	// A failed run's workspace is still there when the system ends; nothing of it
	// may be left after.
	red := harness.Bash("red", "exit 1")
	red.Resources = disk
	s.Wait(s.Submit(red))
}

// What worked can be run again as a whole.
func TestRunAgain(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	id := s.Submit(harness.Bash("a", "echo once more"), harness.Bash("b", "true", "a"))
	if d := s.Wait(id); d.Run.Status != step.RunSucceeded {
		t.Fatalf("%+v", d)
	}
	if r := s.Nofx("", "runs", "retry", id, "--all"); r.Code != 0 || !strings.Contains(r.Stdout, "b     waiting  2") {
		t.Fatalf("%+v", r)
	}
	s.Eventually("both have run a second time", func() bool {
		d, ok := s.Run(id)
		return ok && d.Run.Status == step.RunSucceeded && s.Step(d, "b").Generation == 2
	})
}
