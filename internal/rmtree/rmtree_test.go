package rmtree_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/rmtree"
)

// deep makes a chain of n folders below dir, each of a long name.
func deep(t *testing.T, dir string, n int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 255)
	for range n {
		if err := unix.Mkdirat(fd, name, 0o000); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	_ = unix.Close(fd)
}

func TestHostileTree(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	if err := os.WriteFile(outside, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "tree")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	deep(t, dir, 10_000)
	for i, name := range []string{"new\nline", "\xff\xfe", "-rf", "..gone.1", "..gone.99", "..."} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(base, filepath.Join(dir, name, fmt.Sprint("link", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rmtree.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("it is left: %v", err)
	}
	if raw, err := os.ReadFile(outside); err != nil || string(raw) != "canary" {
		t.Errorf("what links led to: %q, %v", raw, err)
	}
	if err := rmtree.Remove(dir); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestALinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	if err := os.Mkdir(filepath.Join(base, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if err := rmtree.Remove(filepath.Join(base, "link")); err == nil {
		t.Error("a link in place of the folder was followed")
	}
	if _, err := os.Stat(filepath.Join(base, "real")); err != nil {
		t.Error(err)
	}
}
