package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// A process that the kernel holds does not hold its exec: that ends by its time,
// and says so. Let go, the process dies with the sandbox.
func TestAProcessThatCannotBeKilled(t *testing.T) {
	t.Parallel()
	const freezer = "/sys/fs/cgroup/freezer" // of version 1, which not even SIGKILL gets through
	if _, err := os.Stat(filepath.Join(freezer, "tasks")); err != nil {
		t.Skip("no freezer of cgroup v1, and with version 2 a frozen process can be killed")
	}
	b := newBox(t, newDriver(t))
	group, err := os.MkdirTemp(freezer, "nofxtest_")
	if err != nil {
		t.Fatal(err)
	}
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, file), []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		put("freezer.state", "THAWED")
		eventually(t, "the process is dead", func() bool { return os.Remove(group) == nil })
	})
	s := command("/bin/sh", "-c", "sleep 600 & echo on; wait")
	s.Timeout = 2 * time.Second
	var r ran
	frozen := false
	if err := b.d.Exec(t.Context(), b.h, s, func(e driver.ExecEvent) error {
		if e.Exit == nil && !frozen {
			eventually(t, "the process is there", func() bool {
				for _, pid := range b.processes(t) {
					name, err := os.ReadFile("/proc/" + pid + "/comm")
					if frozen = err == nil && string(name) == "sleep\n"; frozen {
						put("cgroup.procs", pid)
						put("freezer.state", "FROZEN")
						return true
					}
				}
				return false
			})
		}
		return r.sink(e)
	}); err != nil {
		t.Fatal(err)
	}
	if !frozen {
		t.Fatal("nothing was frozen")
	}
	wantCause(t, r, step.CauseTimeout)
	if !strings.Contains(r.exit.Message, "cannot be killed") {
		t.Errorf("it says %q", r.exit.Message)
	}
}
