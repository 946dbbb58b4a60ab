package invariant_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/test/invariant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What a script leaves can be read when its workspace is gone, also that of one
// that was killed.
func TestRecorder(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "workspaces")
	work := filepath.Join(root, "run_1")
	if err := os.MkdirAll(work, 0o700); err != nil {
		t.Fatal(err)
	}
	r := invariant.Record(root)
	defer r.Close()
	command := func(between string) *exec.Cmd {
		script := strings.ReplaceAll(invariant.Script("a", 4, between), "/workspace/", work+"/")
		return exec.CommandContext(t.Context(), "bash", "-c", script)
	}
	out, err := command("").Output()
	if err != nil || string(out) != invariant.Lines("a", 4) {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := command("kill -9 $$").Output(); err == nil {
		t.Fatal("it survived")
	}
	kinds := func() (text string) {
		all, err := r.Effects()
		if err != nil {
			t.Fatal(err)
		}
		executions := map[string]bool{}
		for _, e := range all {
			executions[e.Execution] = true
			if e.RunID != "run_1" || e.Step != "a" || e.At <= 0 {
				t.Errorf("%+v", e)
			}
			text += string(e.Kind) + " "
		}
		if len(all) > 0 && len(executions) != 2 {
			t.Errorf("%d executions", len(executions))
		}
		return text
	}
	want := "begin beat beat beat beat end " + "begin beat beat "
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for kinds() != want {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%q, want %q", kinds(), want)
		}
	}
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	if got := kinds(); got != want {
		t.Errorf("after the workspace is gone: %q", got)
	}
}
