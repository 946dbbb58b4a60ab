// Package workspace keeps the folders that the steps of a run share on this
// host. Each belongs to a uid of its own, and lies in a folder that only root
// can enter; sandboxes see it through an idmapped mount as their own.
package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/sdk/step"
)

// Store is the folder with the workspaces of all runs.
type Store struct{ dir string }

// goneMark begins the names of folders that are being removed.
const goneMark = ".gone-"

// Open makes the folder if it is missing, closed to all but root.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: dir}, os.Chmod(dir, 0o700)
}

// Make makes the run's workspace for uid, unless it is there, and returns its
// path.
func (s *Store) Make(run string, uid uint32) (string, error) {
	if !names(run) {
		return "", step.Errorf(step.KindInvalid, "run id %.80q cannot name a folder", run)
	}
	path := filepath.Join(s.dir, run)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return path, os.Lchown(path, int(uid), int(uid))
}

// Remove removes the run's workspace, whatever its steps have made in it. One
// that is not there is no error.
func (s *Store) Remove(run string) error {
	if !names(run) {
		return step.Errorf(step.KindInvalid, "run id %.80q cannot name a folder", run)
	}
	gone := filepath.Join(s.dir, goneMark+run)
	// Out of the way first, so that it is whole or not there.
	if err := os.Rename(filepath.Join(s.dir, run), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return rmtree.Remove(gone)
}

// Runs lists the runs that have a workspace, after removing what earlier
// removals left.
func (s *Store) Runs() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var runs []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goneMark) {
			if err := rmtree.TryRemove(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		runs = append(runs, e.Name())
	}
	return runs, nil
}

// names reports whether a run's id can name a folder here.
func names(run string) bool {
	return run != "" && len(run) <= 64 && strings.Trim(run, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}
