package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/sdk/step"
)

// Source is an archive, and what to call it.
type Source struct {
	io.Reader
	Name string
}

// Import makes a tree from a tar archive, plain or with gzip. At an error
// nothing of it is left.
func (s *Store) Import(ctx context.Context, name string, from Source, limits Limits) (_ Image, err error) {
	lock, err := s.begin(name)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return s.unpack(ctx, name, from, limits)
}

// begin takes the store for a new tree.
func (s *Store) begin(name string) (io.Closer, error) {
	path, err := s.Path(name)
	if err != nil {
		return nil, err
	}
	lock, err := s.lock()
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(step.Errorf(step.KindConflict, "there is a root file system %s already; take another name, or type: nofx rootfs rm %[1]s", name), lock.Close())
	}
	return lock, nil
}

// unpack makes the tree beside its place and moves it there.
func (s *Store) unpack(ctx context.Context, name string, from Source, limits Limits) (i Image, err error) {
	fresh, err := os.MkdirTemp(s.dir, scratch)
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(err, rmtree.Remove(fresh)) }()
	tree := filepath.Join(fresh, name)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return i, err
	}
	archive := open(ctx, from, limits)
	defer archive.Close()
	u, err := unpack(tree, archive, limits)
	if ctx.Err() != nil {
		return i, context.Cause(ctx)
	}
	if err != nil {
		return i, err
	}
	i = Image{
		Name: name, Path: filepath.Join(s.dir, name), Created: time.Now().UTC().Truncate(time.Second),
		Size: u.bytes, Entries: u.entries, Source: from.Name, SHA256: fmt.Sprintf("%x", archive.sum.Sum(nil)), UsedBy: []string{}, Left: u.left,
	}
	if err := flush(tree); err != nil {
		return i, err
	}
	if err := s.write(i); err != nil {
		return i, err
	}
	return i, os.Rename(tree, i.Path)
}

// flush puts a tree on the disk before it gets its name.
func flush(tree string) error {
	f, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}
