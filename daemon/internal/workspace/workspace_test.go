package workspace

import (
	"os"
	"path/filepath"
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
		path, err := s.Make("run-1", uid)
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
		if _, err := s.Make(bad, 70000); !step.Is(err, step.KindInvalid) {
			t.Errorf("make %q: %v", bad, err)
		}
		if err := s.Remove(bad); !step.Is(err, step.KindInvalid) {
			t.Errorf("remove %q: %v", bad, err)
		}
	}
}
