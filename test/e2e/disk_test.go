package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// A step that says nothing of its disk has what its host gives: more ends it, by
// the cause disk, however it is written, and its neighbours do not notice.
func TestDiskDefault(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	s.AddWorker("small", func(cfg map[string]any) {
		cfg["region"], cfg["defaults"] = "small", map[string]any{"disk_mb": 32}
	})
	there := func(name, script string, mode step.WorkspaceMode) wire.PlanStep {
		st := harness.Bash(name, script)
		st.Inputs = fmt.Appendf(nil, `{"command": %q, "timeout": 600000}`, script) // longer than all of this may take
		st.Region, st.Workspace = "small", mode
		return st
	}
	const fill = "head -c 100000000 /dev/zero"
	neighbour := s.Submit(there("neighbour", "head -c 5000000 /dev/zero >some; echo begun; sleep 3600", step.WorkspaceRun))
	s.WaitOutput(neighbour, "neighbour", "begun")
	over := map[string]string{}
	for name, script := range map[string]string{
		"a-file":    fill + " >big; sleep 3600",
		"no-name":   "exec 3>big; rm big; " + fill + " >&3; sleep 3600",
		"many":      "mkdir -p a/b; for i in $(seq 20); do head -c 5000000 /dev/zero >a/b/$i; done; sleep 3600",
		"done":      fill + " >big",
		"inodes":    "seq 3000 | xargs touch; sleep 3600",
		"does-fail": fill + " >big; exit 3",
	} {
		mode := step.WorkspaceRun
		if name == "a-file" || name == "no-name" {
			mode = step.WorkspaceStep
		}
		over[name] = s.Submit(there(name, script, mode))
	}
	below := s.Submit(there("below", "head -c 20000000 /dev/zero >some; wc -c <some", step.WorkspaceRun))
	exact := there("exact", fill+" >big; wc -c <big", step.WorkspaceRun)
	exact.Resources = &step.Resources{DiskMB: 128}
	asked := s.Submit(exact)
	for name, id := range over {
		v := s.Step(s.Wait(id), name).Verdict
		least, want := int64(32<<20), "more than the 32.0 MiB that a step without disk_mb has here"
		if name == "inodes" {
			least, want = 1, "files, more than the 2048 that a step without disk_mb has here"
		}
		if v == nil || v.Cause != step.CauseDisk || !strings.Contains(v.Message, want) || v.Usage.DiskBytes < least {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := s.Step(s.Wait(below), "below").Verdict; v == nil || !v.Success() || v.Usage.DiskBytes < 20_000_000 || v.Usage.DiskBytes > 21_000_000 {
		t.Errorf("below it: %+v", v)
	}
	if v := s.Step(s.Wait(asked), "exact").Verdict; v == nil || !v.Success() || v.Usage.DiskBytes < 100_000_000 {
		t.Errorf("who asks for more: %+v", v)
	}
	if d, ok := s.Run(neighbour); !ok || s.Step(d, "neighbour").Status != step.StepRunning {
		t.Errorf("the neighbour: %+v", d)
	}
	if _, err := s.API().Cancel(t.Context(), neighbour); err != nil {
		t.Fatal(err)
	}
	if v := s.Step(s.Wait(neighbour), "neighbour").Verdict; v == nil || v.Cause != step.CauseCancelled || v.Usage.DiskBytes < 5_000_000 {
		t.Errorf("the neighbour: %+v", v)
	}
}

// A step whose own files do not fit into what those before it left says so.
func TestDiskFilledBefore(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	first := harness.Bash("first", "head -c 40000000 /dev/zero >big; true")
	first.Resources = &step.Resources{DiskMB: 16}
	inputs := fmt.Appendf(nil, `{"code": "print(1)", "files": [{"path": "f", "content": %q}]}`, strings.Repeat("x", 500_000))
	id := s.Submit(first, wire.PlanStep{Name: "second", Tool: "python", Inputs: inputs, DependsOn: []string{"first"}})
	d := s.Wait(id)
	if v := s.Step(d, "first").Verdict; v == nil || !v.Success() || v.Usage.DiskBytes < 14<<20 {
		t.Errorf("that it was full does not make a success a failure: %+v", v)
	}
	if v := s.Step(d, "second").Verdict; v == nil || v.Cause != step.CauseDisk || !strings.Contains(v.Message, "the workspace is full, with 16 MiB in all: files: ") || v.Usage.DiskBytes < 14<<20 {
		t.Errorf("%+v", v)
	}
}
