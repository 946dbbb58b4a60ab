package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestUnitsHaveTheirNames(t *testing.T) {
	t.Parallel()
	u := &units{prefix: "nofx", dir: "/sys/fs/cgroup/nofx.slice"}
	if got, want := u.scope(safe("a-b")), "/sys/fs/cgroup/nofx.slice/nofx-a.b.slice/nofx-a.b.steps.scope"; got != want {
		t.Errorf("scope %s, want %s", got, want)
	}
	for name, ok := range map[string]bool{
		"nofx.slice": true, "nofx-1_b.slice": true,
		"nofx": false, "-.slice": false, "a--b.slice": false, "a/b.slice": false, "a-.slice": false, ".slice": false,
	} {
		if sliceName.MatchString(name) != ok {
			t.Errorf("%q: taken for a slice's name: %v", name, !ok)
		}
	}
}

// TestParentIsMadeAnew holds wherever the daemon makes its groups: what was
// above an attempt's group is made again when somebody took it away.
func TestParentIsMadeAnew(t *testing.T) {
	t.Parallel()
	tree := open(t)
	first := tree.Group("acme", "a1")
	if err := first.Make(step.Resources{}); err != nil {
		t.Fatal(err)
	}
	parents := map[string]bool{}
	for _, dir := range first.folders() {
		parents[filepath.Dir(dir)] = true
	}
	if err := first.Remove(within(t)); err != nil {
		t.Fatal(err)
	}
	if tree.units != nil {
		if err := tree.units.stop(within(t)); err != nil {
			t.Fatal(err)
		}
	} else {
		for dir := range parents {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	second := tree.Group("acme", "a2")
	if err := second.Make(step.Resources{MemoryMB: 32, Pids: 10}); err != nil {
		t.Fatal(err)
	}
	// So is what plugins and supervisors have theirs in.
	if _, err := tree.Supervisors(); err != nil {
		t.Errorf("supervisors: %v", err)
	}
	plugin := exec.Command("sleep", "60")
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = plugin.Process.Kill()
		_ = plugin.Wait()
	}()
	if err := tree.PlacePlugin("p", plugin.Process.Pid); err != nil {
		t.Errorf("plugin: %v", err)
	}
	if out, err := inside(t, second, "cat /proc/self/cgroup").CombinedOutput(); err != nil || !strings.Contains(string(out), "a2") {
		t.Errorf("%s, %v", out, err)
	}
}
