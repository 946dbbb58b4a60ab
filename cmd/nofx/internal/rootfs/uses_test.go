package rootfs

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/step"
)

var errStop = errors.New("interrupted")

func cancelled(t *testing.T) (context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	return ctx, func() { cancel(errStop) }
}

// What has a tree mounted, in whatever mount namespace, keeps it, and so does
// a configuration that names it.
func TestRemove(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	image, err := s.take(t, "a", pack(t, file("usr/bin/sh", "sh")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(t, "ab", pack(t, file("usr/bin/sh", "sh"))); err != nil {
		t.Fatal(err)
	}
	users := func() map[string]int {
		t.Helper()
		images, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, i := range images {
			n[i.Name] = len(i.UsedBy)
		}
		return n
	}
	if diff := cmp.Diff(map[string]int{"a": 0, "ab": 0}, users()); diff != "" {
		t.Errorf("users at first (-want +got):\n%s", diff)
	}

	// A process in a mount namespace of its own that sees a part of it.
	where := filepath.Join(t.TempDir(), "a place") // the kernel escapes the blank
	if err := os.Mkdir(where, 0o755); err != nil {
		t.Fatal(err)
	}
	holder := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$0/usr" "$1" && echo ready && read line`, image.Path, where)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "ab": 0}, users()); diff != "" {
		t.Errorf("users while it is mounted (-want +got):\n%s", diff)
	}
	if err := s.Remove("a"); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "(sh)") {
		t.Errorf("while it is mounted: %v", err)
	}
	if _, err := s.Find("a"); err != nil {
		t.Errorf("it is gone: %v", err)
	}
	if err := errors.Join(in.Close(), holder.Wait()); err != nil && holder.ProcessState.ExitCode() != 1 { // read met the end
		t.Fatal(err)
	}

	// A configuration.
	config := filepath.Join(t.TempDir(), "nofxd.yaml")
	s.Configs = []string{filepath.Join(t.TempDir(), "none"), config}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("drivers:\n  local:\n    rootfs: " + s.dir + "/../rootfs/a\n")
	if err := s.Remove("a"); !step.Is(err, step.KindConflict) || !strings.Contains(err.Error(), "driver local ("+config+")") {
		t.Errorf("while it is configured: %v", err)
	}
	write(strings.Repeat("# much\n", maxConfig/7+1) + "drivers:\n  local:\n    rootfs: " + s.dir + "/../rootfs/a\n")
	if err := s.Remove("a"); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "and may have 1048576") {
		t.Errorf("with a configuration that is too long to tell: %v", err)
	}
	write("drivers: [")
	if err := s.Remove("a"); !step.Is(err, step.KindInvalid) {
		t.Errorf("with a configuration that does not tell: %v", err)
	}
	write("drivers:\n  local:\n    rootfs: host\n  other: {}\n")
	if err := s.Remove("a"); err != nil {
		t.Errorf("when nothing uses it: %v", err)
	}
	if diff := cmp.Diff([]string{".ab.json", "ab"}, s.names(t)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestListOfWhatSomebodyPutThere(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if err := os.MkdirAll(filepath.Join(s.dir, "mine/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	images, err := s.List()
	if err != nil || len(images) != 1 || images[0].Source != "unknown" || images[0].Path != filepath.Join(s.dir, "mine") {
		t.Errorf("%+v, %v", images, err)
	}
	if err := s.Remove("mine"); err != nil {
		t.Error(err)
	}
}
