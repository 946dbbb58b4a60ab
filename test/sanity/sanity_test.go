package sanity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
)

// built is the folder of the binaries that TestMain builds.
var built string

func TestMain(m *testing.M) {
	code := 1
	defer func() { os.Exit(code) }()
	var err error
	if built, err = os.MkdirTemp("", "nofx-sanity"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer os.RemoveAll(built)
	for _, b := range [][]string{
		{"../..", "sh", "-c", "go build -o '" + built + "/' $(scripts/binaries.sh)"},
		{"../../plugins/supervisor", "make", "-s", "BIN=" + built},
		// The example is a module of its own.
		{"../../examples/driver-minimal", "go", "build", "-o", filepath.Join(built, "nofx-driver-minimal"), "."},
	} {
		cmd := exec.Command(b[1], b[2:]...)
		cmd.Dir = b[0]
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%q: %v\n%s", b[1:], err, out)
			return
		}
	}
	code = m.Run()
}

// report is what `nofx driver-sanity --json` prints.
type report struct {
	Driver string
	Grade  string
	Reason string
	Passed int
	Failed int
	Cases  []struct {
		Name, Status string
		Seen         []string
	}
	Unjudged []struct{ Capability, Reason string }
}

// some are cases of each group, for tests that must be short.
const some = "^(Describe|CreateAtOnce|ExitCodes|Streams|AttachFromAnyOffset|StopTakesTheTree|DestroyWhileRunning|KilledBetweenAllCalls|KilledWhileCreating|FilesRoundTrip|MemoryCap|NetNone|RefusesHostileMessages|EndsWhenAsked|LeavesNoProcesses)$"

// grade runs driver-sanity and wants the grade; config is the driver's
// configuration.
func grade(t *testing.T, want, plugin string, config any, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		args = append(args, "--only", some)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(built, "nofx"), append([]string{"driver-sanity", plugin, "--json", "--config", file}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("driver-sanity: %v", err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cases {
		if c.Status == "failed" {
			t.Errorf("%s: %q", c.Name, c.Seen)
		}
	}
	if err == nil && r.Failed > 0 || r.Passed == 0 {
		t.Errorf("%d passed, %d failed, exit %v", r.Passed, r.Failed, err)
	}
	t.Logf("%s: %d passed, grade %s: %s", r.Driver, r.Passed, r.Grade, r.Reason)
	for _, g := range r.Unjudged {
		t.Errorf("%s was not judged: %s", g.Capability, g.Reason)
	}
	if r.Grade != want && !testing.Short() {
		t.Errorf("grade %s: %s; want %s", r.Grade, r.Reason, want)
	}
}

func TestLocal(t *testing.T) {
	grade(t, "A", filepath.Join(built, "nofx-driver-local"), map[string]any{
		"state_dir": filepath.Join(t.TempDir(), "state"), "supervisor": filepath.Join(built, "nofx-supervisor"), "tmp_mb": 64, "shm_mb": 16,
	})
}

func TestContainer(t *testing.T) {
	dir, err := os.MkdirTemp("", "nofx-docker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	engine, err := testdocker.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := engine.Containers(context.Background()); err != nil || len(left) > 0 {
			t.Errorf("%d containers are left (%v)", len(left), err)
		}
		if err := engine.Stop(); err != nil {
			t.Error(err)
		}
	})
	grade(t, "A", filepath.Join(built, "nofx-driver-container"), map[string]any{
		"host": engine.Host(), "state_dir": filepath.Join(t.TempDir(), "state"), "supervisor": filepath.Join(built, "nofx-supervisor"),
		"image": testdocker.Image, "tmp_mb": 64, "shm_mb": 16, "max_output_mb": 512,
	}, "--patience", "4")
}

func TestExampleMinimal(t *testing.T) {
	grade(t, "B", filepath.Join(built, "nofx-driver-minimal"), struct{}{})
}

func TestExamplePython(t *testing.T) {
	grade(t, "B", "../../examples/driver-python/nofx-driver-python", struct{}{}, "--patience", "4")
}

// The example does not only pass: steps run on it, within their caps.
func TestExamplePythonRunsSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("a whole system is started")
	}
	dir := t.TempDir()
	plan := filepath.Join(dir, "plan.yaml")
	if err := os.WriteFile(plan, []byte(`steps:
  - {name: hello, tool: bash, driver: python, inputs: {command: 'echo "hello from $PWD"'}}
  - {name: greedy, tool: bash, driver: python, depends_on: [hello], inputs: {command: 'head -c 2G /dev/zero | tail'}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(built, "nofx"), "up", "--data", filepath.Join(dir, "data"), "--docker", "off",
		"--listen", "127.0.0.1:0", "--driver", "../../examples/driver-python/nofx-driver-python", "--once", plan)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want exit 1", err)
	}
	for _, want := range []string{"hello from /workspace", "hello  = succeeded, exit 0", "greedy = failed, oom"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output does not have %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
