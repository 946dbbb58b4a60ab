package supervised

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A removal that was interrupted is finished by the next process.
func TestInterruptedRemoval(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), goneMark+"x")
	for _, p := range []string{"..gone.1/a/b", "..gone.3/c", "workspace/d/e/f", "..gone.x"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := New("x", nil).removeRemains(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// A folder whose sandbox nobody knows, for its spec was not written or went with
// the host's power, goes. What is no sandbox's stays, and so does what may be in
// the making, also by another process.
func TestRemainsWithoutSpec(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, file := range map[string]string{"empty": "", "part": specFile + ".part", "torn": specFile, "other": "notes", "lost+found": specFile, "whole": specFile} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if file == "" {
			continue
		}
		data := ""
		if name == "whole" {
			data = "{}"
		}
		if err := os.WriteFile(filepath.Join(dir, name, file), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "torn", workspaceName, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := New("x", nil)
	old := time.Now().Add(-makingTime)
	age := func(name string) {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"empty", "torn", "other", "lost+found", "whole"} {
		age(name)
	}
	work, err := b.locks.Lock(t.Context(), filepath.Join(dir, "empty"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"empty", "lost+found", "other", "part", "whole"}, {"lost+found", "other", "whole"}} {
		if err := b.removeRemains(dir); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if !slices.Equal(got, want) {
			t.Errorf("there are %v, want %v", got, want)
		}
		if want[0] == "empty" {
			work()
			age("part")
		}
	}
}
