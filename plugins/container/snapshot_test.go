package container

import (
	"archive/tar"
	"bytes"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/posture"
	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
)

var update = flag.Bool("update", false, "write testdata/posture anew")

// snapshot gives the postures of the processes of a new sandbox in which the
// probe runs.
func snapshot(t *testing.T, d *Driver, argv ...string) posture.Set {
	t.Helper()
	h, s := newBox(t, d)
	put(t, d, h, "posture", posturePath)
	base := s.Host.UIDBase
	ref, err := posture.Here(map[string]string{strconv.Itoa(int(base)): "base", strconv.Itoa(int(base) + 1): "base+1"})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := d.Folder(h)
	if err != nil {
		t.Fatal(err)
	}
	life, err := supervisor.Look(dir)
	if err != nil || !life.Alive {
		t.Fatalf("the supervisor: %+v, %v", life, err)
	}
	var set posture.Set
	spec := driver.ExecSpec{ID: "x-" + testhost.Random(), Argv: append([]string{"/workspace/posture"}, argv...), Env: []string{"PATH=/bin"}}
	err = posture.Exec(t.Context(), d, h, spec, func(raw posture.Raw) (err error) {
		set, err = ref.Sandbox(raw, int(life.State.SupervisorPID))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Watched("supervisor"); err != nil {
		t.Fatal(err)
	}
	return set
}

// put copies a program of the host into the workspace.
func put(t *testing.T, d *Driver, h driver.Handle, name, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.CopyIn(t.Context(), h, "/workspace", &buf); err != nil {
		t.Fatal(err)
	}
}

const golden = "testdata/posture/container-runc.json"

// What the kernel says of every process of a sandbox, of each of its threads,
// from inside and from outside, is what was committed.
func TestPostureSnapshot(t *testing.T) {
	t.Parallel()
	set := snapshot(t, configured(t))
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
	for what, c := range map[string]struct {
		argv   []string
		change func(*Config)
		says   string
	}{
		"an open folder":       {[]string{"/"}, func(*Config) {}, "3 folder r"},
		"a root to be written": {nil, func(c *Config) { c.WritableRoot = true }, "/ disk rw"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			set := snapshot(t, configured(t, c.change), c.argv...)
			diff, err := posture.Compare(golden, set)
			if err != nil || !strings.Contains(diff, c.says) {
				t.Errorf("%v, %q does not say %q", err, diff, c.says)
			}
		})
	}
}
