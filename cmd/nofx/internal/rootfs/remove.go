package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/sdk/step"
)

// Remove removes a tree that nothing uses.
func (s *Store) Remove(name string) (err error) {
	path, err := s.Find(name)
	if err != nil {
		return err
	}
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := s.unused(name, path); err != nil {
		return err
	}
	away, err := os.MkdirTemp(s.dir, scratch)
	if err != nil {
		return err
	}
	gone := filepath.Join(away, name)
	if err := os.Rename(path, gone); err != nil {
		return err
	}
	// From here on nobody finds it; whoever was faster has it mounted.
	if err := s.unused(name, gone); err != nil {
		return errors.Join(err, os.Rename(gone, path), os.Remove(away))
	}
	if err := os.Remove(s.record(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return rmtree.Remove(away)
}

func (s *Store) unused(name, path string) error {
	u, err := s.uses()
	if err != nil {
		return err
	}
	users, err := u.of(path)
	if err != nil || len(users) == 0 {
		return err
	}
	return step.Errorf(step.KindConflict, "%s is in use by %s", name, strings.Join(users, ", "))
}
