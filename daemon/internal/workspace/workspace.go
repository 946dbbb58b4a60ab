// Package workspace keeps the folders that the steps of a run share on this
// host. Each belongs to a uid of its own, and lies in a folder that only root
// can enter; sandboxes see it through an idmapped mount as their own.
package workspace

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/singleflight"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/step"
)

// Store is the folder with the workspaces of all runs.
type Store struct {
	dir    string
	making singleflight.Group // of volumes, by name
}

const (
	goneMark  = ".gone-"  // begins the names of folders that are being removed
	imageMark = ".image-" // and those of the files of workspaces with a limit
	indexMark = ".index-" // and of those that say as what a workspace was saved
)

// Open makes the folder if it is missing, closed to all but root.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: dir}, os.Chmod(dir, 0o700)
}

// Make makes a workspace for uid, unless it is there, and returns its path. It
// holds mb MiB, or what the disk has when mb is 0. The name is a run's, or that
// of an attempt with a workspace of its own.
func (s *Store) Make(ctx context.Context, name string, uid uint32, mb int64) (string, error) {
	if !names(name) {
		return "", step.Errorf(step.KindInvalid, "id %.80q cannot name a folder", name)
	}
	path := filepath.Join(s.dir, name)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if mb == 0 {
		return path, os.Lchown(path, int(uid), int(uid))
	}
	// Steps of one run may begin at the same time, and one of them may be
	// cancelled: the others want it all the same. It takes a bounded time.
	_, err, _ := s.making.Do(name, func() (any, error) {
		return nil, volume.Mount(context.WithoutCancel(ctx), s.image(name), path, mb, uid)
	})
	return path, err
}

// image is the file that a workspace with a limit lies in.
func (s *Store) image(name string) string { return filepath.Join(s.dir, imageMark+name) }

// Path is where the workspace of a run is that has one.
func (s *Store) Path(run string) string { return filepath.Join(s.dir, run) }

// Index is the file that says as what the run's workspace was last saved. It goes
// with the workspace.
func (s *Store) Index(run string) string { return filepath.Join(s.dir, indexMark+run) }

// Next is the file that Index is to be replaced with.
func (s *Store) Next(run string) string { return s.Index(run) + ".next" }

// Remove removes the run's workspace, whatever its steps have made in it. One
// that is not there is no error.
func (s *Store) Remove(run string) error {
	if !names(run) {
		return step.Errorf(step.KindInvalid, "run id %.80q cannot name a folder", run)
	}
	for _, path := range []string{s.Index(run), s.Next(run)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := volume.Unmount(s.image(run), filepath.Join(s.dir, run)); err != nil {
		return err
	}
	gone := filepath.Join(s.dir, goneMark+run)
	// Out of the way first, so that it is whole or not there.
	if err := os.Rename(filepath.Join(s.dir, run), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return rmtree.Remove(gone)
}

// Runs lists the names that have a workspace, after removing what earlier
// removals left.
func (s *Store) Runs() ([]string, error) { return s.runs(rmtree.TryRemove) }

// Look lists the same and removes nothing.
func (s *Store) Look() ([]string, error) { return s.runs(func(string) error { return nil }) }

func (s *Store) runs(remove func(string) error) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = e.IsDir()
	}
	var runs []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goneMark) {
			if err := remove(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		name := e.Name()
		for _, mark := range []string{imageMark, indexMark} {
			if of, ok := strings.CutPrefix(name, mark); ok {
				name, _, _ = strings.Cut(of, ".")
			}
		}
		if name != e.Name() && there[name] {
			continue // told by its folder
		}
		runs = append(runs, name)
	}
	slices.Sort(runs)
	return slices.Compact(runs), nil
}

// names reports whether a run's id can name a folder here.
func names(run string) bool {
	return run != "" && len(run) <= 64 && strings.Trim(run, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}
