package pluginmanifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OwnershipError is why a file must not be trusted: somebody else could
// replace what is in it.
type OwnershipError struct {
	Path     string
	Writable bool // by the group or by everybody; else it is a stranger's
}

func (e *OwnershipError) Error() string {
	if e.Writable {
		return e.Path + " can be written by others than its owner"
	}
	return e.Path + " does not belong to root"
}

// CheckOwner refuses a file or folder that others than root, or who we are,
// could change: *OwnershipError.
func CheckOwner(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	return checkOwner(f.Name(), st)
}

func checkOwner(path string, st unix.Stat_t) error {
	switch {
	case st.Mode&0o022 != 0:
		return &OwnershipError{Path: path, Writable: true}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return &OwnershipError{Path: path}
	}
	return nil
}

// maxEntries bounds what is looked at below one folder.
const maxEntries = 100_000

// CheckFolder is CheckOwner for a folder of plugins and for what lies in it
// beside them: programs that they start, modules of one that is interpreted, and
// what links lead to; and CheckParents for all of it. The plugins themselves are
// not looked at, nor the manifest, which has its signature.
func CheckFolder(dir string) error {
	if err := CheckParents(dir); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	c := folderCheck{of: dir, dir: dir, seen: map[string]bool{}}
	return c.tree(dir)
}

// folderCheck is one CheckFolder under way.
type folderCheck struct {
	of      string          // for errors
	dir     string          // of plugins, which are not looked at; "" = none are left out
	seen    map[string]bool // trees
	entries int
}

// tree looks at a file, or at a folder and all that is in it. No part of its
// path is a link.
func (c *folderCheck) tree(root string) error {
	if c.seen[root] {
		return nil
	}
	c.seen[root] = true
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if c.entries++; c.entries > maxEntries {
			return fmt.Errorf("%s: it and what its links lead to hold more than %d files", c.of, maxEntries)
		}
		var st unix.Stat_t
		switch {
		case err == nil && filepath.Dir(path) == c.dir && vouched(d.Name()):
			return nil
		case err == nil && d.Type()&fs.ModeSymlink != 0:
			return c.link(path)
		case err == nil:
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is being replaced
		}
		if err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		return checkOwner(path, st)
	})
}

// link looks at what a link leads to, if anything.
func (c *folderCheck) link(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := CheckParents(target); err != nil {
		return err
	}
	return c.tree(target)
}

// CheckParents refuses a path when somebody else than root, or who we are, could
// put another file in its place: *OwnershipError. Every folder above it is looked
// at, as the path is written and as its links lead. One that all may write to, but
// in which nobody can touch another's files, such as /tmp, will do.
func CheckParents(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, at := range []string{path, real} {
		for at != "/" {
			at = filepath.Dir(at)
			var st unix.Stat_t
			if err := unix.Stat(at, &st); err != nil {
				return &fs.PathError{Op: "stat", Path: at, Err: err}
			}
			if st.Mode&unix.S_ISVTX != 0 {
				st.Mode &^= 0o022
			}
			if err := checkOwner(at, st); err != nil {
				return err
			}
		}
	}
	return nil
}
