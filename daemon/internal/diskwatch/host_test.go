package diskwatch

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fill writes a file of so many bytes, and the disk knows of them.
func fill(t *testing.T, path string, size int) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return f
}

func size(t *testing.T, dir string, most int64, pids ...int) Size {
	t.Helper()
	s, err := Host(dir).Size(t.Context(), dir, most, pids)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// above reports whether n is at least want, and by less than what folders take more.
func above(n, want int64) bool { return n >= want && n < want+mb/2 }

func TestSize(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	if s := size(t, dir, 0); !above(s.Bytes, 0) || s.Files != 1 || s.Part {
		t.Errorf("empty: %+v", s)
	}
	fill(t, filepath.Join(outside, "big"), 8*mb)
	fill(t, filepath.Join(dir, "file"), 2*mb)
	sparse := fill(t, filepath.Join(dir, "sparse"), mb)
	if err := sparse.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o000|0o700); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "a", "b", "file"), mb)
	for name, to := range map[string]string{"dir": outside, "file": filepath.Join(outside, "big"), "up": "..", "self": "."} {
		if err := os.Symlink(to, filepath.Join(dir, "link-"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if err := os.Link(filepath.Join(dir, "file"), filepath.Join(dir, fmt.Sprint("again-", i))); err != nil {
			t.Fatal(err)
		}
	}
	if s := size(t, dir, 0); !above(s.Bytes, 4*mb) || s.Files != 1+3+2+4 || s.Part {
		t.Errorf("%+v", s)
	}
	if s := size(t, dir, 5); s.Files != 6 || !s.Part {
		t.Errorf("at most 5 files: %+v", s)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "a", "b"), "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Join(dir, "a", "b"), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	fill(t, filepath.Join(dir, "a", "b", "other"), 3*mb)
	if s := size(t, dir, 0); !above(s.Bytes, 3*mb) {
		t.Errorf("another file system below it: %+v", s)
	}
}

// A tree may be deeper than descriptors are kept.
func TestDeep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const deep = 300
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range deep {
		for _, name := range []string{"0", "down", "zz"} {
			if err := unix.Mkdirat(fd, name, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		below, err := unix.Openat(fd, "down", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = below
	}
	_ = unix.Close(fd)
	if s := size(t, dir, 0); s.Files != 1+3*deep || s.Part {
		t.Errorf("%+v, want %d folders", s, 1+3*deep)
	}
}

// What has no name any more counts as long as somebody holds it.
func TestHeld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := fill(t, filepath.Join(dir, "file"), 2*mb)
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	again, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(again) })
	if s := size(t, dir, 0); !above(s.Bytes, 0) {
		t.Errorf("nobody's: %+v", s)
	}
	// The only one of this process that is deleted: tests beside it keep theirs.
	if s := size(t, dir, 0, os.Getpid(), 1<<30); !above(s.Bytes, 2*mb) {
		t.Errorf("held: %+v", s)
	}
}

// Who moves everything about while it is looked at breaks nothing.
func TestRestless(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "0", "1", "2"), 0o700); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			at := filepath.Join(dir, "x")
			_ = os.Rename(filepath.Join(dir, "0", "1"), at) // one of them is there
			_ = os.Symlink("/", filepath.Join(dir, "0", "1"))
			_ = os.Remove(filepath.Join(dir, "0", "1"))
			_ = os.Rename(at, filepath.Join(dir, "0", "1"))
		}
	}()
	for range 2000 {
		if s := size(t, dir, 0); s.Files > 5 {
			t.Errorf("%+v", s)
		}
	}
	close(stop)
	<-stopped
}

func TestUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if u, err := Host(dir).Use(); err != nil || u.Size <= 0 || u.Used <= 0 || u.Used+u.Free > u.Size {
		t.Errorf("%+v, %v", u, err)
	}
	if v, err := Host(dir).Volume(dir); err == nil {
		t.Errorf("a plain folder: %+v", v)
	}
}
