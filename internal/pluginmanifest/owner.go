package pluginmanifest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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

// CheckFolder is CheckOwner for a folder of plugins and for what lies in it
// beside them: programs that they start, modules of one that is interpreted. The
// plugins themselves are not looked at, nor the manifest, which has its signature.
func CheckFolder(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		switch {
		case err == nil && filepath.Dir(path) == dir && (strings.HasPrefix(d.Name(), Prefix) || d.Name() == Name || d.Name() == SignatureName):
			return nil
		case err == nil:
			err = unix.Stat(path, &st) // of what a link leads to
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is being replaced, or leads nowhere
		}
		if err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		return checkOwner(path, st)
	})
}
