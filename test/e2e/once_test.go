package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// Nobody else can end the run of `nofx up --once`: an interrupt cancels it, and
// the next start on the folder does not begin it anew.
func TestOnceInterrupted(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	s.Stop()
	plan := filepath.Join(t.TempDir(), "plan.yaml")
	if err := os.WriteFile(plan, []byte(`goal: long
steps:
  - {name: a, tool: bash, timeout: 600000, inputs: {command: "echo begin; exec sleep 600"}}
  - {name: b, tool: test:echo, depends_on: [a]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.Bin, "nofx"), "up", "--data", s.Dir, "--listen", "127.0.0.1:0", "--docker", "off", "--once", plan)
	var out strings.Builder
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said = append(said, lines.Text())
		if strings.HasPrefix(lines.Text(), "a | begin") {
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // its code says it
	text := strings.Join(said, "\n")
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(text, "cancelling run") || strings.Contains(text, "goes on") || !strings.Contains(out.String(), "cancelled") {
		t.Errorf("exit code %d, stdout %q, stderr %s", code, out.String(), text)
	}
	s.Up()
	list, err := s.API().Runs(t.Context(), 10, "")
	if err != nil || len(list.Runs) != 1 || list.Runs[0].Status != step.RunCancelled {
		t.Errorf("%+v %v", list, err)
	}
}
