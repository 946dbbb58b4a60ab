package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
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
	plugin := s.Pid("nofx-driver-local")
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
	// A process in the group of a plugin, with nothing of the daemon's above it.
	stray := func() (pid string) {
		t.Helper()
		out, err := exec.Command("/bin/sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!").Output()
		if err != nil {
			t.Fatal(err)
		}
		pid = strings.TrimSpace(string(out))
		t.Cleanup(func() { _ = exec.Command("/bin/kill", "-9", pid).Run() })
		groups, err := filepath.Glob("/sys/fs/cgroup/*/" + s.Installation() + ".slice/plugin_local")
		if err != nil {
			t.Fatal(err)
		}
		if len(groups) == 0 { // v2
			groups = []string{"/sys/fs/cgroup/" + s.Installation() + ".slice/plugin_local"}
		}
		for _, g := range groups {
			if err := os.WriteFile(filepath.Join(g, "cgroup.procs"), []byte(pid), 0); err != nil {
				t.Fatal(err)
			}
		}
		return pid
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
			if (strings.HasSuffix(i.Name, name) || strings.HasPrefix(i.Name, name+" (")) && i.Reason != "" && i.Error == "" && i.Removed != report.DryRun {
				kinds = append(kinds, i.Kind)
			}
		}
		return kinds
	}

	// The daemon sweeps by itself, too: once in a while it is faster.
	for try := 1; ; try++ {
		name := "orphan" + string(rune('0'+try))
		workspace, groups := orphan(name)
		journal := filepath.Join(data, "journal", "att_"+name)
		if err := os.Mkdir(journal, 0o700); err != nil {
			t.Fatal(err)
		}
		pid := stray()
		report, swept := sweep("--dry-run"), []string(nil)
		dry := append(told(report, name), told(report, pid)...)
		if _, err := os.Stat(workspace); err == nil {
			report = sweep()
			swept = append(told(report, name), told(report, pid)...)
		}
		for _, path := range append(groups, workspace, journal, "/proc/"+pid+"/root/bin") {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is there: %v", path, err)
			}
		}
		if len(dry) == 4 && len(swept) == 4 {
			break
		}
		if try == 5 {
			t.Fatalf("dry run %v, sweep %v", dry, swept)
		}
	}
	if r := s.Nofx("", "exec", "--", "/bin/true"); r.Code != 0 || s.Pid("nofx-driver-local") != plugin {
		t.Errorf("a plugin that runs was hurt: %+v", r)
	}
	s.Eventually("the removals are events", func() bool {
		r := s.Nofx("", "workers", "events", "--json")
		return strings.Contains(r.Stdout, `"sweep.removed"`) && strings.Contains(r.Stdout, "no attempt of the ledger has it")
	})
	if r := s.Nofx("", "sweep", "--data", t.TempDir()); r.Code != 3 || !strings.Contains(r.Stderr, "--data") {
		t.Errorf("no daemon: %+v", r)
	}
}
