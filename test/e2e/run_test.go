package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

func TestRuns(t *testing.T) {
	t.Parallel()
	runs(t, harness.Start(t), "local")
}

// TestRunsInContainers is the same on the other driver of this host, with a
// real engine and an image of this machine's own compilers.
func TestRunsInContainers(t *testing.T) {
	t.Parallel()
	engine := startEngine(t)
	runs(t, harness.StartWith(t, []string{"--docker", engine.Socket(), "--image", debianImage(t, engine)}), "container")
}

// startEngine starts an engine of the test's own, and fails the test if a
// container is left in it.
func startEngine(t *testing.T, args ...string) *testdocker.Engine {
	t.Helper()
	engine, err := testdocker.Start(t.Context(), t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := engine.Containers(context.Background())
		if err != nil || len(left) > 0 {
			t.Errorf("%d containers are left (%v)", len(left), err)
		}
		if err := engine.Stop(); err != nil {
			t.Error(err)
		}
	})
	return engine
}

// debianImage makes an image with what the plans run.
func debianImage(t *testing.T, engine *testdocker.Engine) string {
	t.Helper()
	const image = "nofx-test/debian:1"
	if err := engine.ImportPackages(t.Context(), image, "bash", "dash", "libc-bin", "coreutils", "gcc", "libc6-dev", "make",
		"python3-minimal", "sed", "grep", "mawk", "diffutils", "tar", "gzip", "findutils"); err != nil {
		t.Fatal(err)
	}
	return image
}

// runs are plans 1 to 4 of those that users know, and what belongs to them, on
// a driver.
func runs(t *testing.T, s *harness.System, driver string) {
	on := func(st wire.PlanStep) wire.PlanStep {
		st.Driver = driver
		return st
	}

	t.Run("a C project is built in dependent steps", func(t *testing.T) {
		dir := t.TempDir()
		plan := filepath.Join(dir, "plan.json")
		if err := os.WriteFile(plan, cProject(t, driver), 0o600); err != nil {
			t.Fatal(err)
		}
		r := s.Nofx(dir, "run", "-f", plan, "--follow", "--json")
		var detail wire.RunDetail
		if err := json.Unmarshal([]byte(r.Stdout), &detail); err != nil || r.Code != 0 {
			t.Fatalf("code %d, %v: %s", r.Code, err, r.Stderr)
		}
		var names []string
		for _, a := range detail.Artifacts {
			names = append(names, a.Name)
		}
		if diff := cmp.Diff([]string{"out/tally", "out/test-suite.log"}, names); diff != "" {
			t.Error(diff)
		}
		for i := 1; i < len(detail.Steps); i++ {
			if before, after := detail.Steps[i-1], detail.Steps[i]; after.StartedAt.Before(*before.EndedAt) {
				t.Errorf("%s began before %s had ended", after.Name, before.Name)
			}
		}
		if !strings.Contains(r.Stderr, "check") || !strings.Contains(r.Stderr, "# TOTAL: 8 PASS: 8 FAIL: 0") {
			t.Errorf("the test suite's output is not shown: %s", r.Stderr)
		}
		id := detail.Run.ID
		if r := s.Nofx(dir, "artifacts", "get", detail.Artifacts[0].Path, "-o", "tally"); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		if err := os.Chmod(filepath.Join(dir, "tally"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("./tally")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader("b a b")
		if out, err := cmd.Output(); err != nil || string(out) != "2 b\n1 a\n" {
			t.Errorf("the built program says %q, %v", out, err)
		}
		if r := s.Nofx(dir, "runs", "logs", id, "--step", "check"); r.Code != 0 || !strings.Contains(r.Stdout, "PASS: unit") {
			t.Errorf("%+v", r)
		}
	})

	t.Run("red is red", func(t *testing.T) {
		id := s.Submit(
			on(harness.Bash("build", "echo building; echo 'missing module ./cart' >&2; exit 7")),
			on(harness.Bash("after", "echo never", "build")),
		)
		detail := s.Wait(id)
		build, after := s.Step(detail, "build"), s.Step(detail, "after")
		if detail.Run.Status != step.RunFailed || build.Status != step.StepFailed || *build.Verdict.ExitCode != 7 || build.Attempt != 1 {
			t.Errorf("run %s, step %+v", detail.Run.Status, build)
		}
		if after.Attempt != 0 || !after.Status.Terminal() {
			t.Errorf("the dependant is %s after %d attempts", after.Status, after.Attempt)
		}
		if r := s.Nofx("", "runs", "get", id); r.Code != 0 || !strings.Contains(r.Stdout, "exit 7") {
			t.Errorf("%+v", r)
		}
	})

	t.Run("a run-away is ended as a whole", func(t *testing.T) {
		st := on(harness.Bash("runaway", "(sleep 600 &); yes row | head -c 300000000; python3 -c 'x = bytearray(900 << 20)'; sleep 600"))
		st.TimeoutMS = 5000
		st.Resources = &step.Resources{CPU: 0.5, MemoryMB: 256, Pids: 64, OutputKB: 512}
		detail := s.Wait(s.Submit(st))
		v := detail.Steps[0].Verdict
		if v == nil || v.Cause != step.CauseTimeout && v.Cause != step.CauseOOM {
			t.Fatalf("verdict %+v", v)
		}
		if !v.Output.Truncated || v.Output.StoredBytes > 600<<10 || v.Usage.WallMS == 0 || v.Usage.MemoryPeakBytes > 257<<20 {
			t.Errorf("%+v", v)
		}
		s.Eventually("its tree is gone", func() bool {
			for _, left := range s.Leftovers() {
				if strings.Contains(left, "sleep 600") {
					return false
				}
			}
			return true
		})
	})

	t.Run("a line check has the full sequence of events", func(t *testing.T) {
		id := s.Submit(on(wire.PlanStep{Name: "echo", Tool: "test:echo", Inputs: json.RawMessage(`{"msg":"hello from preview","n":3}`)}))
		detail := s.Wait(id)
		if detail.Run.Status != step.RunSucceeded {
			t.Fatalf("%+v", detail)
		}
		var types []step.EventType
		for i, e := range s.Timeline(id) {
			types = append(types, e.Type)
			if e.Seq != int64(i+1) {
				t.Errorf("event %d has number %d", i+1, e.Seq)
			}
		}
		want := []step.EventType{
			step.EventRunCreated, step.EventStepEnqueued, step.EventRunStarted, step.EventStepStarted,
			step.EventStepFinished, step.EventStepSucceeded, step.EventRunSucceeded,
		}
		if diff := cmp.Diff(want, types); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("cancel ends the tree, TERM first", func(t *testing.T) {
		id := s.Submit(on(harness.Bash("long", "trap 'echo got TERM; exit 0' TERM; (sleep 601 &); echo ready; while :; do sleep 0.1; done")))
		s.WaitOutput(id, "long", "ready")
		if r := s.Nofx("", "runs", "cancel", id); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		detail := s.Wait(id)
		long := detail.Steps[0]
		if detail.Run.Status != step.RunCancelled || long.Status != step.StepCancelled {
			t.Errorf("run %s, step %s", detail.Run.Status, long.Status)
		}
		s.Eventually("its last word is kept", func() bool { text, _ := s.Output(id, long.ID); return strings.Contains(text, "got TERM") })
		s.Eventually("its tree is gone", func() bool {
			for _, left := range s.Leftovers() {
				if strings.Contains(left, "sleep 601") {
					return false
				}
			}
			return true
		})
	})
}

// cProject is the demo's plan with the project of examples/tally, on a driver.
func cProject(t *testing.T, driver string) []byte {
	t.Helper()
	tarball, err := exec.Command("tar", "-C", "../../examples", "-czf", "-", "tally").Output()
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile("../../examples/plans/build-c-project.json")
	if err != nil {
		t.Fatal(err)
	}
	var plan wire.Plan
	text := strings.NewReplacer("@SOURCE@", base64.StdEncoding.EncodeToString(tarball), "@NAME@", "tally", "@BINARY@", "tally").Replace(string(body))
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		t.Fatal(err)
	}
	for i := range plan.Steps {
		plan.Steps[i].Driver = driver
	}
	body, err = json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// The demo's way: one plan, then everything is gone and the exit code is the
// run's.
func TestUpOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		plan string
		code int
		out  string
	}{
		"green":   {`{"goal":"green","steps":[{"name":"a","tool":"bash","inputs":{"command":"echo fine"}}]}`, 0, "run "},
		"red":     {`{"goal":"red","steps":[{"name":"a","tool":"bash","inputs":{"command":"exit 9"}}]}`, 1, "exit 9"},
		"refused": {`{"goal":"refused","steps":[{"name":"a","tool":"nosuch"}]}`, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			harness.Once(t, tc.plan, tc.code, tc.out)
		})
	}
}

// Whoever reads what it prints may go away first, as `tee` does at a Ctrl-C: it
// ends as it would, and leaves nothing.
func TestUpWithoutAReader(t *testing.T) {
	t.Parallel()
	harness.OnceUnread(t, `{"goal":"red","steps":[{"name":"a","tool":"bash","inputs":{"command":"exit 9"}}]}`, 1)
}

// A terminal that goes away asks for the same as Ctrl-C, and its second signal
// is no hurry.
func TestUpDrainsWhenItsTerminalGoesAway(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	id := s.Submit(harness.Bash("short", "echo ready; sleep 2; echo done"))
	s.WaitOutput(id, "short", "ready")
	s.Hurry(syscall.SIGHUP)
	s.Up()
	if d := s.Wait(id); d.Run.Status != step.RunSucceeded || s.Step(d, "short").Attempt != 1 {
		t.Errorf("the step was not let end: %+v", d)
	}
}

// Ctrl-C while a step runs: it drains and leaves nothing. Nobody waits for the
// end of the lease.
func TestUpEndsWithAStepRunning(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	id := s.Submit(harness.Bash("long", "echo ready; sleep 602"))
	s.WaitOutput(id, "long", "ready")
	s.Hurry(syscall.SIGINT)
	down := time.Now()
	s.Up()
	i := slices.IndexFunc(s.Timeline(id), func(e step.Event) bool { return e.Type == step.EventStepFinished })
	if i < 0 || s.Timeline(id)[i].CreatedAt.After(down) {
		t.Errorf("the step was not told of as lost before the end: %+v", s.Timeline(id))
	}
	s.Eventually("it is tried again", func() bool { d, ok := s.Run(id); return ok && s.Step(d, "long").Attempt == 2 })
	s.Hurry(syscall.SIGINT)
}
