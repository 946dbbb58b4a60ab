package local

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// newDriver gives a configured driver of the test's own.
func newDriver(t testing.TB, change ...func(*Config)) *Driver {
	t.Helper()
	d := New()
	if err := d.Configure(t.Context(), config(t, change...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// box is a sandbox of a test.
type box struct {
	d *Driver
	h driver.Handle
	s driver.Spec
}

// newBox makes one; change may set what the control groups are to enforce.
func newBox(t testing.TB, d *Driver, change ...func(*driver.Spec)) *box {
	t.Helper()
	s := driver.Spec{ID: "box-" + random(), Tags: driver.Tags{Owner: "test", ID: "x"}, Network: step.NetworkNone}
	for _, f := range change {
		f(&s)
	}
	given := s.Host
	newHost().Fill(t, &s)
	if given != nil {
		s.Host.Workspace, s.Host.WorkspaceUID = given.Workspace, given.WorkspaceUID
	}
	return openBox(t, d, s)
}

func openBox(t testing.TB, d *Driver, s driver.Spec) *box {
	t.Helper()
	h, err := d.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{d, h, s}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.d.Destroy(ctx, h); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return b
}

// ran is what a program wrote and how it ended.
type ran struct {
	out, err string
	exit     driver.Exit
}

func (r *ran) sink(e driver.ExecEvent) error {
	switch {
	case e.Exit != nil:
		r.exit = *e.Exit
	case e.Stream == driver.Stdout:
		r.out += string(e.Data)
	default:
		r.err += string(e.Data)
	}
	return nil
}

const testPath = "PATH=/usr/local/bin:/usr/bin:/bin"

func command(argv ...string) driver.ExecSpec {
	return driver.ExecSpec{ID: "x-" + random(), Argv: argv, Env: []string{testPath, "HOME=/home/step"}}
}

func (b *box) exec(t testing.TB, s driver.ExecSpec) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var r ran
	if err := b.d.Exec(ctx, b.h, s, r.sink); err != nil {
		t.Fatalf("exec %q: %v", s.Argv, err)
	}
	return r
}

// sh runs a shell script.
func (b *box) sh(t testing.TB, script string) ran {
	t.Helper()
	return b.exec(t, command("/bin/sh", "-c", script))
}

// sandboxFolders are the entries of the state folder but for the driver's own.
func sandboxFolders(d *Driver) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(d.StateDir())
	return slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == stageFolder }), err
}

// put copies a file of the host into the workspace.
func (b *box) put(t testing.TB, name, path string) {
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
	if err := b.d.CopyIn(t.Context(), b.h, "/workspace", &buf); err != nil {
		t.Fatal(err)
	}
}

func wantCause(t *testing.T, r ran, cause step.Cause) {
	t.Helper()
	if r.exit.Cause != cause {
		t.Errorf("exit %+v, want cause %s; stdout %.300q, stderr %.300q", r.exit, cause, r.out, r.err)
	}
}

// eventually waits for f to be true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come about: %s", what)
		}
	}
}

// processesOf gives the pids in a sandbox's control group.
func (b *box) processes(t *testing.T) []string {
	t.Helper()
	g := b.s.Host.Cgroup
	dir := g.V2
	if dir == "" {
		dir = g.V1["pids"]
	}
	data, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}
