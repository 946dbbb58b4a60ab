package hostile

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// TestDefaultDisk runs, on every level, what would fill the host's disk where
// nobody said how much a step may have of it. The control beside each is one
// that needs less.
func TestDefaultDisk(t *testing.T) {
	runsc := buildRunsc(t)
	docker, err := testdocker.StartWith(t.Context(), t.TempDir(), engineWith(t, runsc))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := harness.StartWith(t, []string{
		"--docker", strings.TrimPrefix(docker.Host(), "unix://"), "--image", testdocker.Image, "--runsc", runsc, "--gvisor-runtime", "runsc",
	})
	s.AddWorker("small", func(cfg map[string]any) {
		cfg["region"], cfg["defaults"] = "small", map[string]any{"disk_mb": 32}
	})
	const fill = "head -c 100000000 /dev/zero"
	for _, l := range []level{{"local", ""}, {"container", ""}, {"local", "gvisor"}, {"container", "gvisor"}} {
		submit := func(name, script string, mode step.WorkspaceMode) string {
			inputs, err := json.Marshal(map[string]any{"argv": []string{"/bin/sh", "-c", script}, "timeout": 300_000})
			if err != nil {
				t.Fatal(err)
			}
			return s.Submit(wire.PlanStep{
				Name: name, Tool: "exec", Inputs: inputs, Region: "small", Driver: l.driver, Isolation: l.isolation, Workspace: mode,
			})
		}
		runs := map[string]string{
			"control":       submit("control", "head -c 20000000 /dev/zero >some", step.WorkspaceRun),
			"a-file":        submit("a-file", fill+" >big; sleep 3600", step.WorkspaceRun),
			"its-own":       submit("its-own", fill+" >big; sleep 3600", step.WorkspaceStep),
			"without-names": submit("without-names", "exec 3>big; rm big; "+fill+" >&3; sleep 3600", step.WorkspaceRun),
		}
		for name, id := range runs {
			v := s.Step(s.Wait(id), name).Verdict
			switch {
			case v == nil:
				t.Errorf("%s: %s: no verdict", l, name)
			case name == "control" && (!v.Success() || v.Usage.DiskBytes < 20_000_000):
				t.Errorf("%s: %s: %+v", l, name, v)
			case name != "control" && (v.Cause != step.CauseDisk || !strings.Contains(v.Message, "more than the 32.0 MiB")):
				t.Errorf("%s: %s: %+v", l, name, v)
			}
		}
	}
}
