package workspace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestLife(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "work")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const uid = 1_879_900_000
	for range 2 { // the second step of a run finds what the first has left
		path, err := s.Make(t.Context(), "run-1", uid, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "kept"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != uid || info.Mode().Perm() != 0o700 {
			t.Fatalf("%v, %v", info, err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if runs, err := s.Runs(); err != nil || len(runs) != 1 || runs[0] != "run-1" {
		t.Errorf("%v, %v", runs, err)
	}
	for _, path := range []string{s.Index("run-1"), s.Next("run-1"), s.Index("run-2")} { // of the last there is nothing else left
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if runs, err := s.Runs(); err != nil || !slices.Equal(runs, []string{"run-1", "run-2"}) {
		t.Errorf("%v, %v", runs, err)
	}
	if err := s.Remove("run-2"); err != nil {
		t.Fatal(err)
	}
	// A removal that was cut off goes on at the next look.
	if err := os.Mkdir(filepath.Join(dir, goneMark+"run-0"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove("run-1"); err != nil {
			t.Fatal(err)
		}
	}
	if runs, err := s.Runs(); err != nil || len(runs) != 0 {
		t.Errorf("%v, %v", runs, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestNamesThatLeaveTheFolder(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "..", "a/b", "../x", ".gone-x", "a\x00", "a b"} {
		if _, err := s.Make(t.Context(), bad, 70000, 0); !step.Is(err, step.KindInvalid) {
			t.Errorf("make %q: %v", bad, err)
		}
		if err := s.Remove(bad); !step.Is(err, step.KindInvalid) {
			t.Errorf("remove %q: %v", bad, err)
		}
	}
}

// A workspace with a limit is a file system of its own; it goes with its file,
// whatever holds it.
func TestLimit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "work")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove("run_1"); err != nil {
			t.Error(err)
		}
	})
	// As steps of one run that begin together, some of which are cancelled: one of
	// them may be the one that makes it for all.
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	var group sync.WaitGroup
	for i := range 4 {
		ctx := t.Context()
		if i%2 == 1 {
			ctx = cancelled
		}
		group.Go(func() {
			if _, err := s.Make(ctx, "run_1", 1234, 16); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	path := filepath.Join(dir, "run_1")
	if err := os.WriteFile(filepath.Join(path, "big"), make([]byte, 32<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("32 MiB in 16: %v", err)
	}
	if data, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Count(string(data), path+" ") != 1 {
		t.Errorf("mounts of it: %d, %v", strings.Count(string(data), path+" "), err)
	}
	if runs, err := s.Runs(); err != nil || !slices.Equal(runs, []string{"run_1"}) {
		t.Errorf("%v, %v", runs, err)
	}
	open, err := os.Open(filepath.Join(path, "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := s.Remove("run_1"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	// What a process left that died in the middle is told and removed.
	for _, name := range []string{imageMark + "run_2", imageMark + "run_3.part"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := s.Runs()
	if err != nil || !slices.Equal(runs, []string{"run_2", "run_3"}) {
		t.Errorf("%v, %v", runs, err)
	}
	for _, r := range runs {
		if err := s.Remove(r); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
