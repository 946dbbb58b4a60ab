package local

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/posture"
	"github.com/nofx-run/nofx/plugins/seccomp"
	"github.com/nofx-run/nofx/plugins/supervisor"
)

var update = flag.Bool("update", false, "write testdata/posture anew")

// snapshot gives the postures of the processes of a sandbox in which the probe
// runs.
func snapshot(t *testing.T, b *box, argv ...string) posture.Set {
	t.Helper()
	base := b.s.Host.UIDBase
	ref, err := posture.Here(map[string]string{strconv.Itoa(int(base)): "base", strconv.Itoa(int(base) + 1): "base+1"})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(supervisorPID(t, b))
	if err != nil {
		t.Fatal(err)
	}
	b.put(t, "posture", posturePath)
	var set posture.Set
	err = posture.Exec(t.Context(), b.d, b.h, command(append([]string{"/workspace/posture"}, argv...)...), func(raw posture.Raw) (err error) {
		set, err = ref.Sandbox(raw, pid)
		return err
	})
	if err == nil {
		err = set.Watched("supervisor")
	}
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const golden = "testdata/posture/local-namespace.json"

// What the kernel says of every process of a sandbox, of each of its threads,
// from inside and from outside, is what was committed.
func TestPostureSnapshot(t *testing.T) {
	t.Parallel()
	d, err := imageDriver(t, busyboxRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	set := snapshot(t, newBox(t, d))
	if *update {
		if err := posture.Update(golden, set); err != nil {
			t.Fatal(err)
		}
	}
	wrong, err := posture.Audit(t.Context(), golden, posturePath, set)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// A sandbox that is less of one does not pass.
func TestPostureOfWeakSandboxes(t *testing.T) {
	t.Parallel()
	root := busyboxRoot(t)
	for what, c := range map[string]struct {
		argv   []string
		change func(t *testing.T, template *supervisor.Template)
		says   string
	}{
		"an open folder": {[]string{"/"}, func(*testing.T, *supervisor.Template) {}, "3 folder r"},
		"another mount": {nil, func(t *testing.T, template *supervisor.Template) {
			t.Helper()
			template.Bind("leak", t.TempDir())
		}, "/leak"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := weakDriver(t, root, c.change)
			set := snapshot(t, newBox(t, d), c.argv...)
			diff, err := posture.Compare(golden, set)
			if err != nil || !strings.Contains(diff, c.says) {
				t.Errorf("%v, %q does not say %q", err, diff, c.says)
			}
		})
	}
}

// weakDriver is a driver whose root file system was changed.
func weakDriver(t *testing.T, root string, change func(*testing.T, *supervisor.Template)) *Driver {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(filepath.Join(dir, stageFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	template, err := rootTemplate(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	change(t, template)
	filter, err := seccomp.Step()
	if err != nil {
		t.Fatal(err)
	}
	l, err := supervisor.NewLauncher(supervisorPath, filepath.Join(dir, stageFolder), template, filter, supervisor.Sizes{Tmp: 16 << 20, Home: 16 << 20, Shm: 16 << 20, MaxOutput: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	d := New()
	t.Cleanup(d.Close)
	if err := d.Use(dir, l); err != nil {
		t.Fatal(err)
	}
	return d
}
