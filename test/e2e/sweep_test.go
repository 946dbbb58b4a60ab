package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// What nobody has is told by a dry run and removed by a sweep; what another
// installation has, or a step that runs, stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	data := filepath.Join(s.Dir, "worker")
	if r := s.Nofx("", "exec", "--", "/bin/true"); r.Code != 0 { // makes the tenant's groups
		t.Fatalf("%+v", r)
	}
	orphan := func(name string) (workspace string, groups []string) {
		t.Helper()
		workspace = filepath.Join(data, "work", "run_"+name)
		if err := os.Mkdir(workspace, 0o700); err != nil {
			t.Fatal(err)
		}
		parents, err := filepath.Glob("/sys/fs/cgroup/*/" + s.Installation() + ".slice/nofx-default.slice")
		if err != nil {
			t.Fatal(err)
		}
		if len(parents) == 0 { // v2
			parents = []string{"/sys/fs/cgroup/" + s.Installation() + ".slice/nofx-default.slice"}
		}
		for _, p := range parents {
			dir := filepath.Join(p, "att_"+name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			groups = append(groups, dir)
		}
		return workspace, groups
	}
	sweep := func(args ...string) wire.SweepReport {
		t.Helper()
		r := s.Nofx("", append([]string{"sweep", "--json", "--data", data}, args...)...)
		var report wire.SweepReport
		if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || r.Code != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		return report
	}
	told := func(report wire.SweepReport, name string) (kinds []string) {
		for _, i := range report.Items {
			if strings.HasSuffix(i.Name, name) && i.Reason != "" && i.Error == "" && i.Removed != report.DryRun {
				kinds = append(kinds, i.Kind)
			}
		}
		return kinds
	}

	// The daemon sweeps by itself, too: once in a while it is faster.
	for try := 1; ; try++ {
		name := "orphan" + string(rune('0'+try))
		workspace, groups := orphan(name)
		dry, swept := told(sweep("--dry-run"), name), []string(nil)
		if _, err := os.Stat(workspace); err == nil {
			swept = told(sweep(), name)
		}
		for _, path := range append(groups, workspace) {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is there: %v", path, err)
			}
		}
		if len(dry) == 2 && len(swept) == 2 {
			break
		}
		if try == 5 {
			t.Fatalf("dry run %v, sweep %v", dry, swept)
		}
	}
	s.Eventually("the removals are events", func() bool {
		r := s.Nofx("", "workers", "events", "--json")
		return strings.Contains(r.Stdout, `"sweep.removed"`) && strings.Contains(r.Stdout, "no attempt of the ledger has it")
	})
	if r := s.Nofx("", "sweep", "--data", t.TempDir()); r.Code != 3 || !strings.Contains(r.Stderr, "--data") {
		t.Errorf("no daemon: %+v", r)
	}
}
