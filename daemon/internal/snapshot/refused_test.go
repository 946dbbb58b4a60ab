package snapshot_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/daemon/internal/snapshot"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make  func(dir string) error
		limit int64
		want  string
	}{
		"sparse file": {func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "f"), nil, 0o600), os.Truncate(filepath.Join(dir, "f"), 1<<40))
		}, room, "too_large"},
		"large":      {func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), make([]byte, 2000), 0o600) }, 1000, "too_large"},
		"fits":       {func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), make([]byte, 500), 0o600) }, 1000, ""},
		"deep":       {func(dir string) error { return os.MkdirAll(dir+strings.Repeat("/d", 501), 0o700) }, room, "too_deep"},
		"deep names": {func(dir string) error { return deep(dir, strings.Repeat("n", 200), 21) }, room, "too_deep"},
		"not deep":   {func(dir string) error { return os.MkdirAll(dir+strings.Repeat("/d", 500), 0o700) }, room, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &chain{dir: t.TempDir()}
			must(t, tc.make(c.dir))
			_, err := c.save(t.Context(), tc.limit)
			var refused *snapshot.RefusedError
			if errors.As(err, &refused) != (tc.want != "") || refused != nil && refused.Reason != tc.want || tc.want == "" && err != nil {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if tc.want == "" {
				same(t, c)
			}
		})
	}
}

// Sizes that add up to more than there are numbers are too large, too: where the
// file system has files of any size, a step can make them of nothing.
func TestEndlessFiles(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/dev/shm", "nofx-snapshot-") // ext4 has none
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	for _, name := range []string{"a", "b"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600), os.Truncate(filepath.Join(dir, name), math.MaxInt64))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var refused *snapshot.RefusedError
	if _, err := (&chain{dir: dir}).save(ctx, room); !errors.As(err, &refused) || refused.Reason != "too_large" {
		t.Errorf("%v, want too_large", err)
	}
}

// A list of what is gone that no tree can have made is not taken apart.
func TestEndlessList(t *testing.T) {
	t.Parallel()
	for n, refused := range map[int]bool{snapshot.MaxEntries: false, snapshot.MaxEntries + 2: true} {
		var layer bytes.Buffer
		z := gzip.NewWriter(&layer)
		w := tar.NewWriter(z)
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "gone", Size: int64(n), Format: tar.FormatPAX}))
		_, err := w.Write(make([]byte, n))
		must(t, err, w.Close(), z.Close())
		r, err := snapshot.Into(t.TempDir(), uid)
		must(t, err)
		if err := r.Apply(t.Context(), &layer, room); (err != nil) != refused {
			t.Errorf("%d: %v", n, err)
		}
		must(t, r.Close())
	}
}

// deep makes folders whose path is longer than one that can be named.
func deep(dir, name string, n int) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for ; n > 0 && err == nil; n-- {
		if err = unix.Mkdirat(fd, name, 0o700); err != nil {
			break
		}
		above := fd
		fd, err = unix.Openat(above, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		err = errors.Join(err, unix.Close(above))
	}
	return errors.Join(err, unix.Close(fd))
}
