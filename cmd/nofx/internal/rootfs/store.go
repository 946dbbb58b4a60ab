// Package rootfs keeps the root file systems of a worker host: folders that
// hold what steps see as their root, made from archives. Nothing in one is
// shared with the host, which executes none of its files.
//
// A store is a folder of root's own. NAME is a tree, .NAME.json is where it
// came from, .new-* is one that is being made. A tree is root's, without
// devices, set-id bits, capabilities and other attributes, and writable by
// nobody else: a sandbox has ids of its own and reads it as a stranger.
package rootfs

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/sdk/step"
)

// Folder is a store's place in a daemon's data folder.
const Folder = "rootfs"

// Image is a root file system of a store.
type Image struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Created time.Time `json:"created"`
	Size    int64     `json:"size"` // bytes in its files
	Entries int       `json:"entries"`
	Source  string    `json:"source"`
	SHA256  string    `json:"sha256"`  // of the archive that it came from
	UsedBy  []string  `json:"used_by"` // whose configuration names it, and what has it mounted
	Left    Left      `json:"left_out"`
}

// Left is what an archive had and its tree has not.
type Left struct {
	Devices    int `json:"devices"`    // devices, pipes and sockets
	SetID      int `json:"set_id"`     // set-id and sticky bits
	Attributes int `json:"attributes"` // entries with extended attributes, such as file capabilities
	// Closed are entries that are there, and that no step can read.
	Closed int `json:"closed"`
}

// Store is a folder of root file systems.
type Store struct {
	dir string
	// Configs are configuration files of daemons, to see what they use. One
	// that is not there uses nothing.
	Configs []string
}

// Open opens the store at dir, and makes it if it is not there.
func Open(dir string) (*Store, error) {
	if os.Geteuid() != 0 {
		return nil, step.Errorf(step.KindForbidden, "root file systems belong to root; type: sudo nofx rootfs")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, step.Errorf(step.KindInvalid, "%w", err)
	}
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "%w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(real, &st); err != nil {
		return nil, step.Errorf(step.KindInvalid, "%w", &fs.PathError{Op: "stat", Path: real, Err: err})
	}
	if st.Uid != 0 || st.Mode&0o077 != 0 {
		return nil, step.Errorf(step.KindInvalid, "%s is open to others than root; type: chown root %[1]s && chmod 700 %[1]s", real)
	}
	return &Store{dir: real}, nil
}

// At is a store to look for trees in, whether or not it is there.
func At(dir string) *Store { return &Store{dir: dir} }

var names = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Path is where the tree of a name is, or would be.
func (s *Store) Path(name string) (string, error) {
	if !names.MatchString(name) {
		return "", step.Errorf(step.KindInvalid, "name %.100q: 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit", name)
	}
	return filepath.Join(s.dir, name), nil
}

// Find gives the path of a tree that is there.
func (s *Store) Find(name string) (string, error) {
	path, err := s.Path(name)
	if err != nil {
		return "", err
	}
	if st, err := os.Lstat(path); err != nil || !st.IsDir() {
		return "", step.Errorf(step.KindNotFound, "there is no root file system %s in %s; see nofx rootfs list", name, s.dir)
	}
	return path, nil
}

// List gives all trees, by name.
func (s *Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []Image{}, nil
	}
	if err != nil {
		return nil, err
	}
	u, err := s.uses()
	if err != nil {
		return nil, err
	}
	images := []Image{}
	for _, e := range entries {
		if !e.IsDir() || !names.MatchString(e.Name()) {
			continue
		}
		i, err := s.read(e.Name())
		if err != nil {
			return nil, err
		}
		if i.UsedBy, err = u.of(i.Path); err != nil {
			return nil, err
		}
		images = append(images, i)
	}
	return images, nil
}

func (s *Store) record(name string) string { return filepath.Join(s.dir, "."+name+".json") }

const maxRecord = 64 << 10

// read gives a tree's record. A folder that somebody put there has none.
func (s *Store) read(name string) (Image, error) {
	i := Image{Name: name, Source: "unknown"}
	f, err := os.Open(s.record(name))
	if err == nil {
		defer f.Close()
		err = json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&i)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return i, step.Errorf(step.KindInternal, "%s: %w", s.record(name), err)
	}
	i.Name, i.Path, i.UsedBy = name, filepath.Join(s.dir, name), []string{}
	return i, nil
}

// write writes a tree's record, before the tree is there.
func (s *Store) write(i Image) error {
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return renameio.WriteFile(s.record(i.Name), append(data, '\n'), 0o600)
}

// lock keeps others that change the store away, and removes what one of them
// left when it was killed.
func (s *Store) lock() (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, step.Errorf(step.KindConflict, "another nofx rootfs is at work in %s; wait for it", s.dir)
	}
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), scratch) { // a file is the record of a tree
			err = errors.Join(err, rmtree.Remove(filepath.Join(s.dir, e.Name())))
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// scratch begins the names of folders that are not trees yet, or not any more.
const scratch = ".new-"
